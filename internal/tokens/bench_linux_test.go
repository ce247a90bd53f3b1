package tokens

import (
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// BenchmarkEstimate_hostile measures a megabyte against 64 KB of the same in one
// run, in the thread's own time because others use the machine too, and reports
// the worst quotient; 16 is linear. Caches shared with other programs still make
// it vary, each time at another body, by more than a bound of 20 leaves:
// TestEstimate_IsLinear counts instead; this tells the time.
func BenchmarkEstimate_hostile(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	e := New(Config{})
	// Both sizes are timed over the same sixteen times 64 KB, else the short ones
	// would find a quiet moment of the machine where the long ones cannot.
	cost := func(body []byte, times int) time.Duration {
		best := time.Hour
		for range 12 {
			start := threadTime()
			for range times {
				e.Estimate(Key{}, Request{Messages: body, Tools: body, Prompt: body})
			}
			best = min(best, (threadTime()-start)/time.Duration(times))
		}
		return best
	}
	worst := 0.0
	for b.Loop() {
		for name := range hostile {
			body := hostileBody(name, 1<<20)
			small, large := cost(body[:64<<10], 16), cost(body, 1)
			if small < 10*time.Microsecond {
				continue // done with at its first bytes
			}
			if ratio := float64(large) / float64(small); ratio > worst {
				worst = ratio
				b.Logf("%s: 64 KB in %v, 1 MB in %v", name, small, large)
			}
		}
	}
	b.ReportMetric(worst, "1MB/64KB")
}

// threadTime is what this thread has computed so far, to the nanosecond, which
// getrusage does not give.
func threadTime() time.Duration {
	const clockThreadCPUTime = 3
	var ts syscall.Timespec
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockThreadCPUTime, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic(errno)
	}
	return time.Duration(ts.Nano())
}
