package limit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// strict checks the order of calls that lane.Source's documentation promises.
type strict struct {
	*lane.Clock
	t      *testing.T
	slots  float64
	limits int
	closed bool
}

func (s *strict) SetLimit(now llm.Instant, d llm.Dimension, l lane.Limit) {
	s.limits++
	s.Clock.SetLimit(now, d, l)
}

func (s *strict) Ready(now llm.Instant, a lane.Ask) lane.Verdict {
	if s.closed || s.limits == 0 {
		s.t.Errorf("Ready: closed %v, %d limits told", s.closed, s.limits)
	}
	return s.Clock.Ready(now, a)
}

func (s *strict) Take(now llm.Instant, a lane.Ask) {
	if v := s.Clock.Ready(now, a); v.At > now || s.closed {
		s.t.Errorf("Take of %v, which is ready at %v (%v), closed: %v", a, v.At, v.Limit, s.closed)
	}
	if a.Charge[llm.Requests] != 1 || a.Charge[llm.Concurrent] != 1 || a.Client == 0 || a.Saving {
		s.t.Errorf("Take of %v: want one request of a client in one slot", a)
	}
	s.slots++
	s.Clock.Take(now, a)
}

func (s *strict) Return(now llm.Instant, client uint64, amount llm.Vector, taken llm.Instant) {
	if s.slots -= amount[llm.Concurrent]; s.slots < 0 || taken > now || client == 0 {
		s.t.Errorf("Return of %v, taken by %d at %v: %v slots are left", amount, client, taken, s.slots)
	}
	s.Clock.Return(now, client, amount, taken)
}

func (s *strict) Close() {
	if s.closed {
		s.t.Error("closed twice")
	}
	s.closed = true
}

// drive plays a random day against c, whose model is known, and returns every
// decision.
func drive(c *core, seed uint64) (log []string) {
	rng := rand.New(rand.NewPCG(seed, 5))
	answered(c, "m", 0)
	var held []*Lease
	now := llm.Instant(0)
	for range 400 {
		now = now.Add(time.Duration(rng.Int64N(1e9)))
		r := Request{
			Model: "m", Client: fmt.Sprint(rng.IntN(2)), Session: fmt.Sprint(rng.IntN(3)), Priority: Priority(rng.IntN(3) - 1),
			Demand: llm.Demand{Input: 1 + rng.Int64N(3000), Output: 100, MaxOutput: 500},
		}
		switch le, rejected := arrive(c, r, time.Minute, now); {
		case rejected != nil:
			log = append(log, fmt.Sprint(now, " ", rejected.Reason))
		case le.state == granted:
			log = append(log, fmt.Sprint(now, " at once"))
			held = append(held, le)
		}
		for _, le := range drainDone(c, now) {
			log = append(log, fmt.Sprint(now, " ", le.queued.Seq, " ", le.state))
			if le.state == granted {
				held = append(held, le)
			}
		}
		for len(held) > 0 && rng.IntN(3) > 0 {
			i := rng.IntN(len(held))
			le := held[i]
			held = slices.Delete(held, i, i+1)
			if rng.IntN(5) == 0 {
				c.release(le, now) // never sent
				continue
			}
			c.sent(le, now)
			c.settle(le, llm.Usage{Input: le.queued.Load.Input, Output: rng.Int64N(600)}, now)
		}
	}
	for _, le := range held {
		c.release(le, now)
	}
	return log
}

// TestSource_BehindTheSeamTheSameIsDecided plays the same days against the clock that
// a lane has by itself, and against one that is given to it. Whatever the lane did not
// ask its source for would show.
func TestSource_BehindTheSeamTheSameIsDecided(t *testing.T) {
	limits := Limits{RequestsPerMinute: 60, TokensPerMinute: 60_000, OutputTokensPerMinute: 20_000, RequestsPerDay: 10_000, Concurrent: 5}
	for _, profile := range []string{"anthropic", "postpaid", "azure"} {
		cfg := Config{MaxWaiting: 20, Models: []ModelLimits{{Pattern: "*", Limits: limits, Profile: profile}}}
		var s *strict
		given := cfg
		given.Source = func(model llm.Model, _ func()) lane.Source {
			if model != "m" {
				t.Errorf("a source for %q", model)
			}
			s = &strict{Clock: lane.NewClock(), t: t}
			return s
		}
		for seed := range uint64(20) {
			want, got := drive(newCore(cfg.withDefaults(), 0), seed), drive(newCore(given.withDefaults(), 0), seed)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s, seed %d: −own clock +given\n%s", profile, seed, diff)
			}
			if s.slots != 0 {
				t.Errorf("%v slots were never returned", s.slots)
			}
		}
	}
}

