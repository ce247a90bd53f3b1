package limit

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// strict checks the order of calls that Budget's documentation promises.
type strict struct {
	Budget
	t      *testing.T
	places int64
	closed bool
	asked  int
	told   []Answer
}

func (b *strict) Ready(now time.Duration, c Cost) (time.Duration, string) {
	if b.closed {
		b.t.Error("Ready after Close")
	}
	return b.Budget.Ready(now, c)
}

func (b *strict) Take(now time.Duration, c Cost) {
	if at, limit := b.Budget.Ready(now, c); at > now || b.closed {
		b.t.Errorf("Take of %+v, which is ready at %v (%s), closed: %v", c, at, limit, b.closed)
	}
	if c.Requests != 1 || c.Places != 1 {
		b.t.Errorf("Take of %+v: want one request in one place", c)
	}
	b.places++
	b.Budget.Take(now, c)
}

func (b *strict) Return(now time.Duration, c Cost, taken time.Duration) {
	if b.places -= c.Places; b.places < 0 || taken > now {
		b.t.Errorf("Return of %+v taken at %v: %d places are left", c, taken, b.places)
	}
	b.Budget.Return(now, c, taken)
}

func (b *strict) Want(now time.Duration, w Want) {
	b.asked++
	if w.Queued.Requests < 1 || w.Queued.Tokens < w.Head.Tokens || w.Weights[0]+w.Weights[1]+w.Weights[2] <= 0 {
		b.t.Errorf("Want %+v", w)
	}
}

func (b *strict) Observe(_ time.Duration, a Answer) { b.told = append(b.told, a) }

func (b *strict) Close() {
	if b.closed {
		b.t.Error("closed twice")
	}
	b.closed = true
	b.Budget.Close()
}

// drive plays a random day against c, whose model is known, and returns every
// decision.
func drive(c *core, seed uint64) (log []string) {
	rng := rand.New(rand.NewPCG(seed, 5))
	c.confirm("m", 0)
	var held []*grant
	demands := map[*waiter]Demand{}
	now := instant(0)
	open := func(w *waiter, d Demand) {
		gr := new(grant)
		w.open(gr, d, now)
		held = append(held, gr)
	}
	for range 400 {
		now = now.add(time.Duration(rng.Int64N(1e9)))
		d := Demand{Input: 1 + rng.Int64N(3000), Output: 100, MaxOutput: 500}
		r := Request{Model: "m", Client: fmt.Sprint(rng.IntN(2)), Session: fmt.Sprint(rng.IntN(3)), Priority: Priority(rng.IntN(3) - 1), Demand: d}
		w := new(waiter)
		switch rejected := c.arrive(w, &r, time.Minute, now); {
		case rejected != nil:
			log = append(log, fmt.Sprint(now, " ", rejected.Reason))
		case w.state.admitted():
			log = append(log, fmt.Sprint(now, " at once"))
			open(w, d)
		default:
			demands[w] = d
		}
		for c.pump(now, pumpBatch) {
		}
		for _, w := range c.done {
			log = append(log, fmt.Sprint(now, " ", w.seq, " ", w.state))
			if w.state.admitted() {
				open(w, demands[w])
			}
		}
		c.done = c.done[:0]
		for len(held) > 0 && rng.IntN(3) > 0 {
			i := rng.IntN(len(held))
			gr := held[i]
			held = append(held[:i], held[i+1:]...)
			switch rng.IntN(5) {
			case 0:
				c.release(gr, now) // never sent
			default:
				c.sent(gr, now)
				c.settle(gr, Usage{Input: gr.demand.Input, Output: rng.Int64N(600)}, now)
			}
		}
	}
	for _, gr := range held {
		c.release(gr, now)
	}
	return log
}

// TestBudget_BehindTheSeamTheSameIsDecided plays the same days against buckets
// of the core's own and against the same buckets behind the interface. Whatever
// the core did not ask a Budget for would show.
func TestBudget_BehindTheSeamTheSameIsDecided(t *testing.T) {
	limits := Limits{RequestsPerMinute: 60, TokensPerMinute: 60_000, OutputTokensPerMinute: 20_000, RequestsPerDay: 10_000, Concurrent: 5}
	for _, profile := range []string{"anthropic", "postpaid", "azure"} {
		cfg := Config{MaxWaiting: 20, Models: []ModelLimits{{Pattern: "*", Limits: limits, Profile: profile}}}
		var b *strict
		leased := cfg
		leased.Shared = func(model string, l Limits, _ func()) Budget {
			if model != "m" || l != limits {
				t.Errorf("a Budget for %q and %+v", model, l)
			}
			b = &strict{Budget: NewBudget(l, profile), t: t}
			return b
		}
		for seed := range uint64(20) {
			own := newCore(cfg.withDefaults(), 0)
			want, got := drive(own, seed), drive(newCore(leased.withDefaults(), 0), seed)
			for i := range want {
				if i >= len(got) || got[i] != want[i] {
					t.Fatalf("%s, seed %d: decision %d of own buckets is %q, behind the seam %q", profile, seed, i, want[i], got[min(i, len(got)-1)])
				}
			}
			if b.places != 0 {
				t.Errorf("%d places were never returned", b.places)
			}
			if b.asked == 0 {
				t.Error("nothing was ever wanted")
			}
		}
	}
}

