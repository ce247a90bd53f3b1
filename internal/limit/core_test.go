package limit

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

func TestCore_AliasesOfOneLimitShareALane(t *testing.T) {
	c := newCore(limitedTo(Limits{TokensPerMinute: 60_000}), 0)
	a, b := answered(c, "gpt-4o", 0), answered(c, "gpt-4o-2024-08-06", 0)
	le := take(t, c, ask("gpt-4o-2024-08-06", "s"), 0)
	b.Prime(0, llm.Vector{llm.Tokens: 5000}) // of the 6,000 that a cold start may use
	refused := take(t, c, ask("gpt-4o-2024-08-06", "s"), 0)
	c.throttled(refused, &llm.Signal{Dimension: llm.Tokens, HasRetryAfter: true, RetryAfter: 5 * time.Second}, 0)
	queue := enter(t, c, ask("gpt-4o-2024-08-06", "s"), 0)
	if queue.state != waiting {
		t.Fatal("granted during the pause")
	}
	c.throttled(le, &llm.Signal{Dimension: llm.Tokens, Group: "gpt-4o", HasRetryAfter: true, RetryAfter: time.Second}, 0)
	if c.model("gpt-4o-2024-08-06", 0).lanes[0] != a || !slices.Contains(a.Aliases, "gpt-4o-2024-08-06") {
		t.Fatal("the alias has still a lane of its own")
	}
	if queue.model.lanes[0] != a || a.Queued != 1 || queue.state != waiting {
		t.Error("who waited does not wait for the common lane")
	}
	if level := meter(a, llm.Tokens, 0).Level; level > 1000 {
		t.Errorf("level = %v: a merger filled the bucket", level)
	}
	if pause := a.PausedUntil().Sub(0); pause < 5*time.Second {
		t.Errorf("the pause of %v is not the longer of both", pause)
	}
	c.settle(le, llm.Usage{Input: 100}, second)
	c.release(refused, second)
	done := drainDone(c, 60*second)
	if len(done) != 1 || done[0] != queue || c.inflight != 1 || a.InFlight() != 1 {
		t.Errorf("decided %d, in flight %d, of the lane %d", len(done), c.inflight, a.InFlight())
	}
	if le := take(t, c, ask("new-name", "s"), 60*second); le.held.ticket.Lane() == a {
		t.Error("a name that no 429 has told is in the common lane")
	}
	// The name of a limit that no request has used yet is an alias too, and so is one
	// that waits for its first answer.
	c.throttled(take(t, c, ask("gpt-4o", "s"), 60*second), &llm.Signal{Dimension: llm.Tokens, Group: "org-default"}, 60*second)
	c.throttled(take(t, c, ask("gpt-4o", "s"), 90*second), &llm.Signal{Dimension: llm.Tokens, HasRetryAfter: true, RetryAfter: time.Second}, 90*second)
	c.throttled(take(t, c, ask("new-name", "s"), 90*second), &llm.Signal{HasRetryAfter: true, RetryAfter: time.Minute}, 90*second)
	late := enter(t, c, ask("new-name", "s"), 90*second)
	c.throttled(take(t, c, ask("gpt-4o", "s"), 120*second), &llm.Signal{Dimension: llm.Tokens, Group: "new-name"}, 120*second)
	if a.Queued != 1 || late.model.lanes[0] != a {
		t.Errorf("%d wait for the common lane, want the one that asked by the new name", a.Queued)
	}
	for _, name := range []llm.Model{"org-default", "new-name"} {
		if c.models[name] == nil || c.models[name].lanes[0] != a {
			t.Errorf("%s is not known as a name of the limit", name)
		}
	}
}