// TestSource_IsTheModelsForItsLife: a reload tells the same source its new limits; what
// is forgotten, or merged, is closed once.
func TestSource_IsTheModelsForItsLife(t *testing.T) {
	cfg := limitedTo(Limits{TokensPerMinute: 60_000, Concurrent: 1})
	made := map[llm.Model]*strict{}
	cfg.Source = func(name llm.Model, _ func()) lane.Source {
		made[name] = &strict{Clock: lane.NewClock(), t: t}
		return made[name]
	}
	c := newCore(cfg, 0)
	one, two := answered(c, "one", 0), answered(c, "two", 0)
	le := take(t, c, ask("one", "s"), 0)
	next := limitedTo(Limits{TokensPerMinute: 90_000, Concurrent: 2})
	next.Source = cfg.Source
	c.reconfigure(next, second)
	if len(made) != 2 || meter(one, llm.Tokens, second).Limit != 90_000 || meter(one, llm.Concurrent, second).Level != 1 {
		t.Errorf("%d sources after a reload, limits %+v", len(made), one.Meters(second))
	}
	c.throttled(le, &llm.Signal{Dimension: llm.Tokens, Group: "two", HasRetryAfter: true}, second)
	if !made["one"].closed || made["two"].closed || le.held.ticket.Lane() != two {
		t.Error("of two that were merged, not the one that was merged away is closed")
	}
	c.release(le, second)
	if made["one"].slots != 0 {
		t.Error("what was taken of the one did not go back there")
	}
	c.closeLanes()
	if !made["two"].closed {
		t.Error("not closed at the end")
	}
}

// grants is a source as a fleet has it: of each kind of limit, what this member was
// given, earmarked for a client.
type grants struct {
	*lane.Clock // for what is not the fleet's: nothing that these tests look at
	wake        func()
	left        map[uint64]float64 // requests, by client
	limits      map[llm.Dimension]lane.Limit
	told        []lane.Sample
	refused     []lane.Refusal
	waiting     []lane.Backlog
}

var (
	_ lane.Source   = (*grants)(nil)
	_ lane.Listener = (*grants)(nil)
)

func (g *grants) SetLimit(_ llm.Instant, d llm.Dimension, l lane.Limit) { g.limits[d] = l }

func (g *grants) Ready(now llm.Instant, a lane.Ask) lane.Verdict {
	if g.left[a.Client] >= a.Charge[llm.Requests] {
		return lane.Verdict{At: now}
	}
	return lane.Verdict{At: llm.Never, Limit: llm.Requests, ThisAsker: true}
}

func (g *grants) Take(_ llm.Instant, a lane.Ask) {
	g.left[a.Client] -= a.Charge[llm.Requests]
}

func (g *grants) Return(_ llm.Instant, client uint64, amount llm.Vector, _ llm.Instant) {
	g.left[client] += amount[llm.Requests]
}

func (g *grants) Told(_ llm.Instant, _ llm.Dimension, s lane.Sample) { g.told = append(g.told, s) }
func (g *grants) Refused(_ llm.Instant, _ llm.Dimension, r lane.Refusal) {
	g.refused = append(g.refused, r)
}
func (g *grants) Waiting(_ llm.Instant, waiting []lane.Backlog) { g.waiting = waiting }
func (g *grants) Meters(llm.Instant) []Meter                    { return nil }

