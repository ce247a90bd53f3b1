package tokens

import (
	"math"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hostile are bodies that would make a careless walk quadratic or deep: a
// beginning, and what is repeated behind it.
var hostile = map[string][2]string{
	"one letter":     {`"`, "a"},
	"backslashes":    {`"`, `\`},
	"escaped quotes": {`"`, `\"`},
	"surrogates":     {`"`, `\ud83d`},
	"bad utf-8":      {`"`, "\xe4"},
	"newlines":       {`"`, "\n"},
	"quotes":         {`"`, `"`},
	"commas":         {`[`, `,`},
	"open arrays":    {`[`, `[`},
	"open objects":   {`[`, `{"content":[`},
	"open images":    {`[{"content":[`, `{"image_url":{"url":`},
	"tool wrappers":  {`[`, `{"function":`},
}

// BenchmarkEstimate_hostile measures a megabyte against 64 KB of the same in one
// run, in the thread's own time because others use the machine too, and reports
// the worst quotient; 16 is linear.
func BenchmarkEstimate_hostile(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	e := New(Config{})
	cost := func(body []byte, times int) float64 { // of one, the best of some rounds
		best := math.Inf(1)
		for range 5 {
			start := cpuTime()
			for range times {
				e.Estimate(Key{}, Request{Messages: body, Tools: body, Prompt: body})
			}
			best = min(best, float64(cpuTime()-start)/float64(times))
		}
		return max(best, 1)
	}
	worst := 0.0
	for b.Loop() {
		for name, parts := range hostile {
			body := []byte(parts[0] + strings.Repeat(parts[1], 1<<20/len(parts[1])))
			small, large := cost(body[:64<<10], 64), cost(body, 4)
			b.Logf("%-15s 64 KB in %6.0f µs, 1 MB in %6.0f µs", name, small/1e3, large/1e3)
			if small > 1e4 { // else it was refused at its first bytes
				worst = max(worst, large/small)
			}
		}
	}
	b.ReportMetric(worst, "1MB/64KB")
}

// cpuTime is what this thread has computed so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_THREAD, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
