package limit

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

const second = instant(time.Second)

// enter lets a request arrive and fails the test when it is refused.
func enter(t *testing.T, c *core, r Request, now instant) *waiter {
	t.Helper()
	w := new(waiter)
	if rejected := c.arrive(w, &r, time.Hour, now); rejected != nil {
		t.Fatalf("arrive: %v", rejected)
	}
	return w
}

// take is enter for a request that must be granted at once, and sends it.
func take(t *testing.T, c *core, r Request, now instant) *grant {
	t.Helper()
	w := enter(t, c, r, now)
	if !w.state.admitted() {
		t.Fatalf("request of %q was not granted at once", r.Model)
	}
	gr := new(grant)
	w.open(gr, r.Demand, now)
	c.sent(gr, now)
	return gr
}

// drainDone pumps and returns what was decided.
func drainDone(c *core, now instant) []*waiter {
	for c.pump(now, pumpBatch) {
	}
	done := slices.Clone(c.done)
	c.done = c.done[:0]
	return done
}

func ask(model, session string) Request {
	return Request{Model: model, Session: session, Demand: Demand{Input: 100, Output: 100}}
}

func limitedTo(l Limits) Config {
	return Config{Learn: true, Models: []ModelLimits{{Pattern: "*", Limits: l}}}.withDefaults()
}

func TestCore_AliasesOfOneLimitAreMerged(t *testing.T) {
	c := newCore(limitedTo(Limits{TokensPerMinute: 60_000}), 0)
	a, b := c.confirm("gpt-4o", 0), c.confirm("gpt-4o-2024-08-06", 0)
	a.meters[dimTokens].level, b.meters[dimTokens].level = 30_000, 10_000
	gr := take(t, c, ask("gpt-4o-2024-08-06", "s"), 0)
	b.pausedUntil = 5 * second
	queue := enter(t, c, ask("gpt-4o-2024-08-06", "s"), 0)
	if queue.state != waiting {
		t.Fatal("granted during the pause")
	}
	c.throttled(gr, &Signal{Dimension: "tokens", Group: "gpt-4o", HasRetryAfter: true, RetryAfter: time.Second}, 0)
	if c.groupFor("gpt-4o-2024-08-06", 0) != a || !slices.Contains(a.aliases, "gpt-4o-2024-08-06") {
		t.Fatal("the alias has still a group of its own")
	}
	if queue.group() != a || queue.state != waiting {
		t.Error("the waiter did not move to the merged group")
	}
	if level := a.meters[dimTokens].level; level > 10_000 {
		t.Errorf("level = %v: a merger filled the bucket", level)
	}
	c.settle(gr, Usage{Input: 100}, second)
	done := drainDone(c, 6*second)
	if len(done) != 1 || done[0] != queue || c.inflight != 1 {
		t.Errorf("decided %d, in flight %d", len(done), c.inflight)
	}
	if g := take(t, c, ask("new-name", "s"), 10*second); g.group == a {
		t.Error("a name that no 429 has told is in the merged group")
	}
	// The name of a limit that no request has used yet is an alias too.
	c.throttled(take(t, c, ask("gpt-4o", "s"), 10*second), &Signal{Dimension: "tokens", Group: "org-default"}, 10*second)
	if c.groups["org-default"] != a {
		t.Error("the limit's own name is not known")
	}
}

func TestCore_AMergerTakesTheLowerLevel(t *testing.T) {
	c := newCore(limitedTo(Limits{TokensPerMinute: 60_000}), 0)
	a, b := c.confirm("a", 0), c.confirm("b", 0)
	a.meters[dimTokens].level, b.meters[dimTokens].level = 30_000, 10_000
	if got := c.alias(b, "a", 0); got != a || a.meters[dimTokens].level != 10_000 {
		t.Errorf("level = %v, want the lower one", a.meters[dimTokens].level)
	}
}