// granting is a core whose model m has answered and goes by grants.
func granting(cfg Config) (*core, *grants, *lane.Lane) {
	g := &grants{Clock: lane.NewClock(), left: map[uint64]float64{}, limits: map[llm.Dimension]lane.Limit{}}
	cfg.Source = func(llm.Model, func()) lane.Source { return g }
	c := newCore(cfg.withDefaults(), 0)
	return c, g, answered(c, "m", 0)
}

func by(client, session string) Request {
	r := ask("m", session)
	r.Client, r.ClientWeight, r.Weight = client, 2, 3
	return r
}

// give grants a client n requests, and lets those who wait for grants be asked again.
func (g *grants) give(c *core, le *Lease, n float64) {
	g.left[le.queued.Session.Client()] += n
	c.roster.ReleaseClients()
}

// TestGrants_WhoHasNoneHoldsUpNobody: a client without a grant waits alone, in whatever
// order they came, and goes once it has one.
func TestGrants_WhoHasNoneHoldsUpNobody(t *testing.T) {
	c, g, _ := granting(Config{})
	poor, poorer, rich := enter(t, c, by("poor", "s"), 0), enter(t, c, by("poor", "s"), 0), enter(t, c, by("rich", "s"), 0)
	high := by("poor", "h")
	high.Priority = High
	urgent := enter(t, c, high, 0)
	if g.give(c, rich, 1); len(drainDone(c, second)) != 1 || rich.state != granted {
		t.Fatal("the client that has a grant is held up")
	}
	bands := []int{}
	for _, b := range g.waiting {
		if b.Client != poor.queued.Session.Client() {
			continue
		}
		bands = append(bands, b.Band)
		if n := 2 - b.Sum[llm.Requests]; b.Weight != 2 || !slices.Equal(b.Sessions, []float64{3}) || b.Head[llm.Requests] != 1 || n != float64(1-b.Band) {
			t.Errorf("told of %+v, want one urgent request and two others, the client's weight and its session's", b)
		}
	}
	if slices.Sort(bands); !slices.Equal(bands, []int{0, 1}) {
		t.Errorf("told of the client in bands %v", bands)
	}
	if g.give(c, poor, 2); len(drainDone(c, 2*second)) != 2 || urgent.state != granted || poor.state != granted || poorer.state != waiting {
		t.Error("two grants have not gone to the urgent one and the next")
	}
	c.release(poor, 2*second) // it was not sent: the grant comes back
	c.roster.ReleaseClients()
	if drainDone(c, 2*second); poorer.state != granted {
		t.Error("what came back is not used")
	}
}

// TestGrants_WaitersExpireWhileTheirClientIsHeldBack: being held back hides nobody from
// the deadline, and a client that leaves is forgotten.
func TestGrants_WaitersExpireWhileTheirClientIsHeldBack(t *testing.T) {
	c, _, _ := granting(Config{})
	le, rejected := arrive(c, by("poor", "s"), 3*time.Second, 0)
	if rejected != nil {
		t.Fatal(rejected)
	}
	if done := drainDone(c, 4*second); len(done) != 1 || le.reason != QueueTimeout || c.roster.Holds() {
		t.Errorf("decided %d, reason %v, still held: %v", len(done), le.reason, c.roster.Holds())
	}
	gone := enter(t, c, by("poor", "s"), 4*second)
	if c.cancel(gone, 5*second); c.roster.Holds() || c.waiting != 0 {
		t.Error("a client that has left is still held")
	}
}

// TestGrants_LimitsAndLevelsAreStillLearned: grants say who may take; everything that the
// provider teaches goes on.
func TestGrants_LimitsAndLevelsAreStillLearned(t *testing.T) {
	c, g, l := granting(Config{Learn: true, Share: 0.5, Models: []ModelLimits{{Pattern: "m", Limits: Limits{RequestsPerMinute: 600}}}})
	if got := g.limits[llm.Requests]; got.Amount != 300 {
		t.Errorf("told a limit of %v, want our half of 600", got.Amount)
	}
	le := enter(t, c, by("a", "s"), second)
	g.give(c, le, 5)
	drainDone(c, second)
	c.sent(le, second)
	s := llm.Signal{Levels: levels(llm.Tokens, llm.Level{Limit: 80_000, Remaining: 70_000, HasLimit: true, HasRemaining: true}), Profile: "anthropic"}
	c.observe(le, &s, 2*second)
	if got := g.limits[llm.Tokens]; got.Amount != 40_000 || len(g.told) != 1 || g.told[0].Remaining != 70_000 || g.told[0].Sent != second {
		t.Errorf("told a limit of %v and levels %+v", got.Amount, g.told)
	}
	if l.Profile() != "anthropic" {
		t.Errorf("charges as %s", l.Profile())
	}
	c.settle(le, llm.Usage{Input: 10, Output: 10}, 3*second)
	if l.ServiceTime() != 2*time.Second {
		t.Errorf("service time = %v", l.ServiceTime())
	}
}

