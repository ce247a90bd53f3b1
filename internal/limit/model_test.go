package limit

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// ofClient is a request of a client's session.
func ofClient(model llm.Model, session, client string) Request {
	r := ask(model, session)
	r.Client = client
	return r
}

// TestCore_ANewNameDoesNotStarveTheOldOne: a name that is new has no more turns to catch up on than one that was idle.
func TestCore_ANewNameDoesNotStarveTheOldOne(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerMinute: 60}), 0)
	l := answered(c, "old", 0)
	c.alias(l, "new", 0)
	now := second
	for range 3600 { // an hour of use, one a second
		le := enter(t, c, ask("old", "s"), now)
		for le.state == waiting {
			now += second
			drainDone(c, now)
		}
		c.sent(le, now)
		c.settle(le, llm.Usage{Input: 100, Output: 100}, now)
	}
	served := map[llm.Model]int{}
	for range 100 { // now both, in sessions of their own
		enter(t, c, ask("old", "s1"), now)
		enter(t, c, ask("new", "s2"), now)
	}
	for range 60 {
		now += second
		for _, le := range drainDone(c, now) {
			served[le.name]++
			c.end(le, now)
		}
	}
	if served["old"] < 20 {
		t.Errorf("in a minute: %v", served)
	}
}

// TestCore_AReloadLosesNoSlot: what is in flight while its pattern changes gives its slot back, and the model gets one.
func TestCore_AReloadLosesNoSlot(t *testing.T) {
	c := newCore(limitedTo(Limits{Concurrent: 1}), 0)
	le := take(t, c, ask("a", "s"), 0)
	c.reconfigure(Config{Learn: true, Models: []ModelLimits{{Pattern: "a", Limits: Limits{Concurrent: 1}}, {Pattern: "*", Limits: Limits{Concurrent: 1}}}}.withDefaults(), 0)
	c.settle(le, llm.Usage{Input: 1}, second)
	next := enter(t, c, ask("a", "s"), 2*second)
	if drainDone(c, 1000*second); next.state != granted {
		t.Errorf("never granted again: %+v; nursery %+v", next.model.lanes[0].Meters(2*second), c.nurseries["a"].base.Meters(2*second))
	}
}

// TestCore_NamesOfOneClientDoNotLengthenForecasts: a client is one rival, whatever it asks for.
func TestCore_NamesOfOneClientDoNotLengthenForecasts(t *testing.T) {
	for _, names := range []int{1, 30} {
		c := newCore(limitedTo(Limits{RequestsPerMinute: 60}), 0)
		now := second
		for c.waiting < 30 {
			enter(t, c, ofClient(llm.Model(fmt.Sprint("n", c.waiting%names)), "s", "inventor"), now)
		}
		r := ofClient("real", "s", "other")
		le, rejected := arrive(c, r, 10*time.Second, now)
		if rejected != nil {
			t.Errorf("%d names: refused: %+v", names, rejected)
			continue
		}
		for le.state == waiting {
			now += second
			drainDone(c, now)
		}
		if now > 6*second {
			t.Errorf("%d names: it waited %v", names, now.Sub(second))
		}
	}
}

// TestCore_AConfiguredLimitHoldsAfterADayWasLearned: a limit per minute that turned out to be one per day is unlearned.
func TestCore_AConfiguredLimitHoldsAfterADayWasLearned(t *testing.T) {
	c := newCore(limitedTo(Limits{}), 0)
	l := answered(c, "m", 0)
	now := second
	for i := range int64(4) {
		le := take(t, c, ask("m", "s"), now)
		c.observe(le, &llm.Signal{Levels: levels(llm.Requests, llm.Level{Limit: 10_000, Remaining: 10_000 - i - 1, Reset: time.Duration(i+1) * 8640 * time.Millisecond, HasLimit: true, HasRemaining: true, HasReset: true})}, now)
		c.settle(le, llm.Usage{Input: 1}, now)
		now += second
	}
	c.reconfigure(limitedTo(Limits{RequestsPerMinute: 60}), now)
	if meter(l, llm.Requests, now).Limit != 60 {
		t.Errorf("the limit that was configured is not in force: %+v", l.Meters(now))
	}
}