func TestCore_BirthOfAGroupTakesItsWaitersAlong(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerMinute: 30}), 0)
	var first *grant
	for range 3 {
		first = take(t, c, ask("a", "s"), 0)
	}
	a, b := enter(t, c, ask("a", "s"), 0), enter(t, c, ask("b", "s"), 0)
	a2 := enter(t, c, ask("a", "s"), 0)
	nursery := a.group()
	level := nursery.meters[dimRequests].level
	c.started(first, second)
	born := c.groups["a"]
	if born == nil || a.group() != born || a2.group() != born || b.group() != nursery {
		t.Fatal("the waiters of the model are not in its group")
	}
	if got := born.meters[dimRequests].level; got > level+0.6 {
		t.Errorf("level = %v at birth, the nursery had %v", got, level)
	}
	if born.bands[1].first() != a || a.next != a2 {
		t.Error("the order of arrival is lost")
	}
	if c.waiting != 3 {
		t.Errorf("waiting = %d", c.waiting)
	}
	for now := second; c.waiting > 0 && now < 60*second; now += second {
		drainDone(c, now)
	}
	if c.waiting > 0 {
		t.Errorf("%d were left behind", c.waiting)
	}
}

func TestCore_ReconfigureScalesLevelsAndKeepsTheQueue(t *testing.T) {
	c := newCore(limitedTo(Limits{TokensPerMinute: 60_000}), 0)
	g := c.confirm("m", 0)
	b := &g.meters[dimTokens]
	b.level = 30_000
	g.pausedUntil = second
	w := enter(t, c, ask("m", "s"), 0)
	c.reconfigure(limitedTo(Limits{TokensPerMinute: 120_000, Concurrent: 1}), 0)
	if b.level != 60_000 || b.rate != 2000 {
		t.Errorf("level %v rate %v, want 60000 and 2000: half full stays half full", b.level, b.rate)
	}
	if c.waiting != 1 || w.state != waiting {
		t.Error("the queue was not kept")
	}
	if done := drainDone(c, second); len(done) != 1 || !done[0].state.admitted() {
		t.Errorf("decided %v", done)
	}
	if enter(t, c, ask("m", "s"), second).state != waiting {
		t.Error("the new limit of places does not count the one in flight")
	}
	c.reconfigure(limitedTo(Limits{}), second)
	if g.meters.bounded() || len(drainDone(c, second)) != 1 {
		t.Error("without limits the waiter must pass")
	}
}

func TestCore_ReconfigureBringsNoDefaultBack(t *testing.T) {
	cfg := Config{Global: Limits{RequestsPerMinute: 60}, Provisional: true, Learn: true, Share: 1}
	c := newCore(cfg, 0)
	g := c.confirm("m", 0)
	if !c.global[dimRequests].on {
		t.Fatal("there is no default to lift")
	}
	c.learn(g, dimRequests, 500, continuous, time.Minute, 0)
	for _, again := range []Config{cfg, {Global: Limits{RequestsPerMinute: 60, TokensPerMinute: 7}, Provisional: true, Learn: true, Share: 1}} {
		c.reconfigure(again, second)
		if c.global[dimRequests].on {
			t.Error("the default is a cap again, though the upstream has named its limit")
		}
	}
	c.reconfigure(Config{Global: Limits{RequestsPerMinute: 60}, Share: 1}, second)
	if !c.global[dimRequests].on {
		t.Error("a cap that the user sets must hold")
	}
}

func TestCore_PrimeOnlyLowers(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerMinute: 60, TokensPerMinute: 60_000, RequestsPerDay: 1000}), 0)
	c.prime(Recent{Model: "m", Requests: 1, Input: 1000, RequestsDay: 990}, 0)
	m := &c.groups["m"].meters
	cold := m[dimTokens].level
	if cold > 7_000 {
		t.Errorf("tokens = %v: little recent use made the cold start warm", cold)
	}
	if m[dimRequestsDay].level != 10 {
		t.Errorf("requests of the day = %v, want 10", m[dimRequestsDay].level)
	}
	c.prime(Recent{Model: "m", Requests: 59, Input: 40_000, Output: 39_000}, 0)
	if got := m[dimTokens].level; got != -20_000 {
		t.Errorf("tokens = %v, want the debt of 20,000", got)
	}
	if enter(t, c, ask("m", "s"), 0).state != waiting {
		t.Error("granted at once although the last minute was used up")
	}
}

