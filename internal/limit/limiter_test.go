package limit

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// TestMain sets the number of random histories to 1,000 where -rapid.checks
// does not say another.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		_ = flag.Set("rapid.checks", "1000")
	}
	goleak.VerifyTestMain(m)
}

func request(session string) Request {
	return Request{Model: "m", Session: session, Demand: llm.Demand{Input: 100, Output: 100}}
}

// mustAcquire fails the test when r is refused.
func mustAcquire(t *testing.T, l *Limiter, r Request) *Lease {
	t.Helper()
	le, err := l.Acquire(t.Context(), r)
	if err != nil {
		t.Fatalf("acquire: %v", err)
	}
	return le
}

func wantReason(t *testing.T, err error, want Reason) *Rejected {
	t.Helper()
	var r *Rejected
	if !errors.As(err, &r) {
		t.Fatalf("error = %v, want *Rejected %v", err, want)
	}
	if r.Reason != want {
		t.Fatalf("reason = %v, want %v", r.Reason, want)
	}
	return r
}

func TestLimiter_FirstThreeOfAFreshMinuteDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Global: Limits{RequestsPerMinute: 60}})
		defer l.Close()
		start := time.Now()
		for i := range 8 { // a cold start may use a tenth: six
			le := mustAcquire(t, l, request("a"))
			le.Sent()
			le.Settle(llm.Usage{Input: 100, Output: 100})
			waited := time.Since(start)
			if i < 6 && waited != 0 {
				t.Errorf("call %d waited %v", i+1, waited)
			}
			if i == 7 && (waited < 1900*time.Millisecond || waited > 2300*time.Millisecond) {
				t.Errorf("call 8 came after %v, want about 2 s", waited)
			}
			if le.Waited() > 1100*time.Millisecond {
				t.Errorf("call %d: Waited = %v", i+1, le.Waited())
			}
		}
	})
}

func TestLimiter_IdleBucketFillsToItsCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Global: Limits{RequestsPerMinute: 60}})
		defer l.Close()
		<-time.After(2 * time.Minute)
		n := 0
		for l.Forecast(request("a")).Wait == 0 {
			mustAcquire(t, l, request("a")).Sent()
			n++
		}
		if n < 59 || n > 60 {
			t.Errorf("after two idle minutes %d went at once, want the whole limit of 60", n)
		}
	})
}

func TestLimiter_AcquireWaitsForCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{TokensPerMinute: 60_000}}}})
		defer l.Close()
		l.Prime(Recent{Model: "m", Requests: 1, Input: 60_000})
		start := time.Now()
		r := request("a")
		r.Demand = llm.Demand{Input: 5_000}
		mustAcquire(t, l, r).Sent()
		// 5,000 tokens at 1,000 a second, and the guard of a quarter second.
		if got, want := time.Since(start), 5250*time.Millisecond; (got - want).Abs() > time.Millisecond {
			t.Errorf("waited %v, want %v", got, want)
		}
	})
}

func TestLimiter_WhatFitsDoesNotOvertakeTheHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{TokensPerMinute: 60_000}, Profile: "postpaid"}}})
		defer l.Close()
		l.Prime(Recent{Model: "m", Requests: 1, Input: 60_000})
		<-time.After(500 * time.Millisecond) // 500 tokens
		waited := map[string]time.Duration{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, r := range []Request{
			{Model: "m", Session: "large", Demand: llm.Demand{Input: 1000}},
			{Model: "m", Session: "small", Demand: llm.Demand{Input: 10}},
		} {
			wg.Go(func() {
				le := mustAcquire(t, l, r)
				le.Sent()
				mu.Lock()
				waited[r.Session] = le.Waited()
				mu.Unlock()
			})
			synctest.Wait()
		}
		wg.Wait()
		if waited["small"] < waited["large"] || waited["large"] < time.Second {
			t.Errorf("the small one waited %v, the head of the queue %v", waited["small"], waited["large"])
		}
	})
}

func TestLimiter_OversizeWaitsForAFullBucketAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{TokensPerMinute: 60_000}}}})
		defer l.Close()
		start := time.Now()
		r := request("a")
		r.Demand = llm.Demand{Input: 100_000}
		mustAcquire(t, l, r).Sent()
		if got := time.Since(start); got < 50*time.Second || got > 60*time.Second {
			t.Errorf("went after %v, want when the bucket is full", got)
		}
		if level := l.Snapshot().Groups[1].Meters[0].Level; level > -39_000 {
			t.Errorf("level = %v, want a debt of 40,000", level)
		}
	})
}

func TestLimiter_CancelFreesThePlaceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Global: Limits{Concurrent: 1}})
		defer l.Close()
		first := mustAcquire(t, l, request("a"))
		ctx, cancel := context.WithCancelCause(t.Context())
		left := errors.New("hung up")
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := l.Acquire(ctx, request("a")); !errors.Is(err, left) {
				t.Errorf("error = %v, want the cause", err)
			}
		})
		synctest.Wait()
		if l.Waiting() != 1 {
			t.Fatalf("waiting = %d", l.Waiting())
		}
		cancel(left)
		wg.Wait()
		if l.Waiting() != 0 {
			t.Errorf("waiting = %d after the caller left", l.Waiting())
		}
		first.Release()
		first.Release()
		if l.InFlight() != 0 {
			t.Errorf("in flight = %d", l.InFlight())
		}
		mustAcquire(t, l, request("b")).Release()
	})
}

func TestLimiter_WaitersExpireAtTheirDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Global: Limits{Concurrent: 1}})
		defer l.Close()
		defer mustAcquire(t, l, request("a")).Release()
		r := request("b")
		r.MaxWait = 3 * time.Second
		start := time.Now()
		_, err := l.Acquire(t.Context(), r)
		wantReason(t, err, QueueTimeout)
		if got := time.Since(start); got < r.MaxWait || got > r.MaxWait+20*time.Millisecond {
			t.Errorf("refused after %v, want %v", got, r.MaxWait)
		}
	})
}

func TestLimiter_UnreachableDeadlineIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{RequestsPerMinute: 6}}}})
		defer l.Close()
		for range 3 {
			mustAcquire(t, l, request("a")).Sent()
		}
		start := time.Now()
		r := request("a")
		r.MaxWait = 2 * time.Second
		_, err := l.Acquire(t.Context(), r)
		rej := wantReason(t, err, DeadlineUnreachable)
		if time.Since(start) != 0 {
			t.Error("the refusal waited")
		}
		if rej.Forecast < 9*time.Second || rej.Limit != "requests_per_minute" {
			t.Errorf("refusal = %+v", rej)
		}
		if rej.RetryAfter < time.Second || rej.RetryAfter > 59*time.Second {
			t.Errorf("retry after = %v", rej.RetryAfter)
		}
	})
}

func TestLimiter_ThrottledGoesBackToTheHeadOfItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Global: Limits{Concurrent: 1}, Learn: true})
		defer l.Close()
		first := mustAcquire(t, l, request("a"))
		first.Sent()
		var order []string
		var wg sync.WaitGroup
		wg.Go(func() {
			le := mustAcquire(t, l, request("a"))
			order = append(order, "second")
			le.Release()
		})
		synctest.Wait()
		start := time.Now()
		if err := first.Throttled(t.Context(), llm.Signal{RetryAfter: 2 * time.Second, HasRetryAfter: true}); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got < 2*time.Second || got > 2300*time.Millisecond {
			t.Errorf("paused %v, want the 2 s that were asked for", got)
		}
		order = append(order, "first")
		if first.Attempt() != 2 || first.Waited() < 2*time.Second {
			t.Errorf("attempt %d, waited %v", first.Attempt(), first.Waited())
		}
		first.Settle(llm.Usage{})
		wg.Wait()
		if fmt.Sprint(order) != "[first second]" {
			t.Errorf("order = %v", order)
		}
	})
}

func TestLimiter_AttemptsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{MaxAttempts: 3})
		defer l.Close()
		le := mustAcquire(t, l, request("a"))
		var err error
		for err == nil {
			le.Sent()
			err = le.Throttled(t.Context(), llm.Signal{RetryAfter: time.Second, HasRetryAfter: true})
		}
		wantReason(t, err, AttemptsExhausted)
		if le.Attempt() != 3 {
			t.Errorf("attempts = %d, want 3", le.Attempt())
		}
		if l.InFlight() != 0 {
			t.Errorf("in flight = %d", l.InFlight())
		}
		if err := le.Throttled(t.Context(), llm.Signal{}); !errors.Is(err, ErrEnded) {
			t.Errorf("on an ended lease: %v", err)
		}
	})
}

func TestLimiter_RetryWaitsAndReturnsTheCharge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{RequestsPerMinute: 60}}}})
		defer l.Close()
		le := mustAcquire(t, l, request("a"))
		start := time.Now()
		if err := le.Unavailable(t.Context(), 1500*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got != 1500*time.Millisecond {
			t.Errorf("waited %v", got)
		}
		le.Release()
		if level := l.Snapshot().Groups[1].Meters[0].Level; level < 6+1.5 {
			t.Errorf("level = %v, want everything back", level)
		}
	})
}

func TestLimiter_RejectWaitingRefusesTheQueueAndNewcomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Global: Limits{Concurrent: 1}})
		defer l.Close()
		first := mustAcquire(t, l, request("a"))
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				le, err := l.Acquire(context.Background(), request("b"))
				if err == nil {
					defer le.Release()
					<-time.After(time.Second)
				}
				errs <- err
			}()
		}
		synctest.Wait()
		first.Release()
		synctest.Wait()
		l.RejectWaiting()
		wantReason(t, <-errs, Draining)
		_, err := l.Acquire(t.Context(), request("c"))
		wantReason(t, err, Draining)
		if err := <-errs; err != nil {
			t.Errorf("the one that was served: %v", err)
		}
	})
}

