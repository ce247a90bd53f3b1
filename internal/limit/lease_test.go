package limit

import (
	"errors"
	"math"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// TestLease_EndsOnceForEver ends a lease many times while its slot serves
// others: whoever has ended has nothing to do with what came after.
func TestLease_EndsOnceForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Global: Limits{Concurrent: 1}})
		defer l.Close()
		old := mustAcquire(t, l, request("a"))
		old.Sent()
		old.Settle(llm.Usage{Input: 100})
		old.Release()
		next := mustAcquire(t, l, request("b")) // in the slot that was a's
		for range 3 {
			old.Release()
			old.Settle(llm.Usage{Input: 1e6})
			old.Sent()
			old.Observe(llm.Signal{Levels: levels(llm.Requests, llm.Level{Limit: 1, HasLimit: true})})
			old.Started()
			if err := old.Throttled(t.Context(), llm.Signal{}); !errors.Is(err, ErrEnded) {
				t.Errorf("throttled after the end: %v", err)
			}
			if err := old.Retry(t.Context()); !errors.Is(err, ErrEnded) {
				t.Errorf("retry after the end: %v", err)
			}
			if l.InFlight() != 1 {
				t.Fatalf("in flight = %d after another lease was ended again", l.InFlight())
			}
		}
		if old.Attempt() != 1 || old.Waited() != 0 {
			t.Errorf("an ended lease tells attempt %d, waited %v", old.Attempt(), old.Waited())
		}
		next.Release()
		if l.InFlight() != 0 {
			t.Errorf("in flight = %d", l.InFlight())
		}
	})
}

func TestLease_ThatWasNeverGrantedHasEnded(t *testing.T) {
	le := new(Lease)
	le.Release()
	le.Sent()
	if err := le.Throttled(t.Context(), llm.Signal{}); !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
}

func TestLease_WaitedSurvivesTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Global: Limits{Concurrent: 1}})
		defer l.Close()
		first := mustAcquire(t, l, request("a"))
		var wg sync.WaitGroup
		wg.Go(func() {
			le := mustAcquire(t, l, request("b"))
			le.Settle(llm.Usage{})
			mustAcquire(t, l, request("c")).Release()
			if le.Waited() != 3*time.Second {
				t.Errorf("waited = %v, want 3 s", le.Waited())
			}
			le.Release()
		})
		<-time.After(3 * time.Second)
		first.Release()
		wg.Wait()
	})
}

// TestCore_WhatIsReturnedLeavesNoTrace: limits and tags are as if the request had never
// been, although it was sent.
func TestCore_WhatIsReturnedLeavesNoTrace(t *testing.T) {
	for _, model := range []llm.Model{"", "m"} {
		c := newCore(Config{Global: Limits{RequestsPerMinute: 60, Concurrent: 5}, Models: []ModelLimits{{Pattern: "*", Limits: Limits{RequestsPerMinute: 60}}}}.withDefaults(), 0)
		le := take(t, c, ask(model, "s"), 1000*second)
		s := le.queued.Session
		caps, own, lag := c.caps.Meters(1000*second), le.model.lanes[0].Meters(1000*second), s.Lag()
		for i := range 7 {
			c.returned(le, 1000*second)
			le = take(t, c, ask(model, "s"), 1000*second)
			if !reflect.DeepEqual(caps, c.caps.Meters(1000*second)) || !reflect.DeepEqual(own, le.model.lanes[0].Meters(1000*second)) || math.Abs(s.Lag()-lag) > 1e-9 {
				t.Fatalf("after %d: caps %+v, own %+v, lag %v; want %+v, %+v, %v", i+1, c.caps.Meters(1000*second), le.model.lanes[0].Meters(1000*second), s.Lag(), caps, own, lag)
			}
		}
	}
}
