package lane

import (
	"flag"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// TestMain sets the number of random histories to 1,000 where -rapid.checks
// does not say another.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		_ = flag.Set("rapid.checks", "1000")
	}
	goleak.VerifyTestMain(m)
}

func learning(limits llm.Vector) Config {
	return Config{Limits: limits, Share: 1, Learn: true, Roll: func() float64 { return 0.5 }}
}

var demand = llm.Demand{Input: 1000, Output: 200, MaxOutput: 800, Chars: 4000}

// sent takes a slot for demand, and sends.
func sent(l *Lane, now llm.Instant) *Ticket {
	load := demand.Load()
	charge := l.Charge(load)
	t := l.Take(now, load, Ask{Charge: charge})
	t.Sent(now)
	return &t
}

// hear has l hear an answer of a dialect, with nothing else in it.
func hear(l *Lane, dialect string, now llm.Instant) {
	t := sent(l, now)
	t.Observe(now, &llm.Signal{Profile: dialect})
	t.Started(now)
	t.End(now)
}

func TestLane_AutoFollowsADialect(t *testing.T) {
	for dialect, want := range map[string]string{
		"anthropic": "anthropic", "azure": "azure", "openai": "reserve", "": "reserve", "unheard-of": "reserve", "auto": "reserve",
	} {
		l := New("m", learning(llm.Vector{llm.Requests: 600, llm.Tokens: 60_000}), NewClock(), 0)
		if hear(l, dialect, 0); l.Profile() != want {
			t.Errorf("after an answer that speaks %q: %s, want %s", dialect, l.Profile(), want)
		}
		paced := l.limits[llm.Requests].Paced
		if sliding := l.limits[llm.Tokens].Refill == Sliding; sliding != (want == "azure") || paced != sliding {
			t.Errorf("%q: tokens by fixed minutes: %v, requests by the second: %v", dialect, sliding, paced)
		}
	}
	cfg := learning(llm.Vector{})
	cfg.Profile = "postpaid"
	l := New("m", cfg, NewClock(), 0)
	if hear(l, "azure", 0); l.Profile() != "postpaid" {
		t.Errorf("a profile that is configured yields to a dialect: %s", l.Profile())
	}
}

// TestLane_AWrongDialectIsUnlearned by answers that speak another: three in a row, for
// behind a gateway one answer in a while may be another's.
func TestLane_AWrongDialectIsUnlearned(t *testing.T) {
	for _, test := range []struct{ first, then, want string }{
		{"azure", "openai", "reserve"},
		{"azure", "anthropic", "anthropic"},
		{"anthropic", "azure", "azure"},
		{"anthropic", "openai", "reserve"},
	} {
		l := New("m", learning(llm.Vector{llm.Requests: 600}), NewClock(), 0)
		hear(l, test.first, 0)
		for range 10 { // one now and then changes nothing
			for range contrary - 1 {
				hear(l, test.then, second)
			}
			if l.Profile() != test.first {
				t.Errorf("%s, then %s at times: %s", test.first, test.then, l.Profile())
			}
			hear(l, test.first, second)
		}
		for range contrary {
			hear(l, test.then, 2*second)
		}
		if l.Profile() != test.want {
			t.Errorf("%s, then %s: %s, want %s", test.first, test.then, l.Profile(), test.want)
		}
		if paced := l.limits[llm.Requests].Paced; paced != (test.want == "azure") {
			t.Errorf("%s, then %s: requests paced: %v", test.first, test.then, paced)
		}
	}
}

