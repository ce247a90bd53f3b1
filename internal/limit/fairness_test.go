package limit

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A stage plays requests against a core in virtual time: it serves those that
// are granted, for a while, and settles them with their actual cost.
type stage struct {
	core    *core
	rng     *rand.Rand
	now     llm.Instant
	actors  map[*Lease]*actor
	serving serving
	service func() time.Duration
	granted func(a *actor, now llm.Instant)
	ended   func(a *actor)
	limit   int64 // tokens a minute
	charged float64
}

// An actor is one request.
type actor struct {
	session string
	weight  float64
	actual  int64
	came    llm.Instant
	lease   *Lease
	ends    llm.Instant
}

type serving []*actor

func (s serving) Len() int           { return len(s) }
func (s serving) Less(i, j int) bool { return s[i].ends < s[j].ends }
func (s serving) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *serving) Push(x any)        { *s = append(*s, x.(*actor)) }
func (s *serving) Pop() any {
	old := *s
	a := old[len(old)-1]
	*s = old[:len(old)-1]
	return a
}

func newStage(tokensPerMinute int64, seed uint64) *stage {
	cfg := Config{MaxWaiting: 1e7, Models: []ModelLimits{{Pattern: "m", Limits: Limits{TokensPerMinute: tokensPerMinute}, Profile: "postpaid"}}}
	s := &stage{core: newCore(cfg.withDefaults(), 0), rng: rand.New(rand.NewPCG(seed, 1)), actors: map[*Lease]*actor{}, limit: tokensPerMinute}
	answered(s.core, "m", 0)
	s.service = func() time.Duration { return 500*time.Millisecond + time.Duration(s.rng.Int64N(1500))*time.Millisecond }
	return s
}

// ask lets a request arrive whose estimate is off by up to a factor.
func (s *stage) ask(client string, a *actor, factor float64) {
	off := 1/factor + s.rng.Float64()*(factor-1/factor)
	s.demand(client, a, max(1, int64(float64(a.actual)*off)))
}

// exactly is ask for a request whose estimate is right.
func (s *stage) exactly(client string, a *actor) { s.demand(client, a, a.actual) }

func (s *stage) demand(client string, a *actor, tokens int64) {
	r := Request{
		Model: "m", Client: client, Session: a.session, Weight: a.weight,
		Demand: llm.Demand{Input: tokens},
	}
	a.came = s.now
	a.lease = &Lease{maxWait: 1 << 60}
	s.actors[a.lease] = a
	if rejected := s.core.enter(a.lease, &r, s.now); rejected != nil {
		panic(rejected)
	}
	s.pump()
}

func (s *stage) begin(a *actor) {
	s.core.sent(a.lease, s.now)
	s.charged += charged(a.lease)
	a.ends = s.now.Add(s.service())
	heap.Push(&s.serving, a)
	s.granted(a, s.now)
}

// pump begins what may begin now.
func (s *stage) pump() {
	for more := true; more; {
		more = s.core.pump(s.now, pumpBatch)
		done := slices.Clone(s.core.done)
		s.core.done = s.core.done[:0]
		for _, le := range done {
			a := s.actors[le]
			delete(s.actors, le)
			s.begin(a)
		}
	}
}

// run plays until then; whatever comes from outside must be there before.
func (s *stage) run(until llm.Instant) {
	for {
		s.pump()
		at := s.core.next()
		if s.core.waiting == 0 {
			at = llm.Never
		}
		if len(s.serving) > 0 {
			at = min(at, s.serving[0].ends)
		}
		if at > until {
			s.now = until
			return
		}
		s.now = max(s.now, at)
		for len(s.serving) > 0 && s.serving[0].ends <= s.now {
			a := heap.Pop(&s.serving).(*actor)
			s.charged += float64(a.actual) - charged(a.lease)
			s.core.settle(a.lease, llm.Usage{Input: a.actual}, s.now)
			if s.ended != nil {
				s.ended(a)
			}
		}
	}
}