// TestCore_ADayNamedByTheMinuteLeavesOurDailyCap: a stricter limit of ours goes on as it was.
func TestCore_ADayNamedByTheMinuteLeavesOurDailyCap(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerDay: 100}), 0)
	l := answered(c, "m", 0)
	c.prime(Recent{Model: "m", RequestsDay: 96}, 0)
	now := second
	granted := 0
	for i := range int64(4) {
		le := take(t, c, ask("m", "s"), now)
		granted++
		c.observe(le, &llm.Signal{Levels: levels(llm.Requests, llm.Level{Limit: 10_000, Remaining: 10_000 - i - 1, Reset: time.Duration(i+1) * 8640 * time.Millisecond, HasLimit: true, HasRemaining: true, HasReset: true})}, now)
		c.settle(le, llm.Usage{Input: 1}, now)
		now += second
	}
	if got := meter(l, llm.RequestsDay, now).Level; got > 0 {
		t.Errorf("level %v of the day after 100 of 100: %+v", got, l.Meters(now))
	}
	c.reconfigure(limitedTo(Limits{RequestsPerDay: 100}), now)
	if got := meter(l, llm.RequestsDay, now).Level; got > 0 {
		t.Errorf("level %v after a reload: %+v", got, l.Meters(now))
	}
}

// TestCore_AForgottenNameComesBackToItsLimit: names of one limit are forgotten together, or not at all.
func TestCore_AForgottenNameComesBackToItsLimit(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerMinute: 60}), 0)
	answered(c, "one", 0)
	answered(c, "two", 0)
	le := take(t, c, ask("one", "s"), 0)
	c.throttled(le, &llm.Signal{Dimension: llm.Requests, Group: "two", HasRetryAfter: true}, 0)
	c.end(le, 0)
	now := llm.Instant(0)
	for range 8 { // an hour and more of two alone
		now = now.Add(10 * time.Minute)
		le := enter(t, c, ask("two", "s"), now)
		drainDone(c, now)
		c.sent(le, now)
		c.settle(le, llm.Usage{Input: 1}, now)
	}
	c.confirm(c.model("third", now), "third", now)
	again := take(t, c, ask("one", "s"), now)
	c.settle(again, llm.Usage{Input: 1}, now)
	if a, b := c.models["one"].lanes[0], c.models["two"].lanes[0]; a != b {
		t.Errorf("two lanes for one limit; aliases of two: %v", b.Aliases)
	}
}

func TestCore_AliasesDoNotPileUp(t *testing.T) {
	c := newCore(limitedTo(Limits{}), 0)
	l := answered(c, "dated", 0)
	now := llm.Instant(0)
	for range 5 {
		c.alias(l, "short", now)
		now = now.Add(2 * time.Hour)
		c.models["dated"].used = now
		c.forget(now)
	}
	if len(l.Aliases) > 1 {
		t.Errorf("aliases: %v", l.Aliases)
	}
}

// TestCore_AConfirmedCrowdNameKeepsItsQueue: a name that was in the crowd first, and then had a queue of its own.
func TestCore_AConfirmedCrowdNameKeepsItsQueue(t *testing.T) {
	c := newCore(limitedTo(Limits{Concurrent: 100}), 0)
	held := []*Lease{}
	for i := range maxNew {
		held = append(held, take(t, c, ask(llm.Model(fmt.Sprint("n", i)), "s"), 0))
	}
	le := take(t, c, ask("x", "s"), 0)
	if le.model != c.nurseries["*"].crowd {
		t.Fatal("not in the crowd")
	}
	c.release(held[0], 0)
	second2 := take(t, c, ask("x", "s"), 0) // has room for itself now
	c.started(le, second)
	if c.models["x"] != second2.model {
		t.Errorf("x has two models, and one is in no list")
	}
	n := 0
	for _, g := range c.snapshot(second).Groups {
		n += g.InFlight
	}
	if n != c.inflight {
		t.Errorf("groups have %d in flight, the limiter %d", n, c.inflight)
	}
}

// TestCore_APausedNameSavesNoTurns: who waits for a name that is paused has no claim to what others had meanwhile.
func TestCore_APausedNameSavesNoTurns(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerMinute: 60}), 0)
	first := take(t, c, ofClient("paused", "s", "saver"), 0)
	c.throttled(first, &llm.Signal{HasRetryAfter: true, RetryAfter: time.Minute}, 0)
	c.end(first, 0)
	enter(t, c, ofClient("paused", "s", "saver"), 0)
	now := llm.Instant(0)
	for range 100 {
		enter(t, c, ofClient("b", "s", "other"), now)
	}
	for range 50 {
		now += second
		for _, le := range drainDone(c, now) {
			c.end(le, now)
		}
	}
	for range 30 {
		enter(t, c, ofClient("b", "s", "saver"), now)
	}
	served := ""
	for range 9 {
		now += second
		for _, le := range drainDone(c, now) {
			served += le.queued.Session.Parent.Name[:1]
			c.end(le, now)
		}
	}
	n := 0
	for _, s := range served {
		if s == 'o' {
			n++
		}
	}
	if n < 3 {
		t.Errorf("order %s", served)
	}
}