func TestCore_LowBandKeepsItsFloor(t *testing.T) {
	c := newCore(Config{MaxWaiting: 10_000, Models: []ModelLimits{{Pattern: "m", Limits: Limits{RequestsPerMinute: 6000}}}}.withDefaults(), 0)
	c.groupFor("m", 0).meters[dimRequests].lower(0, -1)
	for _, p := range []Priority{High, Normal, Low} {
		for range 2000 {
			r := ask("m", "s")
			r.Priority = p
			enter(t, c, r, 0)
		}
	}
	served := map[Priority]int{}
	for now := instant(0); served[High]+served[Normal]+served[Low] < 1000; now = max(now, c.next()) {
		for _, w := range drainDone(c, now) {
			served[w.session.priority]++
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
	whole := Level{Limit: 600, Remaining: 400, HasLimit: true, HasRemaining: true}
	for _, test := range []struct {
		name string
		v    Level
	}{
		{"a limit of minus one", Level{Limit: -1, Remaining: -1, HasLimit: true, HasRemaining: true}},
		{"placeholders of zero", Level{HasLimit: true, HasRemaining: true, HasReset: true}},
		{"nothing left, and no limit named", Level{HasRemaining: true}},
		{"nothing left, and full at once", Level{Limit: 600, HasLimit: true, HasRemaining: true, HasReset: true}},
		{"more left than there can be", Level{Remaining: 1 << 60, HasRemaining: true}},
		{"remaining below zero", Level{Limit: 600, Remaining: -7, HasLimit: true, HasRemaining: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCore(Config{Learn: true}.withDefaults(), 0)
			c.confirm("m", 0)
			c.observe(take(t, c, ask("m", "s"), 0), &Signal{Requests: whole}, second)
			b := &c.groups["m"].meters[dimRequests]
			gr := take(t, c, ask("m", "s"), 2*second)
			b.advance(3 * second)
			level, limit := b.level, b.limit
			c.observe(gr, &Signal{Requests: test.v}, 3*second)
			if !b.on || b.limit != limit || b.level != level {
				t.Errorf("on %v, limit %v, level %v; want it left at %v, %v", b.on, b.limit, b.level, limit, level)
			}
		})
	}
	t.Run("a header that was overtaken", func(t *testing.T) {
		c := newCore(Config{Learn: true}.withDefaults(), 0)
		c.confirm("m", 0)
		old, young := take(t, c, ask("m", "s"), 0), take(t, c, ask("m", "s"), second)
		c.observe(young, &Signal{Requests: whole}, 2*second)
		level := c.groups["m"].meters[dimRequests].level
		stale := whole
		stale.Remaining = 3
		c.observe(old, &Signal{Requests: stale}, 2*second)
		if got := c.groups["m"].meters[dimRequests].level; got != level {
			t.Errorf("level = %v, want %v as the younger request told", got, level)
		}
	})
	t.Run("a reset or a pause of a day", func(t *testing.T) {
		c := newCore(Config{Learn: true}.withDefaults(), 0)
		c.confirm("m", 0)
		v := whole
		v.Reset, v.HasReset = 24*time.Hour, true
		gr := take(t, c, ask("m", "s"), 0)
		c.observe(gr, &Signal{Requests: v}, second)
		c.throttled(gr, &Signal{Dimension: "requests", RetryAfter: 24 * time.Hour, HasRetryAfter: true, Requests: v}, second)
		if pause := c.groups["m"].pausedUntil.sub(second); pause > 2*time.Minute {
			t.Errorf("paused for %v", pause)
		}
	})
}

func TestCore_DayLimitOfThe429EndsTheDay(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	c.confirm("m", 0)
	gr := take(t, c, ask("m", "s"), 0)
	c.throttled(gr, &Signal{Dimension: "requests_day", Limit: 200, Used: 200, Requested: 1, RetryAfter: 6 * time.Hour, HasRetryAfter: true}, 0)
	w := new(waiter)
	rejected := c.requeue(gr, w, time.Minute, 0, 0, 0)
	if rejected == nil {
		done := drainDone(c, 0)
		if len(done) != 1 || done[0].state != refused || done[0].reason != DailyLimit {
			t.Fatalf("the throttled request: %d decided", len(done))
		}
	}
	r := ask("m", "s")
	rejected = c.arrive(new(waiter), &r, time.Minute, second)
	if rejected == nil || rejected.Reason != DailyLimit || rejected.RetryAfter > 6*time.Hour || rejected.RetryAfter < 5*time.Hour {
		t.Errorf("refusal = %+v, want the day's reset in 6 h", rejected)
	}
	if at := instant(6*time.Hour) + second; !enter(t, c, r, at).state.admitted() {
		t.Error("not granted on the next day")
	}
}

// TestCore_WindowOpensSlowlyAfterAPause: a 429 whose limit nobody knows is
// answered as TCP answers a loss.
func TestCore_WindowOpensSlowlyAfterAPause(t *testing.T) {
	c := newCore(Config{MaxWaiting: 1000}.withDefaults(), 0)
	c.confirm("m", 0)
	var flight []*grant
	for range 16 {
		flight = append(flight, take(t, c, ask("m", "s"), 0))
	}
	for _, gr := range flight {
		c.throttled(gr, &Signal{RetryAfter: time.Second, HasRetryAfter: true}, second/10)
		c.close(gr, second/10)
	}
	for range 100 {
		enter(t, c, ask("m", "s"), second/10)
	}
	if n := len(drainDone(c, second)); n > 0 {
		t.Fatalf("%d went during the pause", n)
	}
	var sizes []int
	for round := range 5 {
		now := instant(2+round) * second
		done := drainDone(c, now)
		sizes = append(sizes, len(done))
		for _, w := range done {
			gr := new(grant)
			w.open(gr, w.demand.unpack(), now)
			c.sent(gr, now)
			c.settle(gr, Usage{Input: 1}, now.add(500*time.Millisecond))
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
			var flood []*waiter
			for range 4 {
				flood = append(flood, enter(t, c, mine("flood", Normal), 0))
			}
			r := mine("flood", Normal)
			if rejected := c.arrive(new(waiter), &r, time.Hour, 0); rejected == nil || rejected.Reason != QueueFull {
				t.Errorf("the flood's fifth: %v, want queue_full", rejected)
			}
			r = mine("low", Low)
			if rejected := c.arrive(new(waiter), &r, time.Hour, 0); rejected == nil || rejected.Reason != QueueFull {
				t.Errorf("a newcomer of a lower band: %v, want queue_full", rejected)
			}
			enter(t, c, mine("small", Normal), 0)
			enter(t, c, mine("high", High), 0)
			if flood[3].state != refused || flood[3].reason != QueueFull || flood[2].state != refused || flood[1].state != waiting {
				t.Error("the last of the flood did not give way")
			}
			if c.waiting != 4 || c.bytes != 4000 || c.sum.tokens != 800 {
				t.Errorf("waiting %d, bytes %d, tokens %d", c.waiting, c.bytes, c.sum.tokens)
			}
		})
	}
}

// TestCore_TimeThatGoesBackMintsNothing: instants are monotonic in the shell;
// the core must bear one that is not.
func TestCore_TimeThatGoesBackMintsNothing(t *testing.T) {
	for _, profile := range []string{"postpaid", "azure"} {
		c := newCore(Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{TokensPerMinute: 6000}, Profile: profile}}}.withDefaults(), 0)
		g := c.groupFor("m", 0)
		b := &g.meters[dimTokens]
		for _, now := range []instant{10, 5, 10, 1, 0, 10, 3, 10} {
			before, level := b.at, b.level
			b.advance(now * second)
			if b.at < before || b.level < level {
				t.Errorf("%s: at %d s the bucket went back", profile, now)
			}
		}
		if b.at != 10*second {
			t.Errorf("%s: the bucket's time is %v", profile, b.at.sub(0))
		}
		if most := 600 + 10*100.0 + 100; b.level > most {
			t.Errorf("%s: level = %v, above what 10 s refill", profile, b.level)
		}
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
	c, _ := queued(t, 10_000)
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
	for i := range 3 * maxSessions {
		r := ask(fmt.Sprint("m", i%models), fmt.Sprint("s", i))
		now := instant(i) * instant(time.Microsecond)
		gr := take(t, c, r, now)
		c.started(gr, now)
		c.settle(gr, Usage{Input: 1, Output: 1}, now)
		most = max(most, c.roster.known)
	}
	held := 0
	for _, g := range c.groups {
		for range g.sessions() {
			held++
		}
	}
	if len(c.groups) < models || most > maxSessions+1 || held > c.roster.known {
		t.Errorf("%d groups remember %d sessions (counted: %d, at most %d), want %d", len(c.groups), held, c.roster.known, most, maxSessions)
	}
}