// TestCore_QueuesOfOneLaneShareItByClients: two names of one limit are two queues, and
// no client gets more for asking by both.
func TestCore_QueuesOfOneLaneShareItByClients(t *testing.T) {
	for _, test := range []struct {
		name string
		core func() *core
	}{
		{"aliases", func() *core {
			c := newCore(limitedTo(Limits{RequestsPerMinute: 60}), 0)
			l := answered(c, "m0", 0)
			for i := 1; i < 8; i++ {
				c.alias(l, llm.Model(fmt.Sprint("m", i)), 0)
			}
			return c
		}},
		{"models that turn out to be one", func() *core {
			c := newCore(limitedTo(Limits{RequestsPerMinute: 60}), 0)
			answered(c, "m0", 0)
			for i := 1; i < 8; i++ {
				c.alias(answered(c, llm.Model(fmt.Sprint("m", i)), 0), "m0", 0)
			}
			return c
		}},
		{"names that have never answered", func() *core { return newCore(limitedTo(Limits{RequestsPerMinute: 60}), 0) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := test.core()
			for i := range 80 { // one client asks for everything, ten times
				r := ask(llm.Model(fmt.Sprint("m", i%8)), "s")
				r.Client = "greedy"
				enter(t, c, r, 0)
			}
			for range 20 {
				r := ask("m0", "s")
				r.Client = "modest"
				enter(t, c, r, 0)
			}
			got := map[string]int{}
			for now := second; got["greedy"]+got["modest"] < 20; now += second {
				for _, le := range drainDone(c, now) {
					got[le.queued.Session.Parent.Name]++
				}
			}
			if got["modest"] < 9 {
				t.Errorf("served: %v, want half each", got)
			}
		})
	}
}

// TestCore_WhatFitsOvertakesNoHeadOfItsContest: a large request that waits under one name
// of a limit is not starved by small ones under another.
func TestCore_WhatFitsOvertakesNoHeadOfItsContest(t *testing.T) {
	c := newCore(limitedTo(Limits{TokensPerMinute: 60_000}), 0)
	c.alias(answered(c, "a", 0), "b", 0)
	c.prime(Recent{Model: "a", Input: 80_000}, 0)
	large := ask("a", "large")
	large.Demand = llm.Demand{Input: 1000} // one that needs more saves up
	first := enter(t, c, large, 0)
	for i := range 50 {
		enter(t, c, ask("b", fmt.Sprint(i)), second)
	}
	if done := drainDone(c, 19*second); len(done) > 0 {
		t.Errorf("%d small ones went before it", len(done))
	}
	if drainDone(c, 22*second); first.state != granted {
		t.Error("the large one does not go when it fits")
	}
}

func TestCore_AModelKeepsItsQueueWhenItAnswers(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerMinute: 30}), 0)
	var first *Lease
	for range 3 {
		first = take(t, c, ask("a", "s"), 0)
	}
	a, b, a2 := enter(t, c, ask("a", "s"), 0), enter(t, c, ask("b", "s"), 0), enter(t, c, ask("a", "s"), 0)
	born := a.model
	level := meter(born.lanes[0], llm.Requests, second).Level
	c.started(first, second)
	if c.models["a"] != born || a2.model != born || b.model == born || b.model.nursery == nil {
		t.Fatal("those who wait for the model are not in its queue")
	}
	if got := meter(born.lanes[0], llm.Requests, second).Level; got != level {
		t.Errorf("level = %v at birth, the nursery had %v", got, level)
	}
	if c.waiting != 3 {
		t.Errorf("waiting = %d", c.waiting)
	}
	order := []*Lease{}
	for now := second; c.waiting > 0 && now < 60*second; now += second {
		order = append(order, drainDone(c, now)...)
	}
	if c.waiting > 0 {
		t.Errorf("%d were left behind", c.waiting)
	}
	if slices.Index(order, a) > slices.Index(order, a2) {
		t.Error("the order of arrival is lost")
	}
	// What the three took of the nursery is the model's now, and so is what comes back.
	before := meter(born.lanes[0], llm.Requests, 60*second).Level
	c.takeBack(first, 60*second)
	if got := meter(born.lanes[0], llm.Requests, 60*second).Level; got != before+1 {
		t.Errorf("level = %v after a request was taken back, before %v", got, before)
	}
}

// TestCore_NewModelsPauseApart: what the provider says of one unknown model is nothing
// to the others, but for the limit that they share.
func TestCore_NewModelsPauseApart(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerMinute: 600}), 0)
	c.throttled(take(t, c, ask("a", "s"), second), &llm.Signal{HasRetryAfter: true, RetryAfter: 30 * time.Second}, second)
	if enter(t, c, ask("a", "s"), 2*second).state != waiting {
		t.Error("the model that was told to wait does not")
	}
	for range 3 { // though its turn comes after a's
		take(t, c, ask("b", "s"), 4*second)
	}
}