// TestLane_ADialectThatTheLevelsContradictIsRefuted: a server may send Azure's headers
// and charge by use. The hint comes with every answer, and must not be taken up again.
func TestLane_ADialectThatTheLevelsContradictIsRefuted(t *testing.T) {
	const limit, rate = 60_000.0, 1000.0
	load := llm.Demand{Input: 5000, Output: 1000, MaxOutput: 20_000, Chars: 20_000}.Load()
	for _, test := range []struct {
		name, dialect    string
		admitted, refund float64 // what the provider books, and what it gives back in the end
		want             string
	}{
		{"azure that charges by use", "azure", 6000, 0, "reserve"}, // which is right for both who settle
		{"azure that settles", "azure", 25_000, 19_000, "reserve"},
		{"azure as it should be", "azure", 25_000, 0, "azure"},
		{"anthropic that charges the cap", "anthropic", 20_000, 0, "openai"},
		{"anthropic as it should be", "anthropic", 25_000, 19_000, "anthropic"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := New("m", learning(llm.Vector{}), NewClock(), 0)
			level, now := limit/2, llm.Instant(0)
			for i := range 40 {
				charge := l.Charge(load)
				k := l.Take(now, load, Ask{Charge: charge})
				k.Sent(now)
				level -= test.admitted
				s := &llm.Signal{Profile: test.dialect}
				s.Levels[llm.Tokens] = llm.Level{Limit: limit, Remaining: int64(level), HasLimit: true, HasRemaining: true}
				k.Observe(now, s)
				k.Started(now)
				if i == 0 && l.Profile() != test.dialect {
					t.Fatalf("charges as %s after the first answer", l.Profile())
				}
				k.Settle(now, llm.Usage{Input: 5000, Output: 1000})
				k.End(now)
				level += test.refund
				pass := (test.admitted - test.refund) / rate
				now = now.Add(Seconds(pass))
				level += pass * rate
			}
			if l.Profile() != test.want {
				t.Errorf("charges as %s, want %s", l.Profile(), test.want)
			}
		})
	}
}

func TestLane_MergersKeepTheStricter(t *testing.T) {
	limits := llm.Vector{llm.Tokens: 60_000}
	a, b := New("a", learning(limits), NewClock(), 0), New("b", learning(limits), NewClock(), 0)
	b.Prime(0, llm.Vector{llm.Tokens: 5000})
	inFlight := sent(b, 0)
	low := b.Meters(0)[0].Level
	a.Merge(b, 0)
	if got := a.Meters(0)[0].Level; got != low {
		t.Errorf("level = %v, want the lower one, %v", got, low)
	}
	inFlight.TakeBack(0)
	inFlight.End(0)
	charge := inFlight.Charge()[llm.Tokens]
	if got := a.Meters(0)[0].Level; got != low+charge || a.InFlight() != 0 || inFlight.Lane() != a {
		t.Errorf("level = %v after a request of the other was taken back, want %v", got, low+charge)
	}
}

// TestLane_AConfiguredLimitStaysACap: the provider's word counts below it, and no longer
// once it names a higher one.
func TestLane_AConfiguredLimitStaysACap(t *testing.T) {
	c := NewClock()
	l := New("m", learning(llm.Vector{llm.Requests: 600}), c, 0)
	for _, test := range []struct {
		told    int64
		want    float64
		mirrors bool
	}{{500, 500, true}, {700, 600, false}, {600, 600, true}, {400, 400, true}, {10_000, 600, false}} {
		k := sent(l, 0)
		k.Observe(0, &llm.Signal{Levels: [llm.NumDimensions]llm.Level{llm.Requests: {Limit: test.told, HasLimit: true}}})
		if b := &c.buckets[llm.Requests]; b.limit != test.want || b.mirrors != test.mirrors {
			t.Errorf("told %d: limit %v, its level the provider's: %v; want %v and %v", test.told, b.limit, b.mirrors, test.want, test.mirrors)
		}
		if learned := l.Meters(0)[0].Learned; learned != (test.want != 600) {
			t.Errorf("told %d: learned %v", test.told, learned)
		}
	}
}

