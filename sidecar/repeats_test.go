package main

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// TestRepeats_AProviderThatFailsIsNotFlooded sends a thousand requests at once
// at a provider that turns all of them away with a hint. Past the budget its
// answer is passed on as it came; those within it wait behind one probe at a
// time, and give up in the end.
func TestRepeats_AProviderThatFailsIsNotFlooded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts, passed, gaveUp atomic.Int64
		b := handlerBubble(t, func(w http.ResponseWriter, _ *http.Request) {
			attempts.Add(1)
			<-time.After(time.Second) // until all are here
			w.Header().Set("Retry-After-Ms", "10")
			w.WriteHeader(503)
		}, "RATE_LIMIT_PER_MIN", "0")
		defer b.Stop()
		var calls sync.WaitGroup
		const n = 1000
		started := time.Now()
		for range n {
			calls.Go(func() {
				switch status, _, text, err := b.Ask(t.Context(), "s", sidecartest.Chat); {
				case err != nil || status != 503:
					t.Errorf("%d %s %v", status, text, err)
				case text == "":
					passed.Add(1)
				default:
					gaveUp.Add(1)
				}
			})
		}
		calls.Wait()
		took := time.Since(started)
		t.Logf("%d got the 503 of the first attempt, %d gave up later; %d attempts in %v", passed.Load(), gaveUp.Load(), attempts.Load(), took)
		const budget = repeatsSaved + n*repeatShare + 2*repeatPerSecond
		if gaveUp.Load() < repeatsSaved || float64(gaveUp.Load()) > budget {
			t.Errorf("%d were repeated, want %d to %v", gaveUp.Load(), repeatsSaved, budget)
		}
		if most := n + 20 + int64(took/(2500*time.Millisecond)); attempts.Load() > most { // half of the longest pause
			t.Errorf("%d attempts, want at most %d", attempts.Load(), most)
		}
	})
}