// TestCore_WhoHasAnsweredWaitsForNoNewName, and no new name for it.
func TestCore_WhoHasAnsweredWaitsForNoNewName(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerMinute: 60}), 0)
	answered(c, "known", 0)
	c.prime(Recent{Model: "known", Requests: 60}, 0)
	first := enter(t, c, ask("known", "s"), 0)
	for range 3 {
		take(t, c, ask("new", "s"), 0)
	}
	for c.waiting == 1 { // until the new names have used up what they have in common
		enter(t, c, ask("new", "s"), 0)
	}
	if drainDone(c, 3*second); first.state != granted {
		t.Error("the known model waits for new names")
	}
}

// TestCore_ModelsTakeTurnsUnderACapOverAll by what their requests cost, not by their
// number.
func TestCore_ModelsTakeTurnsUnderACapOverAll(t *testing.T) {
	c := newCore(Config{Global: Limits{TokensPerMinute: 60_000}}.withDefaults(), 0)
	answered(c, "large", 0)
	answered(c, "small", 0)
	c.prime(Recent{Input: 60_001}, 0)
	for range 100 {
		for name, tokens := range map[llm.Model]int64{"large": 3000, "small": 1000} {
			r := ask(name, "s")
			r.Demand = llm.Demand{Input: tokens}
			if _, rejected := arrive(c, r, 24*time.Hour, 0); rejected != nil {
				t.Fatal(rejected)
			}
		}
	}
	got := map[llm.Model]int64{}
	for now := second; got["large"]+got["small"] < 60_000; now += second {
		for _, le := range drainDone(c, now) {
			got[le.name] += le.queued.Load.Input
		}
	}
	if got["large"] < 27_000 || got["small"] < 27_000 {
		t.Errorf("served %v tokens, want half each", got)
	}
}

// TestCore_CapsGetBackWhatTheLaneDoes: what is taken together is given back together.
func TestCore_CapsGetBackWhatTheLaneDoes(t *testing.T) {
	cfg := limitedTo(Limits{RequestsPerMinute: 600, TokensPerMinute: 60_000})
	cfg.Global = Limits{RequestsPerMinute: 600, TokensPerMinute: 60_000}
	for name, finish := range map[string]func(c *core, le *Lease){
		"settled to less": func(c *core, le *Lease) { c.settle(le, llm.Usage{Input: 50, Output: 10}, 0) },
		"settled to more": func(c *core, le *Lease) { c.settle(le, llm.Usage{Input: 500, Output: 100}, 0) },
		"not processed":   func(c *core, le *Lease) { c.unavailable(le, 0, 0); c.end(le, 0) },
		"taken back":      func(c *core, le *Lease) { c.takeBack(le, 0); c.end(le, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore(cfg, 0)
			l := answered(c, "m", 0)
			finish(c, take(t, c, ask("m", "s"), 0))
			for _, d := range []llm.Dimension{llm.Requests, llm.Tokens} {
				if a, b := meter(l, d, 0).Level, meter(c.caps, d, 0).Level; a != b {
					t.Errorf("%v: level %v of the lane, %v of the caps", d, a, b)
				}
			}
			if l.InFlight() != 0 || c.caps.InFlight() != 0 {
				t.Errorf("in flight: %d and %d", l.InFlight(), c.caps.InFlight())
			}
		})
	}
}

// TestCore_ARefusedRequestPaysForItsTurnOnce, not for each of its attempts.
func TestCore_ARefusedRequestPaysForItsTurnOnce(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerMinute: 6000}), 0)
	answered(c, "m", 0)
	c.prime(Recent{Model: "m", Requests: 6001}, 0)
	first := enter(t, c, ask("m", "a"), 0)
	for range 10 {
		enter(t, c, ask("m", "b"), 0)
	}
	for served, now := 0, second/100; served < 2; now += second / 100 { // one of each
		served += len(drainDone(c, now))
	}
	if first.state != granted {
		t.Fatal("the two sessions do not take turns")
	}
	for n := range 5 {
		now := second + llm.Instant(n)*second/100 // one more fits
		c.sent(first, now)
		c.takeBack(first, now)
		if rejected := c.requeue(first, time.Hour, 0, now); rejected != nil {
			t.Fatal(rejected)
		}
		c.pump(now, 1)
		if len(c.done) != 1 || first.state != granted {
			t.Fatalf("attempt %d: others have gone first", n+2)
		}
		c.done = c.done[:0]
	}
}

