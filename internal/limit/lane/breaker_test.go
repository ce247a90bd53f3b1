package lane

import (
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const second = llm.Instant(time.Second)

// paced is a breaker with the events of a provider at the same pace: take and
// refuse are attempts that are answered at once.
type paced struct {
	breaker
	now llm.Instant
}

func (g *paced) refuse() bool {
	count := g.sends(g.now)
	g.now = g.now.Add(time.Millisecond)
	return g.refuses(false, count, time.Millisecond, g.now)
}

func (g *paced) take() {
	g.sends(g.now)
	g.now = g.now.Add(time.Millisecond)
}

func TestBreaker_TripsForAStormOnly(t *testing.T) {
	t.Run("the first refusal only begins the count", func(t *testing.T) {
		var g paced
		for n := 1; n <= 1+stormLeast; n++ {
			if tripped := g.refuse(); tripped != (n == 1+stormLeast) {
				t.Errorf("refusal %d: tripped = %v", n, tripped)
			}
		}
	})
	t.Run("a good hour before does not hide it", func(t *testing.T) {
		var g paced
		for range 100_000 {
			g.take()
		}
		tripped := false
		for range 1 + stormLeast {
			tripped = g.refuse()
		}
		if !tripped {
			t.Error("still closed")
		}
	})
	t.Run("one in three", func(t *testing.T) {
		var g paced
		for range 1000 {
			g.take()
			if g.take(); g.refuse() {
				t.Fatal("tripped")
			}
		}
	})
	t.Run("single ones, far apart", func(t *testing.T) {
		var g paced
		for range 100 {
			if g.refuse() {
				t.Fatal("tripped")
			}
			g.now = g.now.Add(5 * time.Second)
		}
	})
	t.Run("whatever was on the way", func(t *testing.T) {
		var g paced
		for range 100 {
			if g.refuses(false, g.counted, 0, g.now); g.counted > 1 {
				t.Fatal("a refusal of the same moment began another count")
			}
		}
	})
}

func TestBreaker_DoublesPerRoundTrip(t *testing.T) {
	const queued = 1000
	g := breaker{limit: 1}
	for _, want := range []int{1, 2, 4, 8, 16, 32, 64, 128} {
		if g.limit != want {
			t.Fatalf("limit = %d, want %d", g.limit, want)
		}
		g.trying = want
		if at := g.next(queued, 0); at != second {
			t.Errorf("at its limit of %d the next may go at %d", want, at)
		}
		for range want {
			g.trying--
			g.passes(queued, 0)
		}
	}
	if g.limit != 0 {
		t.Errorf("limit = %d after 128 answers in a round trip, want none", g.limit)
	}
}

func TestBreaker_SilenceIsConsent(t *testing.T) {
	g := breaker{limit: 1, trying: 1, slowest: 2 * time.Second}
	if at := g.next(100, 0); at != 8*second {
		t.Errorf("the next may go at %v, want four times what a refusal takes", at)
	}
	if at := g.next(100, 8*second); at != 8*second || g.limit != 2 {
		t.Errorf("after that: at %v, limit %d", at, g.limit)
	}
}

func TestBreaker_ClosesIfNobodyWaits(t *testing.T) {
	g := breaker{limit: 1}
	if g.passes(0, 0); g.limit != 0 {
		t.Errorf("limit = %d", g.limit)
	}
}
