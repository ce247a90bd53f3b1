package ledger

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadCPU is the processor's time that the calling thread has had; the caller has locked it.
func threadCPU() time.Duration {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at); err != nil {
		return 0
	}
	return time.Duration(at.Nano())
}