// TestGrants_PausesAndTheBreakerGoOn: whoever has grants waits for them too.
func TestGrants_PausesAndTheBreakerGoOn(t *testing.T) {
	c, g, l := granting(Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{RequestsPerMinute: 600}}}})
	first := enter(t, c, by("a", "s"), 0)
	g.give(c, first, 1000)
	drainDone(c, 0)
	c.sent(first, 0)
	c.throttled(first, &llm.Signal{Dimension: llm.Requests, HasRetryAfter: true, RetryAfter: 5 * time.Second}, second)
	c.end(first, second)
	next := enter(t, c, by("a", "s"), second)
	if next.state != waiting {
		t.Error("granted during the pause")
	}
	if len(g.refused) != 1 || !g.refused[0].Named || g.refused[0].Asked != 1 || g.refused[0].Pause != 5*time.Second {
		t.Errorf("the source, who has to be careful now, was told of %+v", g.refused)
	}
	if drainDone(c, 7*second); next.state != granted {
		t.Error("not granted after the pause")
	}
	c.release(next, 7*second)
	trip(t, c, by("a", "storm"), 8*second)
	now := l.PausedUntil()
	if probe := take(t, c, by("a", "s"), now); !probe.held.ticket.Probe() {
		t.Error("no probe after a storm")
	}
	if enter(t, c, by("a", "s"), now).state != waiting {
		t.Error("a second one goes beside the probe")
	}
}

// TestLimiter_ASourcesWakeUpServesTheQueue: Never means that only wake tells.
func TestLimiter_ASourcesWakeUpServesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &grants{Clock: lane.NewClock(), left: map[uint64]float64{}, limits: map[llm.Dimension]lane.Limit{}}
		l := New(Config{Source: func(_ llm.Model, wake func()) lane.Source {
			g.wake = wake
			return g
		}})
		defer l.Close()
		first := mustAcquire(t, l, request("a")) // the model is not known yet
		first.Sent()
		first.Settle(llm.Usage{Input: 1})
		go func() { // the fleet
			<-time.After(3 * time.Second)
			l.mu.Lock()
			for _, b := range g.waiting {
				g.left[b.Client] = b.Sum[llm.Requests]
			}
			l.mu.Unlock()
			g.wake()
		}()
		le := mustAcquire(t, l, request("a"))
		if le.Waited() != 3*time.Second {
			t.Errorf("waited %v, want the 3 s that the fleet took", le.Waited())
		}
		le.Release()
	})
}

func TestGrants_WhatComesBackIsOffered(t *testing.T) {
	c, g, _ := granting(Config{})
	a := enter(t, c, by("poor", "s"), 0)
	g.give(c, a, 1)
	drainDone(c, 0)
	b := enter(t, c, by("poor", "s"), 0)
	c.release(a, second)
	if drainDone(c, 2*second); b.state != granted {
		t.Error("the grant came back and nobody looks")
	}
}

func TestGrants_AMergeWakesHeldClients(t *testing.T) {
	cfg := limitedTo(Limits{})
	g := &grants{Clock: lane.NewClock(), left: map[uint64]float64{}, limits: map[llm.Dimension]lane.Limit{}}
	cfg.Source = func(name llm.Model, _ func()) lane.Source {
		if name == "m" {
			return g
		}
		return nil
	}
	c := newCore(cfg, 0)
	answered(c, "m", 0)
	answered(c, "canonical", 0)
	rich, poor := enter(t, c, by("rich", "s"), 0), enter(t, c, by("poor", "s"), 0)
	g.give(c, rich, 1)
	drainDone(c, 0)
	c.sent(rich, 0)
	c.throttled(rich, &llm.Signal{Group: "canonical", HasRetryAfter: true}, second)
	c.end(rich, second)
	if drainDone(c, 100*second); poor.state != granted {
		t.Error("waits for a grant of a source that is closed")
	}
}

