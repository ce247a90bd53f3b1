package limit

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// An outage is a provider that refuses everything for a while, in its way.
type outage struct {
	name   string
	limits Limits
	refuse func(ctx context.Context, le *Lease) error
	most   int // attempts while it lasts, after those that were on the way when it was first heard of
}

// TestGate_AStormMeetsOneProbeAtATime has 500 clients wait for a provider that
// refuses everything for 30 seconds. Nobody is turned away, hardly anything is
// sent meanwhile, and afterwards all are served soon.
func TestGate_AStormMeetsOneProbeAtATime(t *testing.T) {
	const (
		clients = 500
		lasts   = 30 * time.Second
		trip    = 50 * time.Millisecond
	)
	throttle := func(s Signal) func(context.Context, *Lease) error {
		return func(ctx context.Context, le *Lease) error { return le.Throttled(ctx, s) }
	}
	fast := Limits{RequestsPerMinute: 60_000}
	for _, o := range []outage{
		// One for each second of the hint, and what it takes to see a storm.
		{"429s with a hint", fast, throttle(Signal{HasRetryAfter: true, RetryAfter: time.Second, Dimension: "requests"}), 30 + 150},
		{"429s without one", fast, throttle(Signal{}), 6 + 150},
		{"429s of a limit nobody knows", Limits{}, throttle(Signal{HasRetryAfter: true, RetryAfter: time.Second}), 30 + 5},
		{"503s with a hint", fast, func(ctx context.Context, le *Lease) error { return le.Unavailable(ctx, time.Second) }, 30 + 150},
		{"503s that say at once", Limits{}, func(ctx context.Context, le *Lease) error { return le.Unavailable(ctx, 0) }, 20 + 500},
		{"nobody listens", Limits{}, func(ctx context.Context, le *Lease) error { return le.Unsent(ctx, 50*time.Millisecond) }, 20 + 500},
	} {
		t.Run(o.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(Config{Global: o.limits, Learn: true})
				defer l.Close()
				begun := time.Now()
				var mu sync.Mutex
				first, attempts, sinceKnown, lately := 0, 0, 0, 0
				known := false
				var all sync.WaitGroup
				for i := range clients {
					all.Go(func() {
						le, err := l.Acquire(t.Context(), Request{Model: "m", Session: fmt.Sprint(i)})
						for {
							if err != nil {
								t.Errorf("client %d was turned away: %v", i, err)
								return
							}
							le.Sent()
							at := time.Since(begun)
							mu.Lock()
							switch {
							case at >= lasts:
							case !known:
								first++
							default:
								sinceKnown++
								if at > lasts/3 {
									lately++
								}
							}
							attempts++
							mu.Unlock()
							<-time.After(trip)
							if at >= lasts {
								break
							}
							mu.Lock()
							known = true
							mu.Unlock()
							err = o.refuse(t.Context(), le)
						}
						<-time.After(500 * time.Millisecond)
						le.Observe(Signal{})
						le.Started()
						<-time.After(5 * time.Second)
						le.Settle(Usage{Input: 1, Output: 1})
					})
				}
				all.Wait()
				took := time.Since(begun) - lasts
				t.Logf("%d on the way when the first refusal came, %d more during the outage, %d of them in its last two thirds; all served %v after it", first, sinceKnown, lately, took)
				if sinceKnown > o.most {
					t.Errorf("%d attempts, want at most %d", sinceKnown, o.most)
				}
				if lately > 21 {
					t.Errorf("%d attempts in the last 20 s, want about one for each pause", lately)
				}
				if took > 45*time.Second {
					t.Errorf("all were served %v after the outage", took)
				}
			})
		})
	}
}

// gated is a gate with the events of a provider at the same pace: take and
// refuse are attempts that are answered at once.
type gated struct {
	gate
	now instant
}

func (g *gated) refuse() bool {
	count := g.sends(g.now)
	g.now = g.now.add(time.Millisecond)
	return g.refuses(false, count, time.Millisecond, g.now)
}

func (g *gated) take() {
	g.sends(g.now)
	g.now = g.now.add(time.Millisecond)
}

func TestGate_ShutsForAStormOnly(t *testing.T) {
	t.Run("the first refusal only begins the count", func(t *testing.T) {
		var g gated
		for n := 1; n <= 1+stormLeast; n++ {
			if shut := g.refuse(); shut != (n == 1+stormLeast) {
				t.Errorf("refusal %d: shut = %v", n, shut)
			}
		}
	})
	t.Run("a good hour before does not hide it", func(t *testing.T) {
		var g gated
		for range 100_000 {
			g.take()
		}
		shut := false
		for range 1 + stormLeast {
			shut = g.refuse()
		}
		if !shut {
			t.Error("still open")
		}
	})
	t.Run("one in three", func(t *testing.T) {
		var g gated
		for range 1000 {
			g.take()
			if g.take(); g.refuse() {
				t.Fatal("shut")
			}
		}
	})
	t.Run("single ones, far apart", func(t *testing.T) {
		var g gated
		for range 100 {
			if g.refuse() {
				t.Fatal("shut")
			}
			g.now = g.now.add(5 * time.Second)
		}
	})
	t.Run("whatever was on the way", func(t *testing.T) {
		var g gated
		for range 100 {
			if g.refuses(false, g.counted, 0, g.now); g.counted > 1 {
				t.Fatal("a refusal of the same moment began another count")
			}
		}
	})
}

