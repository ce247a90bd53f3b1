package limit

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// An outage is a provider that refuses everything for a while, in its way.
type outage struct {
	name   string
	limits Limits
	refuse func(ctx context.Context, le *Lease) error
	most   int // attempts while it lasts, after those that were on the way when it was first heard of
}

// TestBreaker_AStormMeetsOneProbeAtATime has 500 clients wait for a provider that
// refuses everything for 30 seconds. Nobody is turned away, hardly anything is
// sent meanwhile, and afterwards all are served soon.
func TestBreaker_AStormMeetsOneProbeAtATime(t *testing.T) {
	const (
		clients = 500
		lasts   = 30 * time.Second
		trip    = 50 * time.Millisecond
	)
	throttle := func(s llm.Signal) func(context.Context, *Lease) error {
		return func(ctx context.Context, le *Lease) error { return le.Throttled(ctx, s) }
	}
	fast := Limits{RequestsPerMinute: 60_000}
	for _, o := range []outage{
		// One for each second of the hint, and what it takes to see a storm.
		{"429s with a hint", fast, throttle(llm.Signal{HasRetryAfter: true, RetryAfter: time.Second, Dimension: llm.Requests}), 30 + 150},
		{"429s without one", fast, throttle(llm.Signal{}), 6 + 150},
		{"429s of a limit nobody knows", Limits{}, throttle(llm.Signal{HasRetryAfter: true, RetryAfter: time.Second}), 30 + 5},
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
						le.Observe(llm.Signal{})
						le.Started()
						<-time.After(5 * time.Second)
						le.Settle(llm.Usage{Input: 1, Output: 1})
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

// TestBreaker_LeaversGiveTheirProbeBack has the probe's client leave, before the
// answer and before it has looked.
func TestBreaker_LeaversGiveTheirProbeBack(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	l := answered(c, "m", 0)
	trip(t, c, ask("m", "storm"), 0)
	now := l.PausedUntil()
	probe := take(t, c, ask("m", "a"), now)
	if !probe.held.ticket.Probe() {
		t.Fatal("what goes first is no probe")
	}
	next := enter(t, c, ask("m", "a"), now)
	if next.state != waiting {
		t.Fatal("a second one went")
	}
	c.release(probe, now)
	drainDone(c, now)
	if next.state != granted || !next.held.ticket.Probe() || !l.Probing() {
		t.Errorf("state %d, probe %v, the breaker tripped: %v", next.state, next.held.ticket.Probe(), l.Probing())
	}
	c.release(next, now) // unseen
	if last := enter(t, c, ask("m", "a"), now); last.state != granted || !last.held.ticket.Probe() {
		t.Error("the probe that nobody used is not given back")
	}
}

// trip refuses attempts like r until the breaker of its model trips.
func trip(t *testing.T, c *core, r Request, now llm.Instant) {
	t.Helper()
	l := c.model(r.Model, now).lanes[0]
	var all []*Lease
	for range 20 {
		all = append(all, take(t, c, r, now))
	}
	for _, le := range all {
		c.unavailable(le, 0, now)
		c.end(le, now)
	}
	if !l.Probing() || l.PausedUntil() <= now {
		t.Fatal("twenty refusals in a row have not tripped the breaker")
	}
}

// TestBreaker_AnyAnswerEndsARow: an answer of whatever status between refusals says
// that the provider is there.
func TestBreaker_AnyAnswerEndsARow(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	l := answered(c, "m", 0)
	for n := range llm.Instant(50) {
		now := n * 10 * second // too far apart for a count
		if refused := take(t, c, ask("m", "a"), now); n%7 == 0 {
			c.observe(refused, &llm.Signal{}, now)
			c.release(refused, now)
		} else {
			c.unavailable(refused, 0, now)
			c.end(refused, now)
		}
		if l.Probing() {
			t.Fatalf("tripped after %d attempts", n+1)
		}
	}
}

// TestBreaker_IsAModelsOwnFromTheStart has the first good answer of a model, which gives
// it limits of its own, come to a breaker that has tripped.
func TestBreaker_IsAModelsOwnFromTheStart(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	trip(t, c, ask("m", "storm"), 0)
	l := c.model("m", 0).lanes[0]
	now := l.PausedUntil()
	if take(t, c, ask("other", "a"), 0).held.ticket.Probe() {
		t.Error("another new model is probed too")
	}
	probe := take(t, c, ask("m", "a"), now)
	for range 4 {
		enter(t, c, ask("m", "b"), now)
	}
	c.started(probe, now)
	if done := drainDone(c, now); len(done) != 2 || l != c.models["m"].lanes[0] {
		t.Errorf("%d go after the first answer, want two", len(done))
	}
}

// TestBreaker_ProbesTakeTurns has two sessions before a shut gate, of which the
// first has a request that is refused whatever happens.
func TestBreaker_ProbesTakeTurns(t *testing.T) {
	for name, refuse := range map[string]func(*core, *Lease, llm.Instant) llm.Instant{
		"429": func(c *core, le *Lease, now llm.Instant) llm.Instant {
			at, _ := c.throttled(le, &llm.Signal{HasRetryAfter: true, RetryAfter: time.Second}, now)
			return at
		},
		"503": func(c *core, le *Lease, now llm.Instant) llm.Instant {
			at, _ := c.unavailable(le, time.Second, now)
			return at
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore(Config{Learn: true}.withDefaults(), 0)
			l := answered(c, "m", 0)
			trip(t, c, ask("m", "storm"), 0)
			now := l.PausedUntil()
			probe := take(t, c, ask("m", "a"), now)
			other := enter(t, c, ask("m", "b"), now)
			at := refuse(c, probe, now+second)
			if rejected := c.requeue(probe, time.Hour, at, now+second); rejected != nil {
				t.Fatal(rejected)
			}
			if drainDone(c, l.PausedUntil()-1); other.state != waiting || probe.state != waiting {
				t.Fatal("somebody goes during the pause")
			}
			// The bucket of a 429 may let nobody go until a little later.
			if drainDone(c, l.PausedUntil().Add(200*time.Millisecond)); other.state != granted || !other.held.ticket.Probe() || probe.state != waiting {
				t.Errorf("states after the pause: the other %d, the refused one %d", other.state, probe.state)
			}
		})
	}
}

// TestBreaker_AProbeIsNoAttemptOfItsOwn: a client that is alone outlasts more
// refusals than it may have attempts.
func TestBreaker_AProbeIsNoAttemptOfItsOwn(t *testing.T) {
	for name, refuse := range map[string]func(context.Context, *Lease) error{
		"429": func(ctx context.Context, le *Lease) error {
			return le.Throttled(ctx, llm.Signal{HasRetryAfter: true, RetryAfter: time.Second})
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
