package main

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRepeats_AreAShareOfTheTraffic(t *testing.T) {
	var b repeatBudget
	now := time.Now()
	spend := func(tries int) (got int) {
		for range tries {
			if b.spend(now) {
				got++
			}
		}
		return got
	}
	if got := spend(1000); got != repeatsSaved {
		t.Errorf("%d at once, want %d", got, repeatsSaved)
	}
	now = now.Add(2 * time.Second)
	if got := spend(1000); got != 2*repeatPerSecond {
		t.Errorf("%d after two seconds, want %v", got, 2*repeatPerSecond)
	}
	for range 200 {
		b.earn()
	}
	if got := spend(1000); got < 39 || got > 40 {
		t.Errorf("%d for 200 requests, want a fifth", got)
	}
}

// TestRepeats_AProviderThatFailsIsNotFlooded sends a thousand requests at a
// provider that turns all of them away with a hint. Past the budget its answer
// is passed on as it came.
func TestRepeats_AProviderThatFailsIsNotFlooded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts, passed atomic.Int64
		b := handlerBubble(t, func(w http.ResponseWriter, _ *http.Request) {
			attempts.Add(1)
			w.Header().Set("Retry-After-Ms", "10")
			w.WriteHeader(503)
		})
		defer b.stop()
		var calls sync.WaitGroup
		const n = 1000
		started := time.Now()
		for range n {
			calls.Go(func() {
				if status, _, _, err := b.ask(t.Context(), "s", chat); err == nil && status == 503 {
					passed.Add(1)
				}
			})
		}
		calls.Wait()
		budget := repeatsSaved + n*repeatShare + repeatPerSecond*time.Since(started).Seconds() + 1
		if repeats := float64(attempts.Load() - n); passed.Load() != n || repeats > budget || repeats < repeatsSaved {
			t.Errorf("%d of %d got the 503, after %v repeats, want at most %v", passed.Load(), n, repeats, budget)
		}
	})
}