// TestLane_ANewLimitStartsCold: the level that the first answer tells is reached step by
// step, a fifth of the way with each further answer.
func TestLane_ANewLimitStartsCold(t *testing.T) {
	c := NewClock()
	l := New("m", learning(llm.Vector{}), c, 0)
	s := &llm.Signal{}
	s.Levels[llm.Requests] = llm.Level{Limit: 600, Remaining: 500, HasLimit: true, HasRemaining: true}
	first := sent(l, second)
	first.Observe(second, s)
	b := &c.buckets[llm.Requests]
	if b.level > 0.1*600+b.reserve() {
		t.Errorf("level = %v after the first answer, want a tenth of the limit", b.level)
	}
	next := sent(l, 2*second)
	b.advance(2 * second)
	before := b.level
	next.Observe(2*second, s)
	if want := before + 0.2*(500-before); b.level < want-1 || b.level > want+1 {
		t.Errorf("level = %v after the second, want a fifth of the way from %v to 500", b.level, before)
	}
}

// TestLane_AShareIsOfWhatTheSourceIsTold: LIMIT_SHARE holds whatever the source is.
func TestLane_AShareIsOfWhatTheSourceIsTold(t *testing.T) {
	cfg := learning(llm.Vector{llm.Requests: 600, llm.Concurrent: 2})
	cfg.Share = 0.25
	c := NewClock()
	l := New("m", cfg, c, 0)
	k := sent(l, 0)
	k.Observe(0, &llm.Signal{Levels: [llm.NumDimensions]llm.Level{llm.Tokens: {Limit: 80_000, HasLimit: true}}})
	for d, want := range map[llm.Dimension]float64{llm.Requests: 150, llm.Tokens: 20_000, llm.Concurrent: 1} {
		if got := c.buckets[d].limit; got != want {
			t.Errorf("%v: the source was told %v, want %v", d, got, want)
		}
	}
	if c.buckets[llm.Tokens].mirrors {
		t.Error("a level that others draw on is held to be ours")
	}
}

func TestCongestion_OpensAsTCPDoes(t *testing.T) {
	c := congestion{cutAt: -1}
	if c.full(1000) {
		t.Error("bounded without a refusal")
	}
	for range 16 { // all on the way at once: one loss
		c.refused(second, 0, 16, true)
	}
	if c.full(0) || !c.full(1) {
		t.Error("more or less than one slot after a refusal")
	}
	for now := 2 * second; c.window < 8; now += second {
		c.answered(now, now)
	}
	if before := c.window; before != 8 {
		t.Errorf("window = %v, want it doubled up to half of what was too much", before)
	}
	for range 8 {
		c.answered(3*second, 3*second)
	}
	if c.window < 8.9 || c.window > 9.1 {
		t.Errorf("window = %v after a round trip more, want 9", c.window)
	}
	if c.answered(second+llm.Instant(windowForget)+1, 4*second); c.window != 0 {
		t.Error("not forgotten after ten minutes")
	}
	if c.refused(4*second, 1, 5, true); c.window != 0 && time.Duration(c.cutAt) != 4*time.Second {
		t.Errorf("window = %v", c.window)
	}
}

func TestCongestion_ATryThatIsRefusedAgainTeachesNothing(t *testing.T) {
	c := congestion{cutAt: -1}
	c.refused(second, 0, 16, true)
	for n := llm.Instant(2); n < 6; n++ { // the tries of an outage
		c.refused(n*second, n*second-1, 1, true)
	}
	for now := 7 * second; c.window < 8; now += second {
		if c.answered(now, now); now > 15*second {
			t.Fatalf("window = %v after eight answers: it opens by one per round trip, and 16 had passed before", c.window)
		}
	}
}

func TestCongestion_LongAnswersStopNobody(t *testing.T) {
	c := congestion{cutAt: -1}
	c.refused(second, 0, 3, false)
	if c.full(3) || !c.full(4) {
		t.Error("three answers that go on for long leave no slot, or more than one")
	}
	for range 3 {
		c.ended(0)
	}
	if c.ended(2 * second); c.full(0) || !c.full(1) {
		t.Errorf("afterwards the window is of another size: %+v", c)
	}
}