func TestLimiter_HeartbeatRunsWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Global: Limits{Concurrent: 1}})
		defer l.Close()
		defer mustAcquire(t, l, request("a")).Release()
		beats := 0
		gone := errors.New("write failed")
		r := request("b")
		r.Every = time.Second
		r.OnWait = func() error {
			if beats++; beats == 3 {
				return gone
			}
			return nil
		}
		start := time.Now()
		if _, err := l.Acquire(t.Context(), r); !errors.Is(err, gone) {
			t.Errorf("error = %v", err)
		}
		if time.Since(start) != 3*time.Second || l.Waiting() != 0 {
			t.Errorf("after %v, waiting %d", time.Since(start), l.Waiting())
		}
	})
}

func TestLimiter_FullQueueLetsTheLongestSessionGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Global: Limits{Concurrent: 1}, MaxWaiting: 4})
		defer l.Close()
		defer mustAcquire(t, l, request("x")).Release()
		evicted := make(chan error, 8)
		for range 4 {
			go func() {
				_, err := l.Acquire(t.Context(), request("flood"))
				evicted <- err
			}()
		}
		synctest.Wait()
		_, err := l.Acquire(t.Context(), request("flood"))
		wantReason(t, err, QueueFull)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := l.Acquire(ctx, request("small"))
			evicted <- err
		}()
		synctest.Wait()
		wantReason(t, <-evicted, QueueFull)
		low := request("low")
		low.Priority = Low
		_, err = l.Acquire(t.Context(), low)
		wantReason(t, err, QueueFull)
		cancel()
		l.Close()
		for range 4 {
			<-evicted
		}
	})
}

func TestLimiter_DailyLimitTellsItsReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{RequestsPerDay: 2}}}})
		defer l.Close()
		mustAcquire(t, l, request("a")).Sent()
		mustAcquire(t, l, request("a")).Sent()
		<-time.After(time.Hour)
		_, err := l.Acquire(t.Context(), request("a"))
		r := wantReason(t, err, DailyLimit)
		if r.RetryAfter != 23*time.Hour || !r.ResetAt.Equal(time.Now().Add(23*time.Hour)) {
			t.Errorf("refusal = %+v", r)
		}
	})
}

func TestLimiter_RetryAfterHangUpGetsItsPlaceBack(t *testing.T) {
	for _, test := range []struct {
		name  string
		count int
		away  time.Duration
		want  string
	}{
		{"a retry within seconds is ahead of those who came meanwhile", 1, 2 * time.Second, "retry"},
		{"a new request is not", 0, 2 * time.Second, "other"},
		{"a retry after long is not", 1, 20 * time.Second, "other"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(Config{Global: Limits{Concurrent: 1}})
				defer l.Close()
				first := mustAcquire(t, l, request("x"))
				r := request("a")
				r.RetryKey = 7
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := l.Acquire(ctx, r); err == nil {
					t.Fatal("granted")
				}
				got := make(chan string, 2)
				wait := func(name string, r Request) {
					le := mustAcquire(t, l, r)
					got <- name
					le.Release()
				}
				go wait("other", request("a"))
				<-time.After(test.away)
				r.RetryCount = test.count
				go wait("retry", r)
				synctest.Wait()
				first.Release()
				if first := <-got; first != test.want {
					t.Errorf("%s was first, want %s", first, test.want)
				}
				<-got
			})
		})
	}
}

func TestLimiter_NoLimitLetsEverythingPass(t *testing.T) {
	l := New(Config{Learn: true})
	defer l.Close()
	for i := range 1000 {
		le := mustAcquire(t, l, request(fmt.Sprint(i)))
		if le.Waited() != 0 {
			t.Fatal("waited")
		}
		le.Release()
	}
}

// TestLimiter_Hammered is for the race detector: everybody does everything.
func TestLimiter_Hammered(t *testing.T) {
	l := New(Config{Global: Limits{Concurrent: 8}, Learn: true, MaxWaiting: 64, MaxWait: time.Second})
	defer l.Close()
	var wg sync.WaitGroup
	var served atomic.Int64
	for g := range 16 {
		wg.Go(func() {
			for i := range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%7)*100*time.Microsecond+time.Microsecond)
				le, err := l.Acquire(ctx, Request{Model: llm.Model(fmt.Sprint(i % 3)), Session: fmt.Sprint(g % 5), RetryKey: uint64(i), RetryCount: i % 2, Priority: Priority(i%3 - 1)})
				if err == nil {
					le.Sent()
					served.Add(1)
					switch i % 5 {
					case 0:
						le.Settle(llm.Usage{Input: 1})
					case 1:
						err = le.Retry(ctx)
					case 2:
						err = le.Throttled(ctx, llm.Signal{HasRetryAfter: true})
					case 3:
						le.Observe(llm.Signal{Levels: levels(llm.Requests, llm.Level{Limit: 1e9, Remaining: 1e9, HasLimit: true, HasRemaining: true})})
						le.Started()
					}
					_ = err
					le.Release()
				}
				cancel()
				_ = l.Snapshot()
			}
		})
	}
	wg.Wait()
	if l.InFlight() != 0 || l.Waiting() != 0 {
		t.Errorf("in flight %d, waiting %d after all has ended", l.InFlight(), l.Waiting())
	}
	if served.Load() == 0 {
		t.Error("nothing was served")
	}
}