// TestCore_ARefusedRetryKeepsItsTurn: who comes back for a turn that it left, and is
// refused, may come back once more.
func TestCore_ARefusedRetryKeepsItsTurn(t *testing.T) {
	c := newCore(Config{MaxWaiting: 3, Global: Limits{Concurrent: 1}}.withDefaults(), 0)
	take(t, c, ask("m", "x"), 0)
	r := ask("m", "s")
	r.RetryKey = 7
	first := enter(t, c, r, 0)
	seq := first.queued.Seq
	c.cancel(first, second)
	for range 3 {
		enter(t, c, ask("m", "y"), second)
	}
	r.RetryCount = 1
	r.Priority = Low
	if _, rejected := arrive(c, r, time.Hour, 2*second); rejected == nil || rejected.Reason != QueueFull {
		t.Fatalf("refused: %+v", rejected)
	}
	c.cfg.MaxWaiting = 10
	if again := enter(t, c, r, 3*second); again.queued.Seq != seq {
		t.Errorf("its turn is the %dth, want the %dth that it had", again.queued.Seq, seq)
	}
}

// TestCore_ForecastsLeaveOutTheNewcomerItself, and what does not go before it. For who
// has many waiting, the two seconds of the reserve fill first.
func TestCore_ForecastsLeaveOutTheNewcomerItself(t *testing.T) {
	for _, test := range []struct {
		name     string
		mine     int // requests of the newcomer's session that wait
		others   int // of another client
		from, to time.Duration
	}{
		{"alone", 0, 0, 5 * time.Second, 6 * time.Second},
		{"behind its own", 9, 0, 52 * time.Second, 53 * time.Second},
		{"beside a flood", 0, 50, 5 * time.Second, 6 * time.Second},
		{"behind its own, beside a little", 9, 1, 57 * time.Second, 58 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCore(Config{MaxWaiting: 1000, MaxWait: time.Hour, Models: []ModelLimits{{Pattern: "m", Limits: Limits{TokensPerMinute: 60_000}, Profile: "postpaid"}}}.withDefaults(), 0)
			c.prime(Recent{Model: "m", Input: 60_000}, 0)
			r := Request{Model: "m", Client: "me", Demand: llm.Demand{Input: 5000}}
			for range test.mine {
				enter(t, c, r, 0)
			}
			for range test.others {
				other := r
				other.Client = "other"
				enter(t, c, other, 0)
			}
			if got := c.forecast(&r, 0).Wait; got < test.from || got > test.to {
				t.Errorf("a forecast of %v, want %v to %v", got, test.from, test.to)
			}
			if _, rejected := arrive(c, r, test.from-time.Second/10, 0); rejected == nil || rejected.Forecast < test.from || rejected.Forecast > test.to {
				t.Errorf("refused: %+v, want a forecast of %v to %v", rejected, test.from, test.to)
			}
			if _, rejected := arrive(c, r, test.to, 0); rejected != nil {
				t.Errorf("refused though it can wait %v: %+v", test.to, rejected)
			}
		})
	}
}

// TestCore_ACrowdHasTheLimitsOfItsPattern, after a reload too.
func TestCore_ACrowdHasTheLimitsOfItsPattern(t *testing.T) {
	c := newCore(limitedTo(Limits{}), 0)
	var last *Lease
	for i := range 1 + maxNew {
		last = take(t, c, ask(llm.Model(fmt.Sprint("invented-", i)), "s"), 0)
	}
	next := limitedTo(Limits{Concurrent: 1 + maxNew})
	next.Profile = "postpaid"
	c.reconfigure(next, second)
	if got := last.model.lanes[0].Profile(); got != "postpaid" {
		t.Errorf("the crowd is charged as %s", got)
	}
	if last.model != c.nurseries["*"].crowd || enter(t, c, ask("one-more", "s"), second).state != waiting {
		t.Error("the crowd goes by limits of before")
	}
}