func TestBudget_IsToldWhatTheProviderSays(t *testing.T) {
	cfg := limitedTo(Limits{TokensPerMinute: 60_000})
	b := &strict{Budget: NewBudget(Limits{TokensPerMinute: 60_000}, "openai"), t: t}
	cfg.Shared = func(string, Limits, func()) Budget { return b }
	c := newCore(cfg, 0)
	c.confirm("m", 0)
	gr := take(t, c, ask("m", "s"), second)
	c.observe(gr, tokensLeft(50_000), 2*second)
	c.throttled(gr, &Signal{Dimension: "tokens", Limit: 60_000, Used: 59_950, Requested: 200, RetryAfter: time.Second, HasRetryAfter: true}, 3*second)
	want := []Answer{
		{Signal: *tokensLeft(50_000), Sent: time.Second},
		{Signal: Signal{Dimension: "tokens", Limit: 60_000, Used: 59_950, Requested: 200, RetryAfter: time.Second, HasRetryAfter: true}, Sent: time.Second, Throttled: true},
	}
	for i := range want {
		want[i].Cost = gr.charge.cost(1, 1)
	}
	if diff := cmp.Diff(want, b.told); diff != "" {
		t.Error(diff)
	}
	if c.groups["m"].pausedUntil < 4*second {
		t.Error("a 429 does not pause the group")
	}
	if c.groups["m"].meters.bounded() {
		t.Error("what the Budget counts is counted a second time")
	}
}

// TestBudget_OtherLimitsAreOtherLeases: what was taken goes back where it came
// from, whatever became of the group.
func TestBudget_OtherLimitsAreOtherLeases(t *testing.T) {
	cfg := limitedTo(Limits{TokensPerMinute: 60_000, Concurrent: 1})
	var made []*strict
	cfg.Shared = func(_ string, l Limits, _ func()) Budget {
		made = append(made, &strict{Budget: NewBudget(l, "postpaid"), t: t})
		return made[len(made)-1]
	}
	c := newCore(cfg, 0)
	c.confirm("m", 0)
	first := take(t, c, ask("m", "s"), second)
	queued := enter(t, c, ask("m", "s"), second)
	if queued.state != waiting {
		t.Fatal("granted beyond the one place")
	}
	c.settle(first, Usage{Input: 100, Output: 100}, 2*second)
	for c.pump(2*second, pumpBatch) {
	}
	if !queued.state.admitted() {
		t.Fatal("the place that came back was not given on")
	}
	// It is granted, and its caller has not looked yet.
	next := limitedTo(Limits{TokensPerMinute: 90_000})
	next.Shared = cfg.Shared
	c.reconfigure(next, 2*second)
	if len(made) != 2 || !made[0].closed || made[1].closed {
		t.Fatalf("%d leases after a change of limits", len(made))
	}
	var gr grant
	queued.open(&gr, queued.demand.unpack(), 3*second)
	c.release(&gr, 3*second)
	if made[0].places != 0 || made[1].places != 0 {
		t.Errorf("places left: %d with the old, %d with the new", made[0].places, made[1].places)
	}
	c.reconfigure(next, 4*second)
	if len(made) != 2 {
		t.Error("leased anew though nothing has changed")
	}
	c.closeShared()
	if !made[1].closed {
		t.Error("not closed")
	}
}

// dryBudget is a Budget that is empty until its engine answers.
type dryBudget struct {
	Budget
	open   atomic.Bool
	wanted chan Want
}

func (b *dryBudget) Ready(now time.Duration, c Cost) (time.Duration, string) {
	if !b.open.Load() {
		return Never, "tokens_per_minute"
	}
	return b.Budget.Ready(now, c)
}

func (b *dryBudget) Want(_ time.Duration, w Want) {
	select {
	case b.wanted <- w:
	default:
	}
}

// TestLimiter_ABudgetsWakeUpServesTheQueue: Never means that only wake tells.
func TestLimiter_ABudgetsWakeUpServesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &dryBudget{Budget: NewBudget(Limits{}, ""), wanted: make(chan Want, 1)}
		wake := func() {}
		l := New(Config{Shared: func(_ string, _ Limits, w func()) Budget {
			wake = w
			return b
		}})
		defer l.Close()
		first := mustAcquire(t, l, request("a")) // the model is not known yet
		first.Sent()
		first.Settle(Usage{Input: 1})
		go func() { // the engine
			w := <-b.wanted
			if w.Head.Tokens != 200 || w.Queued.Requests != 1 {
				t.Errorf("wanted %+v", w)
			}
			<-time.After(3 * time.Second)
			b.open.Store(true)
			wake()
		}()
		le := mustAcquire(t, l, request("a"))
		if le.Waited() != 3*time.Second {
			t.Errorf("waited %v, want the 3 s that the engine took", le.Waited())
		}
		le.Release()
	})
}
