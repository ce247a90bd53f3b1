package sidecartest

import (
	"testing"
	"time"
)

// Eventually waits for what other processes, or the program's own timers, bring about.
func Eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	end := time.After(30 * time.Second)
	for !done() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-end:
			t.Fatalf("%s: it did not happen within 30 s", what)
		}
	}
}