// TestCore_AnAliasThatWasInFlightPausesItsLane: requests that were sent before a name was known are of its lane too.
func TestCore_AnAliasThatWasInFlightPausesItsLane(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerMinute: 600}), 0)
	l := answered(c, "dated", 0)
	le := take(t, c, ask("short", "s"), second)
	c.alias(l, "short", second)
	c.throttled(le, &llm.Signal{HasRetryAfter: true, RetryAfter: 30 * time.Second}, 2*second)
	if got := l.PausedUntil(); got < 32*second {
		t.Errorf("the lane is paused until %v", got)
	}
	if got := enter(t, c, ask("short", "s"), 3*second); got.state == granted {
		t.Error("granted during the pause")
	}
}

// TestCore_ForgottenNamesLeaveNothing: a client that invents names is remembered once, and
// not with every name.
func TestCore_ForgottenNamesLeaveNothing(t *testing.T) {
	c := newCore(Config{}.withDefaults(), 0)
	for i := range 5000 {
		now := second + llm.Instant(i)
		c.release(take(t, c, ask(llm.Model(fmt.Sprint("invented-", i)), "s"), now), now)
	}
	if n := c.roster.Known(); n > maxNew+1 {
		t.Errorf("%d sessions are remembered, of one client with at most %d names", n, maxNew)
	}
}

// TestCore_NothingIsLost plays random days with names that are invented, answer, turn out
// to be aliases, are paused, forgotten after hours, and move by reloads. What waits and
// what is in flight is counted once everywhere, everybody is served in the end, and every
// slot comes back.
func TestCore_NothingIsLost(t *testing.T) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 60
	}
	for seed := range seeds {
		d := newDay(t, seed)
		for range 400 {
			d.step()
			d.check()
		}
		d.end()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A day is a random history of a core.
type day struct {
	t       *testing.T
	rng     *rand.Rand
	core    *core
	configs []Config
	names   int
	now     llm.Instant
	held    []*Lease
	waiting map[*Lease]bool
}

func newDay(t *testing.T, seed uint64) *day {
	d := &day{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), names: 6, now: 1, waiting: map[*Lease]bool{},
		configs: []Config{
			limitedTo(Limits{RequestsPerMinute: 600, Concurrent: 4}),
			{Learn: true, Models: []ModelLimits{{Pattern: "n1*", Limits: Limits{Concurrent: 3}}, {Pattern: "*", Limits: Limits{TokensPerMinute: 100_000, Concurrent: 5}}}, Global: Limits{Concurrent: 20}},
			{Learn: true, MaxWaiting: 20},
		},
	}
	given := d.rng.IntN(2) == 0
	for i := range d.configs {
		if given {
			d.configs[i].Source = func(name llm.Model, _ func()) lane.Source {
				if len(name)%2 == 0 {
					return lane.NewClock()
				}
				return nil
			}
		}
		d.configs[i] = d.configs[i].withDefaults()
	}
	if d.rng.IntN(3) == 0 {
		d.names = 2 * maxNew
	}
	d.core = newCore(d.configs[d.rng.IntN(3)], 0)
	return d
}

func (d *day) step() {
	rng := d.rng
	d.now = d.now.Add(time.Duration(rng.Int64N(1.5e9)))
	switch k := rng.IntN(12); {
	case k < 5:
		d.arrive()
	case k < 10 && len(d.held) > 0:
		i := rng.IntN(len(d.held))
		le := d.held[i]
		d.held = slices.Delete(d.held, i, i+1)
		d.answer(le)
	case k == 10 && len(d.waiting) > 0:
		all := slices.SortedFunc(maps.Keys(d.waiting), func(a, b *Lease) int { return cmp.Compare(a.queued.Seq, b.queued.Seq) })
		d.core.cancel(all[rng.IntN(len(all))], d.now)
	case k == 11 && rng.IntN(4) == 0:
		d.core.reconfigure(d.configs[rng.IntN(3)], d.now)
	case k == 11 && rng.IntN(8) == 0:
		d.now = d.now.Add(2 * time.Hour)
	}
	d.collect()
}

func (d *day) name() llm.Model { return llm.Model(fmt.Sprint("n", d.rng.IntN(d.names))) }

func (d *day) arrive() {
	rng := d.rng
	r := Request{
		Model: d.name(), Client: fmt.Sprint(rng.IntN(3)), Session: fmt.Sprint(rng.IntN(3)), Priority: Priority(rng.IntN(3) - 1),
		Weight: float64(rng.IntN(3)), ClientWeight: float64(rng.IntN(3)),
		Demand: llm.Demand{Input: rng.Int64N(3000), Output: 100, MaxOutput: rng.Int64N(500)},
	}
	if rng.IntN(20) == 0 {
		r.Model = ""
	}
	switch le, rejected := arrive(d.core, r, time.Duration(1+rng.IntN(60))*time.Second, d.now); {
	case rejected != nil:
	case le.state == granted:
		d.held = append(d.held, le)
	default:
		d.waiting[le] = true
	}
}

