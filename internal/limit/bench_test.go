package limit

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// Compare within one run: two WaitN and the refunds are the equivalent work.

func BenchmarkLimiter_AcquireSettle(b *testing.B) {
	l := New(Config{Global: Limits{RequestsPerMinute: 1e12, TokensPerMinute: 1e15}})
	defer l.Close()
	ctx := context.Background()
	r := Request{Model: "m", Client: "c", Session: "s", Demand: llm.Demand{Input: 100, Output: 100}}
	le, _ := l.Acquire(ctx, r)
	le.Settle(llm.Usage{Input: 1})
	le.Release()
	b.ReportAllocs()
	for b.Loop() {
		le, err := l.Acquire(ctx, r)
		if err != nil {
			b.Fatal(err)
		}
		le.Settle(llm.Usage{Input: 90, Output: 80})
		le.Release()
	}
}

func BenchmarkRate_TwoWaitNAndRefund(b *testing.B) {
	requests, tokens := rate.NewLimiter(1e10, 1e9), rate.NewLimiter(1e12, 1e12)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		_ = requests.WaitN(ctx, 1)
		_ = tokens.WaitN(ctx, 200)
		tokens.AllowN(time.Now(), -30)
	}
}

// BenchmarkLimiter_AgainstRate takes turns between the two, a thousand calls
// each, and compares their best turns: what else runs on the machine then
// weighs on both alike. x/rate is the promise.
func BenchmarkLimiter_AgainstRate(b *testing.B) {
	for _, sessions := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d_sessions", sessions), func(b *testing.B) {
			l := New(Config{Global: Limits{RequestsPerMinute: 1e12, TokensPerMinute: 1e15}})
			defer l.Close()
			requests, tokens := rate.NewLimiter(1e10, 1e9), rate.NewLimiter(1e12, 1e12)
			ctx := context.Background()
			rs := make([]Request, sessions)
			for i := range rs {
				rs[i] = Request{Model: "gpt-4o", Client: "web", Session: fmt.Sprint("agent-", i), Demand: llm.Demand{Input: 100, Output: 100}}
				le, err := l.Acquire(ctx, rs[i]) // makes the session
				if err != nil {
					b.Fatal(err)
				}
				le.Settle(llm.Usage{Input: 90, Output: 80})
			}
			const turn = 1000
			ours, theirs := time.Hour, time.Hour
			for b.Loop() {
				start := time.Now()
				next := 0
				for range turn {
					if next++; next == sessions {
						next = 0
					}
					le, err := l.Acquire(ctx, rs[next])
					if err != nil {
						b.Fatal(err)
					}
					le.Settle(llm.Usage{Input: 90, Output: 80})
					le.Release()
				}
				ours = min(ours, time.Since(start))
				start = time.Now()
				for range turn {
					_ = requests.WaitN(ctx, 1)
					_ = tokens.WaitN(ctx, 200)
					tokens.AllowN(time.Now(), -30)
				}
				theirs = min(theirs, time.Since(start))
			}
			b.ReportMetric(float64(ours)/turn, "ns/ours")
			b.ReportMetric(float64(theirs)/turn, "ns/theirs")
			b.ReportMetric(float64(ours)/float64(theirs), "x/rate")
		})
	}
}

func BenchmarkSemaphore_AcquireRelease(b *testing.B) {
	s := semaphore.NewWeighted(1e9)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Acquire(ctx, 1)
		s.Release(1)
	}
}

// queued fills a core with n requests over 1,000 sessions, that may all go now.
func queued(tb testing.TB, n int) *core {
	c, _ := queuedLeases(tb, n)
	return c
}

func queuedLeases(tb testing.TB, n int) (*core, []*Lease) {
	cfg, v := valved(Config{MaxWaiting: n + 1, Global: Limits{TokensPerMinute: 1e15}, Profile: "postpaid"}.withDefaults())
	c := newCore(cfg, 0)
	answered(c, "m", 0)
	sessions := make([]string, 1000)
	for i := range sessions {
		sessions[i] = fmt.Sprint(i)
	}
	all := make([]*Lease, n)
	for i := range all {
		r := Request{Model: "m", Session: sessions[i%1000], Demand: llm.Demand{Input: int64(300 + i%7700)}}
		le, rejected := arrive(c, r, 1<<62, 0)
		if rejected != nil {
			tb.Fatal(rejected)
		}
		all[i] = le
	}
	v.open = true
	return c, all
}

// BenchmarkCore_Dispatch times every hold of the lock. The median of them is
// what a busy machine distorts least.
func BenchmarkCore_Dispatch(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("%d_waiting", n), func(b *testing.B) {
			c := queued(b, n)
			left := n
			var holds []time.Duration
			for b.Loop() {
				if left < pumpBatch {
					b.StopTimer()
					c = queued(b, n)
					left = n
					b.StartTimer()
				}
				start := time.Now()
				c.pump(0, pumpBatch)
				holds = append(holds, time.Since(start))
				left -= len(c.done)
				c.done = c.done[:0]
			}
			slices.Sort(holds)
			b.ReportMetric(float64(holds[len(holds)/2])/pumpBatch, "ns/grant")
		})
	}
}

// BenchmarkLimiter_Blocked blocks callers in Acquire and reports the heap that each
// takes beside its goroutine's stack: the lease, its channel, and the runtime's own
// two records of a goroutine in a select.
func BenchmarkLimiter_Blocked(b *testing.B) {
	const n = 20_000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var blocked float64
	for b.Loop() {
		l := New(Config{Global: Limits{Concurrent: 1}, MaxWaiting: n, MaxWait: time.Hour})
		first, err := l.Acquire(context.Background(), Request{Model: "m"})
		if err != nil {
			b.Fatal(err)
		}
		before := heap()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				le, err := l.Acquire(context.Background(), Request{Model: "m", Session: "s", Bytes: int64(i)})
				if err == nil {
					le.Release()
				}
			})
		}
		for l.Waiting() < n {
			runtime.Gosched()
		}
		blocked = float64(heap()-before) / n
		first.Release()
		wg.Wait()
		l.Close()
	}
	b.ReportMetric(blocked, "B/blocked")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/blocked+served")
}

// BenchmarkCore_Cancel reports the median of a hundred cancellations, see above.
func BenchmarkCore_Cancel(b *testing.B) {
	const n, turn = 1_000_000, 100
	c, all := queuedLeases(b, n)
	i := 0
	var turns []time.Duration
	for b.Loop() {
		if i == n {
			b.StopTimer()
			c, all = queuedLeases(b, n)
			i = 0
			b.StartTimer()
		}
		start := time.Now()
		for range turn {
			c.cancel(all[(i*7919)%n], 0)
			i++
		}
		turns = append(turns, time.Since(start))
	}
	slices.Sort(turns)
	b.ReportMetric(float64(turns[len(turns)/2])/turn, "ns/cancel")
}