func TestGrants_AReloadWakesHeldClients(t *testing.T) {
	c, g, _ := granting(Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{RequestsPerMinute: 10}}}})
	a := enter(t, c, by("poor", "s"), 0)
	drainDone(c, 0)
	id := a.queued.Session.Client()
	g.left[id] = 1 // as a source would that grants of its own accord at SetLimit
	c.reconfigure(Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{RequestsPerMinute: 20}}}, Source: c.cfg.Source}.withDefaults(), second)
	if drainDone(c, second); a.state != granted {
		t.Error("not asked again after SetLimit")
	}
}

type counter struct {
	*grants
	calls, entries int
}

func (s *counter) Waiting(_ llm.Instant, waiting []lane.Backlog) {
	s.calls++
	s.entries += len(waiting)
}

func TestGrants_WhoWaitsIsToldOnceForEachLook(t *testing.T) {
	s := &counter{grants: &grants{Clock: lane.NewClock(), left: map[uint64]float64{}, limits: map[llm.Dimension]lane.Limit{}}}
	c := newCore(Config{Source: func(llm.Model, func()) lane.Source { return s }}.withDefaults(), 0)
	answered(c, "m", 0)
	for i := range 500 {
		enter(t, c, by(fmt.Sprint(i), "s"), 0)
	}
	s.calls, s.entries = 0, 0
	c.roster.ReleaseClients() // one wake-up
	c.pump(second, pumpBatch)
	if s.calls > 2 {
		t.Errorf("one wake-up: told %d times, %d backlogs made", s.calls, s.entries)
	}
}

func TestLimiter_MakesNoSourceAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		l := New(Config{Source: func(llm.Model, func()) lane.Source { made++; return lane.NewClock() }})
		le := mustAcquire(t, l, request("a"))
		l.Close()
		le.Sent()
		le.Settle(llm.Usage{Input: 1})
		if made != 0 {
			t.Error("a source was made after Close: nobody closes it")
		}
	})
}

// places is a core whose model m has two lanes, with different limits.
func places(t *testing.T, caps Limits) (c *core, a, b *lane.Lane) {
	t.Helper()
	c = newCore(Config{Global: caps, Learn: true, Models: []ModelLimits{{Pattern: "m", Limits: Limits{RequestsPerMinute: 60}, Profile: "postpaid"}}}.withDefaults(), 0)
	a = answered(c, "m", 0)
	b = lane.New("m at another place", lane.Config{
		Limits: llm.Vector{llm.Requests: 600}, Share: 1, Profile: "anthropic", Learn: true, Roll: c.roll,
	}, lane.NewClock(), 0)
	c.models["m"].lanes = append(c.models["m"].lanes, b)
	return c, a, b
}

// TestPlaces_OneQueueBeforeTwoLanes: who waits goes where it can go soonest, and what
// came of it is heard by the lane that it went to.
func TestPlaces_OneQueueBeforeTwoLanes(t *testing.T) {
	c, a, b := places(t, Limits{})
	served := map[*lane.Lane]int{}
	serve := func(le *Lease, now llm.Instant) {
		served[le.held.ticket.Lane()]++
		c.sent(le, now)
		c.settle(le, llm.Usage{Input: 100, Output: 100}, now)
	}
	for range 1000 {
		if le := enter(t, c, ask("m", "s"), 0); le.state == granted {
			serve(le, 0)
		}
	}
	for now := llm.Instant(0); now < 60*second; now += second / 10 {
		for _, le := range drainDone(c, now) {
			serve(le, now)
		}
	}
	if served[a] < 60 || served[a] > 66 || served[b] < 595 || served[b] > 660 {
		t.Errorf("served %d and %d in a minute, want the limits of 60 and 600 used", served[a], served[b])
	}
	if c.waiting != 1000-served[a]-served[b] || a.InFlight() != 0 || b.InFlight() != 0 || a.Queued != c.waiting || b.Queued != c.waiting {
		t.Errorf("in flight %d and %d, queued %d and %d of %d", a.InFlight(), b.InFlight(), a.Queued, b.Queued, c.waiting)
	}
}

