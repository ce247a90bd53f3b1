//go:build !unix

package main

import "time"

func harden() {}

func maxFiles() int { return 0 }

func monotonic() time.Duration { return 0 }