// backlog keeps n sessions of weights 1, 2, 4 backlogged for span, and returns
// Jain's index of what they got per weight, and the worst lag of any pair over
// 2·max(c/w), both by actual cost.
func backlog(n int, span time.Duration, factor float64, seed uint64) (jain, lag float64) {
	s := newStage(60_000_000*int64(n)/1000, seed) // a thousand a second for each
	got := make(map[string]float64, n)
	worst, most := 0.0, 0.0
	weights := [...]float64{1, 2, 4}
	ask := func(i int) {
		a := &actor{session: fmt.Sprint(i), weight: weights[i%3], actual: 300 + s.rng.Int64N(7700)}
		most = max(most, float64(a.actual)/a.weight)
		s.ask("c", a, factor)
	}
	s.granted = func(a *actor, now llm.Instant) {
		got[a.session] += float64(a.actual) / a.weight
		var i int
		_, _ = fmt.Sscan(a.session, &i)
		ask(i)
		least, top := got[a.session], got[a.session]
		for _, x := range got {
			least, top = min(least, x), max(top, x)
		}
		worst = max(worst, top-least)
	}
	s.core.prime(Recent{Model: "m", Input: s.limit + 1}, 0)
	for i := range n {
		got[fmt.Sprint(i)] = 0
		ask(i)
		ask(i)
	}
	s.run(llm.Instant(span))
	sum, squares := 0.0, 0.0
	for _, x := range got {
		sum += x
		squares += x * x
	}
	return sum * sum / (float64(n) * squares), worst / (2 * most)
}

// TestCore_BackloggedSessionsGetTheirWeight is the promise of fairness in
// figures: 1,000 sessions, weights 1, 2 and 4, estimates up to two times off.
func TestCore_BackloggedSessionsGetTheirWeight(t *testing.T) {
	for seed := range uint64(2) {
		jain, lag := backlog(1000, 120*time.Second, 2, seed)
		t.Logf("seed %d: Jain %.5f, worst lag %.2f of 2·max(c/w)", seed, jain, lag)
		if jain < 0.998 {
			t.Errorf("seed %d: Jain index %.5f is below 0.998", seed, jain)
		}
		if lag > 1 {
			t.Errorf("seed %d: some pair of sessions lags by %.2f of the bound", seed, lag)
		}
	}
}

// flood lets one session dump 40 million tokens beside 999 others that ask for
// 60 % of the limit, and returns the waits of the others.
func flood(client func(session string) string, span time.Duration, seed uint64) (waits []time.Duration) {
	const perSecond, mean = 50_000, 1000
	s := newStage(perSecond*60, seed)
	s.granted = func(a *actor, now llm.Instant) {
		if a.session != "flood" && now > llm.Instant(10*time.Second) { // past the cold start
			waits = append(waits, now.Sub(a.came))
		}
	}
	for range 20_000 {
		s.ask(client("flood"), &actor{session: "flood", weight: 1, actual: 2000}, 2)
	}
	for at := llm.Instant(0); at < llm.Instant(span); {
		at = at.Add(time.Duration(s.rng.ExpFloat64() * float64(time.Second) * mean / (0.6 * perSecond)))
		s.run(at)
		session := fmt.Sprint(s.rng.IntN(999))
		s.ask(client(session), &actor{session: session, weight: 1, actual: mean*3/10 + s.rng.Int64N(mean*14/10)}, 2)
		s.pump()
	}
	slices.Sort(waits)
	return waits
}

func TestCore_FloodDelaysNobodyElse(t *testing.T) {
	for _, test := range []struct {
		name   string
		client func(session string) string
	}{
		{"from a session of the same client", func(string) string { return "c" }},
		{"from a client among a thousand", func(session string) string { return session }},
	} {
		t.Run(test.name, func(t *testing.T) {
			var waits []time.Duration
			for seed := range uint64(8) {
				waits = append(waits, flood(test.client, 600*time.Second, 1+seed)...)
			}
			slices.Sort(waits)
			p50, p99 := waits[len(waits)/2], waits[len(waits)*99/100]
			t.Logf("%d served, wait p50 %v, p99 %v, max %v", len(waits), p50, p99, waits[len(waits)-1])
			if p99 > 250*time.Millisecond {
				t.Errorf("p99 of the others' waits is %v, above 0.25 s", p99)
			}
			if len(waits) < 8*17_000 {
				t.Errorf("only %d of the others were served", len(waits))
			}
		})
	}
}
