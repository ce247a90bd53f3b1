//go:build !unix

package main

// forbidCoreDumps does nothing where there are none.
func forbidCoreDumps() {}