// answer has the provider say something, or nothing.
func (d *day) answer(le *Lease) {
	c, rng := d.core, d.rng
	if rng.IntN(4) > 0 {
		c.sent(le, d.now)
	}
	s := llm.Signal{}
	if rng.IntN(3) == 0 {
		s.Levels = levels(llm.Dimension(1+rng.IntN(4)), llm.Level{Limit: 100 + rng.Int64N(1000), Remaining: rng.Int64N(100), HasLimit: true, HasRemaining: true})
	}
	if rng.IntN(6) == 0 {
		s.Profile = []string{"azure", "anthropic", "openai"}[rng.IntN(3)]
	}
	switch rng.IntN(6) {
	case 0, 1:
		c.observe(le, &s, d.now)
		c.settle(le, llm.Usage{Input: rng.Int64N(3000), Output: rng.Int64N(300)}, d.now)
	case 2:
		c.release(le, d.now)
	case 3, 4:
		if rng.IntN(3) == 0 {
			s.Group = d.name()
		}
		s.Dimension = llm.Dimension(rng.IntN(4))
		s.HasRetryAfter, s.RetryAfter = rng.IntN(2) == 0, time.Duration(rng.IntN(5))*time.Second
		notBefore, _ := c.throttled(le, &s, d.now)
		if le.refused++; c.exhausted(le, d.now) == nil && c.requeue(le, 30*time.Second, notBefore, d.now) == nil {
			d.waiting[le] = true
		}
	case 5:
		notBefore, _ := c.unavailable(le, time.Duration(rng.IntN(3))*time.Second, d.now)
		if c.requeue(le, 30*time.Second, notBefore, d.now) == nil {
			d.waiting[le] = true
		}
	}
}

func (d *day) collect() {
	for _, le := range drainDone(d.core, d.now) {
		if le.state == granted {
			d.held = append(d.held, le)
		}
	}
	maps.DeleteFunc(d.waiting, func(le *Lease, _ bool) bool { return le.state != waiting })
}

func (d *day) check() {
	d.t.Helper()
	c := d.core
	if c.waiting != len(d.waiting) || c.inflight != len(d.held) {
		d.t.Fatalf("the core has %d waiting and %d in flight, we %d and %d", c.waiting, c.inflight, len(d.waiting), len(d.held))
	}
	queued, inflight := map[*lane.Lane]int{}, map[*lane.Lane]int{}
	for le := range d.waiting {
		queued[le.model.lanes[0]]++
	}
	for _, le := range d.held {
		inflight[le.held.ticket.Lane()]++
	}
	for _, m := range c.everyModel() {
		l := m.lanes[0]
		if l.Queued != queued[l] || l.InFlight() != inflight[l] || m.listed != (m.queue.Waiting() > 0) {
			d.t.Fatalf("%s: queued %d of %d, in flight %d of %d, listed %v", m.name, l.Queued, queued[l], l.InFlight(), inflight[l], m.listed)
		}
	}
	shown := 0
	for _, g := range c.snapshot(d.now).Groups {
		shown += g.InFlight
	}
	if shown != c.inflight {
		d.t.Fatalf("the snapshot shows %d in flight of %d", shown, c.inflight)
	}
}

// everyModel is all that somebody may ask for.
func (c *core) everyModel() []*model {
	all := slices.Collect(maps.Values(c.models))
	for _, n := range c.nurseries {
		all = slices.AppendSeq(all, maps.Values(n.models))
		if n.crowd != nil {
			all = append(all, n.crowd)
		}
	}
	return append(all, c.plain)
}

func (d *day) end() {
	c := d.core
	for n := 0; c.waiting > 0 || len(d.held) > 0; n++ {
		if n > 1000 {
			d.t.Fatalf("%d still wait", c.waiting)
		}
		for _, le := range d.held {
			c.release(le, d.now)
		}
		d.held = nil
		d.now = d.now.Add(time.Second)
		d.collect()
	}
	if c.bytes != 0 || c.sum != (llm.Load{}) || len(c.active) != 0 || c.roster.Holds() {
		d.t.Errorf("left: %d bytes, %+v, %d queues, held: %v", c.bytes, c.sum, len(c.active), c.roster.Holds())
	}
	lanes := []*lane.Lane{}
	for _, m := range c.everyModel() {
		lanes = append(lanes, m.lanes[0])
	}
	for _, n := range c.nurseries {
		lanes = append(lanes, n.base)
	}
	for _, l := range append(lanes, c.caps) {
		if m := meter(l, llm.Concurrent, d.now); m.Limit > 0 && m.Level != float64(m.Limit) {
			d.t.Errorf("%s: %v of %d slots are free", l.Name, m.Level, m.Limit)
		}
	}
}