// TestCore_ManyNewNamesAreACrowd: beyond a bound invented names share one queue, and the
// model among them that exists gets its own.
func TestCore_ManyNewNamesAreACrowd(t *testing.T) {
	c := newCore(Config{Global: Limits{Concurrent: 500}}.withDefaults(), 0)
	held := []*Lease{}
	for i := range 3 * maxNew {
		held = append(held, take(t, c, ask(llm.Model(fmt.Sprint("invented-", i)), "s"), 0))
	}
	n := c.nurseries[""]
	if len(n.models) != maxNew || n.crowd == nil {
		t.Fatalf("%d queues of new names, want %d and a crowd", len(n.models), maxNew)
	}
	last := held[len(held)-1]
	if last.model != n.crowd {
		t.Fatal("the last name is not in the crowd")
	}
	c.started(last, second)
	if m := c.models[last.name]; m == nil || m == n.crowd || m.nursery != nil {
		t.Error("a model of the crowd that has answered has no queue of its own")
	}
	if n.crowd.nursery != n {
		t.Error("the crowd has been taken for a model")
	}
	for _, le := range held {
		c.release(le, 2*second)
	}
	if c.inflight != 0 {
		t.Errorf("in flight = %d", c.inflight)
	}
	take(t, c, ask("one-more", "s"), 3*second)
	if len(n.models) != maxNew || n.models["one-more"] == nil {
		t.Error("idle names do not make room")
	}
}

func TestCore_ReconfigureScalesLevelsAndKeepsTheQueue(t *testing.T) {
	c := newCore(limitedTo(Limits{TokensPerMinute: 60_000}), 0)
	l := answered(c, "m", 0)
	paused := take(t, c, ask("m", "s"), 0)
	c.throttled(paused, &llm.Signal{HasRetryAfter: true, RetryAfter: second.Sub(0)}, 0)
	le := enter(t, c, ask("m", "s"), 0)
	level := meter(l, llm.Tokens, 0).Level
	c.reconfigure(limitedTo(Limits{TokensPerMinute: 120_000, Concurrent: 1}), 0)
	if got := meter(l, llm.Tokens, 0); got.Level != 2*level || got.Limit != 120_000 {
		t.Errorf("level %v of %d, want %v: a part stays the part it was", got.Level, got.Limit, 2*level)
	}
	if c.waiting != 1 || le.state != waiting {
		t.Error("the queue was not kept")
	}
	if done := drainDone(c, 3*second); len(done) != 0 {
		t.Errorf("decided %v: the new limit of slots does not count the one in flight", done)
	}
	c.release(paused, 3*second)
	if done := drainDone(c, 3*second); len(done) != 1 || le.state != granted {
		t.Errorf("decided %v", done)
	}
	if enter(t, c, ask("m", "s"), 3*second).state != waiting {
		t.Error("the new limit of slots is not held")
	}
	c.reconfigure(limitedTo(Limits{}), 3*second)
	if l.Bounded() || len(drainDone(c, 3*second)) != 1 {
		t.Error("without limits the one that waits must pass")
	}
}

func TestCore_ReconfigureBringsNoDefaultBack(t *testing.T) {
	cfg := Config{Global: Limits{RequestsPerMinute: 60}, Provisional: true, Learn: true, Share: 1}
	c := newCore(cfg, 0)
	if answered(c, "m", 0); !c.caps.Bounded() {
		t.Fatal("there is no default to lift")
	}
	c.observe(take(t, c, ask("m", "s"), 0), &llm.Signal{Levels: levels(llm.Requests, llm.Level{Limit: 500, HasLimit: true})}, 0)
	for _, again := range []Config{cfg, {Global: Limits{RequestsPerMinute: 60, TokensPerMinute: 7}, Provisional: true, Learn: true, Share: 1}} {
		c.reconfigure(again, second)
		if meter(c.caps, llm.Requests, second).Limit != 0 {
			t.Error("the default is a cap again, though the upstream has named its limit")
		}
	}
	c.reconfigure(Config{Global: Limits{RequestsPerMinute: 60}, Share: 1}, second)
	if meter(c.caps, llm.Requests, second).Limit != 60 {
		t.Error("a cap that the user sets must hold")
	}
}

// TestCore_PatternsMayChange: who waits for a model that has not answered goes by the
// limits of the pattern that matches it now.
func TestCore_PatternsMayChange(t *testing.T) {
	c := newCore(limitedTo(Limits{Concurrent: 1}), 0)
	one, two := take(t, c, ask("a", "s"), 0), enter(t, c, ask("b", "s"), 0)
	if two.state != waiting {
		t.Fatal("the two do not share their limits")
	}
	c.reconfigure(Config{Models: []ModelLimits{{Pattern: "b", Limits: Limits{Concurrent: 1}}, {Pattern: "*", Limits: Limits{Concurrent: 1}}}}.withDefaults(), 0)
	if drainDone(c, 0); two.state != granted {
		t.Error("b waits for a, though no pattern is common to both")
	}
	if one.model.queue.Contest() == two.model.queue.Contest() {
		t.Error("the clients of both compete, though for nothing that is common to both")
	}
	if enter(t, c, ask("b", "s"), 0).state != waiting {
		t.Error("the limit of b's own pattern does not hold")
	}
	c.release(one, second)
	c.release(two, second)
	if drainDone(c, second); c.inflight != 1 || c.waiting != 0 {
		t.Errorf("in flight %d, waiting %d", c.inflight, c.waiting)
	}
}

