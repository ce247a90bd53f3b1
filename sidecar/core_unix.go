//go:build unix

package main

import "syscall"

// forbidCoreDumps keeps keys and prompts out of core files. Where the system
// refuses, the operator's own limit stays.
func forbidCoreDumps() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