func TestPlaces_APauseIsOfOnePlace(t *testing.T) {
	c, a, b := places(t, Limits{})
	le := take(t, c, ask("m", "s"), 0)
	if le.held.ticket.Lane() != a {
		t.Fatal("the first place is free and not taken")
	}
	c.throttled(le, &llm.Signal{Dimension: llm.Requests, HasRetryAfter: true, RetryAfter: 30 * time.Second}, second)
	if rejected := c.requeue(le, time.Minute, second, second); rejected != nil {
		t.Fatal(rejected)
	}
	if drainDone(c, second); le.state != granted || le.held.ticket.Lane() != b {
		t.Error("what one place has refused does not go to the other")
	}
	if b.PausedUntil() != 0 || a.PausedUntil() < 30*second {
		t.Errorf("paused until %v and %v", a.PausedUntil(), b.PausedUntil())
	}
	c.sent(le, second)
	c.observe(le, &llm.Signal{Levels: levels(llm.Requests, llm.Level{Limit: 300, HasLimit: true})}, 2*second)
	if meter(a, llm.Requests, 2*second).Limit != 60 || meter(b, llm.Requests, 2*second).Limit != 300 {
		t.Error("what one place says of its limit is believed of the other")
	}
}

// TestPlaces_CapsOverAllModelsHoldOverBoth: a slot in a lane and one under the caps are
// taken together, or none is.
func TestPlaces_CapsOverAllModelsHoldOverBoth(t *testing.T) {
	c, a, b := places(t, Limits{Concurrent: 2})
	one, two, three := take(t, c, ask("m", "s"), 0), take(t, c, ask("m", "s"), 0), enter(t, c, ask("m", "s"), 0)
	before := meter(a, llm.Requests, 0).Level + meter(b, llm.Requests, 0).Level
	if drainDone(c, 0); three.state != waiting {
		t.Fatal("a third is in flight")
	}
	if after := meter(a, llm.Requests, 0).Level + meter(b, llm.Requests, 0).Level; after != before {
		t.Errorf("levels went from %v to %v though nothing was let go", before, after)
	}
	c.release(one, second)
	if drainDone(c, second); three.state != granted {
		t.Error("the slot that came back is not given on")
	}
	c.release(two, second)
	c.release(three, second)
}

// TestPlaces_ForecastsAndCostsKnowTheSum of both limits.
func TestPlaces_ForecastsAndCostsKnowTheSum(t *testing.T) {
	c, a, b := places(t, Limits{})
	one := llm.Vector{llm.Requests: 1}
	if got, want := c.cost(c.models["m"], one), 1/(1.0+10); got < 0.999*want || got > 1.001*want {
		t.Errorf("a request costs %v s, want %v of both slots together", got, want)
	}
	if got := c.cost(c.models["m"], llm.Vector{llm.Requests: 1, llm.Tokens: 1e6}); got > 1 {
		t.Errorf("tokens, which neither place limits, cost %v s", got)
	}
	a.Configure(lane.Config{Limits: llm.Vector{llm.Requests: 60, llm.Tokens: 60}, Share: 1, Roll: c.roll}, 0)
	if got := c.cost(c.models["m"], llm.Vector{llm.Requests: 1, llm.Tokens: 1e6}); got > 1 {
		t.Errorf("tokens, which only one of two places limits, cost %v s", got)
	}
	for _, l := range []*lane.Lane{a, b} {
		l.Prime(0, llm.Vector{llm.Requests: 600})
	}
	wait := c.forecast(&Request{Model: "m", Demand: llm.Demand{Input: 1}}, 0).Wait
	if wait > time.Second {
		t.Errorf("a forecast of %v, want what the faster place takes", wait)
	}
}