func TestCore_PrimeOnlyLowers(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerMinute: 60, TokensPerMinute: 60_000, RequestsPerDay: 1000}), 0)
	c.prime(Recent{Model: "m", Requests: 1, Input: 1000, RequestsDay: 990}, 0)
	l := c.models["m"].lanes[0]
	if cold := meter(l, llm.Tokens, 0).Level; cold > 7_000 {
		t.Errorf("tokens = %v: little recent use made the cold start warm", cold)
	}
	if got := meter(l, llm.RequestsDay, 0).Level; got != 10 {
		t.Errorf("requests of the day = %v, want 10", got)
	}
	c.prime(Recent{Model: "m", Requests: 59, Input: 40_000, Output: 39_000}, 0)
	if got := meter(l, llm.Tokens, 0).Level; got != -20_000 {
		t.Errorf("tokens = %v, want the debt of 20,000", got)
	}
	if enter(t, c, ask("m", "s"), 0).state != waiting {
		t.Error("granted at once although the last minute was used up")
	}
}

func TestCore_LowBandKeepsItsFloor(t *testing.T) {
	c := newCore(Config{MaxWaiting: 10_000, Models: []ModelLimits{{Pattern: "m", Limits: Limits{RequestsPerMinute: 6000}}}}.withDefaults(), 0)
	c.prime(Recent{Model: "m", Requests: 6001}, 0)
	for _, p := range []Priority{High, Normal, Low} {
		for range 2000 {
			r := ask("m", "s")
			r.Priority = p
			enter(t, c, r, 0)
		}
	}
	served := map[Priority]int{}
	for now := llm.Instant(0); served[High]+served[Normal]+served[Low] < 1000; now = max(now, c.next()) {
		for _, le := range drainDone(c, now) {
			served[High-Priority(le.queued.Session.Band())]++
		}
	}
	for _, p := range []Priority{Normal, Low} {
		if n := served[p]; n < 40 || n > 100 {
			t.Errorf("%v band was served %d of 1000 beside a backlogged high one, want about a twentieth", p, n)
		}
	}
	if served[High] < 850 {
		t.Errorf("high band was served %d of 1000", served[High])
	}
}

func TestCore_AbsurdHeadersAreIgnored(t *testing.T) {
	whole := llm.Level{Limit: 600, Remaining: 400, HasLimit: true, HasRemaining: true}
	for _, test := range []struct {
		name string
		v    llm.Level
	}{
		{"a limit of minus one", llm.Level{Limit: -1, Remaining: -1, HasLimit: true, HasRemaining: true}},
		{"placeholders of zero", llm.Level{HasLimit: true, HasRemaining: true, HasReset: true}},
		{"nothing left, and no limit named", llm.Level{HasRemaining: true}},
		{"nothing left, and full at once", llm.Level{Limit: 600, HasLimit: true, HasRemaining: true, HasReset: true}},
		{"more left than there can be", llm.Level{Remaining: 1 << 60, HasRemaining: true}},
		{"remaining below zero", llm.Level{Limit: 600, Remaining: -7, HasLimit: true, HasRemaining: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCore(Config{Learn: true}.withDefaults(), 0)
			l := answered(c, "m", 0)
			c.observe(take(t, c, ask("m", "s"), 0), &llm.Signal{Levels: levels(llm.Requests, whole)}, second)
			le := take(t, c, ask("m", "s"), 2*second)
			before := meter(l, llm.Requests, 3*second)
			c.observe(le, &llm.Signal{Levels: levels(llm.Requests, test.v)}, 3*second)
			if got := meter(l, llm.Requests, 3*second); got.Limit != before.Limit || got.Level != before.Level {
				t.Errorf("limit %v, level %v; want it left at %v, %v", got.Limit, got.Level, before.Limit, before.Level)
			}
		})
	}
	t.Run("a header that was overtaken", func(t *testing.T) {
		c := newCore(Config{Learn: true}.withDefaults(), 0)
		l := answered(c, "m", 0)
		old, young := take(t, c, ask("m", "s"), 0), take(t, c, ask("m", "s"), second)
		c.observe(young, &llm.Signal{Levels: levels(llm.Requests, whole)}, 2*second)
		level := meter(l, llm.Requests, 2*second).Level
		stale := whole
		stale.Remaining = 3
		c.observe(old, &llm.Signal{Levels: levels(llm.Requests, stale)}, 2*second)
		if got := meter(l, llm.Requests, 2*second).Level; got != level {
			t.Errorf("level = %v, want %v as the younger request told", got, level)
		}
	})
	t.Run("a reset or a pause of a day", func(t *testing.T) {
		c := newCore(Config{Learn: true}.withDefaults(), 0)
		l := answered(c, "m", 0)
		v := whole
		v.Reset, v.HasReset = 24*time.Hour, true
		gr := take(t, c, ask("m", "s"), 0)
		c.observe(gr, &llm.Signal{Levels: levels(llm.Requests, v)}, second)
		c.throttled(gr, &llm.Signal{Dimension: llm.Requests, RetryAfter: 24 * time.Hour, HasRetryAfter: true, Levels: levels(llm.Requests, v)}, second)
		if pause := l.PausedUntil().Sub(second); pause > 2*time.Minute {
			t.Errorf("paused for %v", pause)
		}
	})
}