func TestGate_DoublesPerRoundTrip(t *testing.T) {
	const queued = 1000
	g := gate{limit: 1}
	for _, want := range []int{1, 2, 4, 8, 16, 32, 64, 128} {
		if g.limit != want {
			t.Fatalf("limit = %d, want %d", g.limit, want)
		}
		g.trying = want
		if at := g.opens(queued, 0); at != second {
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

func TestGate_SilenceIsConsent(t *testing.T) {
	g := gate{limit: 1, trying: 1, slowest: 2 * time.Second}
	if at := g.opens(100, 0); at != 8*second {
		t.Errorf("the next may go at %v, want four times what a refusal takes", at)
	}
	if at := g.opens(100, 8*second); at != 8*second || g.limit != 2 {
		t.Errorf("after that: at %v, limit %d", at, g.limit)
	}
}

func TestGate_OpensWhenNobodyWaits(t *testing.T) {
	g := gate{limit: 1}
	if g.passes(0, 0); g.limit != 0 {
		t.Errorf("limit = %d", g.limit)
	}
}

// TestGate_LeaversGiveTheirProbeBack has the probe's client leave, before the
// answer and before it has looked.
func TestGate_LeaversGiveTheirProbeBack(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	r := Request{Model: "m", Session: "a"}
	gr := take(t, c, r, 0)
	c.settle(gr, Usage{Input: 1}, 0)
	g := c.groups["m"]
	g.gate.limit = 1
	probe := take(t, c, r, 0)
	if g.gate.trying != 1 {
		t.Fatalf("trying = %d", g.gate.trying)
	}
	next := enter(t, c, r, 0)
	if next.state != waiting {
		t.Fatal("a second one went")
	}
	c.release(probe, 0)
	drainDone(c, 0)
	if next.state != probing || g.gate.trying != 1 || g.gate.limit != 1 {
		t.Errorf("state %d, trying %d, limit %d", next.state, g.gate.trying, g.gate.limit)
	}
	var unseen grant
	next.open(&unseen, Demand{}, 0)
	c.release(&unseen, 0)
	if g.gate.trying != 0 || g.gate.limit != 1 {
		t.Errorf("trying %d, limit %d", g.gate.trying, g.gate.limit)
	}
}

// TestGate_IsInherited has the first good answer of a model, which makes its
// group, come to a nursery whose gate is shut.
func TestGate_IsInherited(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	nursery := c.groupFor("m", 0)
	nursery.gate.limit = 1
	probe := take(t, c, ask("m", "a"), 0)
	for range 4 {
		enter(t, c, ask("m", "b"), 0)
	}
	c.started(probe, second)
	if done := drainDone(c, second); len(done) != 2 {
		t.Errorf("%d go after the first answer, want two", len(done))
	}
	if own := c.groups["m"]; own == nil || own.gate.trying != 2 || nursery.gate.trying != 0 {
		t.Errorf("the model's group: %+v", own)
	}
}

// TestGate_ProbesTakeTurns has two sessions before a shut gate, of which the
// first has a request that is refused whatever happens.
func TestGate_ProbesTakeTurns(t *testing.T) {
	for name, refuse := range map[string]func(*core, *grant, instant) instant{
		"429": func(c *core, gr *grant, now instant) instant {
			at, _ := c.throttled(gr, &Signal{HasRetryAfter: true, RetryAfter: time.Second}, now)
			return at
		},
		"503": func(c *core, gr *grant, now instant) instant {
			at, _ := c.unavailable(gr, time.Second, now)
			return at
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore(limitedTo(Limits{RequestsPerMinute: 60_000}), 0)
			g := c.confirm("m", 0)
			g.gate.limit = 1
			probe := take(t, c, ask("m", "a"), second)
			other := enter(t, c, ask("m", "b"), second)
			var again waiter
			at := refuse(c, probe, 2*second)
			if rejected := c.requeue(probe, &again, time.Hour, 0, at, 2*second); rejected != nil {
				t.Fatal(rejected)
			}
			if drainDone(c, g.pausedUntil-1); other.state != waiting || again.state != waiting {
				t.Fatal("somebody goes during the pause")
			}
			// The bucket of a 429 may let nobody go until a little later.
			if drainDone(c, g.pausedUntil.add(200*time.Millisecond)); other.state != probing || again.state != waiting {
				t.Errorf("states after the pause: the other %d, the refused one %d", other.state, again.state)
			}
		})
	}
}

// TestGate_AProbeIsNoAttemptOfItsOwn: a client that is alone outlasts more
// refusals than it may have attempts.
func TestGate_AProbeIsNoAttemptOfItsOwn(t *testing.T) {
	for name, refuse := range map[string]func(context.Context, *Lease) error{
		"429": func(ctx context.Context, le *Lease) error {
			return le.Throttled(ctx, Signal{HasRetryAfter: true, RetryAfter: time.Second})
		},
		"503": func(ctx context.Context, le *Lease) error { return le.Unavailable(ctx, 100*time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(Config{Global: Limits{RequestsPerMinute: 60_000}, Learn: true})
				defer l.Close()
				le := mustAcquire(t, l, request("a"))
				defer le.Release()
				for n := range 4 * defaultMaxAttempts {
					le.Sent()
					<-time.After(50 * time.Millisecond)
					if err := refuse(t.Context(), le); err != nil {
						t.Fatalf("after %d refusals: %v", n, err)
					}
				}
			})
		})
	}
}