func TestCore_DayLimitOfThe429EndsTheDay(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	answered(c, "m", 0)
	gr := take(t, c, ask("m", "s"), 0)
	c.throttled(gr, &llm.Signal{Dimension: llm.RequestsDay, Limit: 200, Used: 200, Requested: 1, RetryAfter: 6 * time.Hour, HasRetryAfter: true}, 0)
	rejected := c.requeue(gr, time.Minute, 0, 0)
	if rejected == nil {
		done := drainDone(c, 0)
		if len(done) != 1 || done[0].state != refused || done[0].reason != DailyLimit {
			t.Fatalf("the throttled request: %d decided", len(done))
		}
	}
	r := ask("m", "s")
	_, rejected = arrive(c, r, time.Minute, second)
	if rejected == nil || rejected.Reason != DailyLimit || rejected.RetryAfter > 6*time.Hour || rejected.RetryAfter < 5*time.Hour {
		t.Errorf("refusal = %+v, want the day's reset in 6 h", rejected)
	}
	if at := llm.Instant(6*time.Hour) + second; enter(t, c, r, at).state != granted {
		t.Error("not granted on the next day")
	}
}

// TestCore_WindowOpensSlowlyAfterAPause: a 429 whose limit nobody knows is
// answered as TCP answers a loss.
func TestCore_WindowOpensSlowlyAfterAPause(t *testing.T) {
	c := newCore(Config{MaxWaiting: 1000}.withDefaults(), 0)
	answered(c, "m", 0)
	var flight []*Lease
	for range 16 {
		flight = append(flight, take(t, c, ask("m", "s"), 0))
	}
	for _, gr := range flight {
		c.throttled(gr, &llm.Signal{RetryAfter: time.Second, HasRetryAfter: true}, second/10)
		c.end(gr, second/10)
	}
	for range 100 {
		enter(t, c, ask("m", "s"), second/10)
	}
	if n := len(drainDone(c, second)); n > 0 {
		t.Fatalf("%d went during the pause", n)
	}
	var sizes []int
	for round := range 5 {
		now := llm.Instant(2+round) * second
		done := drainDone(c, now)
		sizes = append(sizes, len(done))
		for _, le := range done {
			c.sent(le, now)
			c.settle(le, llm.Usage{Input: 1}, now.Add(500*time.Millisecond))
		}
	}
	if sizes[0] != 1 || sizes[1] != 2 || sizes[2] != 4 || sizes[3] > 8 || sizes[4] > 10 {
		t.Errorf("went per round trip: %v, want one probe, doubled up to half of what was too much", sizes)
	}
}

func TestCore_FullQueueLetsTheLongestGiveWay(t *testing.T) {
	base := Config{Global: Limits{Concurrent: 1}}
	for _, test := range []struct {
		name string
		cfg  Config
	}{
		{"by count", Config{MaxWaiting: 4}},
		{"by tokens", Config{MaxWaitingTokens: 800}},
		{"by bytes", Config{MaxWaitingBytes: 4000}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Global = base.Global
			c := newCore(test.cfg.withDefaults(), 0)
			take(t, c, ask("m", "x"), 0)
			mine := func(session string, p Priority) Request {
				r := ask("m", session)
				r.Bytes, r.Priority = 1000, p
				return r
			}
			var flood []*Lease
			for range 4 {
				flood = append(flood, enter(t, c, mine("flood", Normal), 0))
			}
			r := mine("flood", Normal)
			if _, rejected := arrive(c, r, time.Hour, 0); rejected == nil || rejected.Reason != QueueFull {
				t.Errorf("the flood's fifth: %v, want queue_full", rejected)
			}
			r = mine("low", Low)
			if _, rejected := arrive(c, r, time.Hour, 0); rejected == nil || rejected.Reason != QueueFull {
				t.Errorf("a newcomer of a lower band: %v, want queue_full", rejected)
			}
			enter(t, c, mine("small", Normal), 0)
			enter(t, c, mine("high", High), 0)
			if flood[3].state != refused || flood[3].reason != QueueFull || flood[2].state != refused || flood[1].state != waiting {
				t.Error("the last of the flood did not give way")
			}
			if c.waiting != 4 || c.bytes != 4000 || c.sum.Tokens() != 800 {
				t.Errorf("waiting %d, bytes %d, tokens %d", c.waiting, c.bytes, c.sum.Tokens())
			}
		})
	}
}

func TestCore_SnapshotNamesEveryGroup(t *testing.T) {
	c := newCore(Config{Global: Limits{RequestsPerMinute: 600}, Models: []ModelLimits{{Pattern: "meta*", Limits: Limits{RequestsPerMinute: 60}}}}.withDefaults(), 0)
	take(t, c, ask("", "s"), 0)
	take(t, c, ask("meta-llama/Llama-3", "s"), 0)
	take(t, c, ask("gpt-4o", "s"), 0)
	gr := take(t, c, ask("gpt-5", "s"), 0)
	names := func() (all []string) {
		for _, g := range c.snapshot(0).Groups {
			all = append(all, g.Name)
		}
		slices.Sort(all)
		return all
	}
	if got := fmt.Sprint(names()); got != "[(new models) (unmetered) meta-llama/Llama-3]" {
		t.Errorf("names = %v", got)
	}
	c.started(gr, 0)
	if got := fmt.Sprint(names()); got != "[(unmetered) gpt-4o gpt-5 meta-llama/Llama-3]" {
		t.Errorf("names after gpt-5 has answered = %v", got)
	}
}

// A hold of the lock is a call of pump.
func TestCore_PumpDecidesNoMoreThanAsked(t *testing.T) {
	c := queued(t, 10_000)
	for more := true; more; {
		more = c.pump(0, pumpBatch)
		if len(c.done) > pumpBatch {
			t.Fatalf("%d decisions in one hold of the lock, at most %d", len(c.done), pumpBatch)
		}
		c.done = c.done[:0]
	}
	if c.waiting != 0 || len(c.active) != 0 {
		t.Errorf("%d still wait in %d groups", c.waiting, len(c.active))
	}
}

// TestCore_SessionsAreBoundedOverAllGroups: models that answer get groups of their
// own, and each new session may be of another one.
func TestCore_SessionsAreBoundedOverAllGroups(t *testing.T) {
	const models = 50
	c := newCore(limitedTo(Limits{}), 0)
	most := 0
	for i := range 3 * 20_000 {
		r := ask(llm.Model(fmt.Sprint("m", i%models)), fmt.Sprint("s", i))
		now := llm.Instant(i) * llm.Instant(time.Microsecond)
		gr := take(t, c, r, now)
		c.started(gr, now)
		c.settle(gr, llm.Usage{Input: 1, Output: 1}, now)
		most = max(most, c.roster.Known())
	}
	held := 0
	for _, m := range c.models {
		for client := range m.queue.Clients() {
			for range client.Sessions() {
				held++
			}
		}
	}
	if len(c.models) < models || most > 20_001 || held > c.roster.Known() {
		t.Errorf("%d models remember %d sessions (counted: %d, at most %d), want 20,000", len(c.models), held, c.roster.Known(), most)
	}
}
