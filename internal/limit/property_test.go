package limit

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// A history drives a core with random events and checks, after each, what must
// hold at every moment.
type history struct {
	core    *core
	now     instant
	waiting map[*waiter]Demand
	grants  []*grant
	log     []string // decisions, for replay
	booked  []booking
	limit   float64 // tokens per minute of model "m"
	ended   int
	arrived int
}

type booking struct {
	at     instant
	tokens float64
}

func newHistory(rpm, tpm int64, places int64) *history {
	cfg := Config{
		MaxWaiting: 50,
		Global:     Limits{Concurrent: places},
		Models:     []ModelLimits{{Pattern: "m", Limits: Limits{RequestsPerMinute: rpm, TokensPerMinute: tpm}, Profile: "postpaid"}},
	}
	return &history{core: newCore(cfg.withDefaults(), 0), waiting: map[*waiter]Demand{}, limit: float64(tpm)}
}

// settleDown pumps until nothing is left to decide, and takes the decisions.
func (h *history) settleDown(t *rapid.T) {
	for h.core.pump(h.now, pumpBatch) {
	}
	for _, w := range h.core.done {
		d, ok := h.waiting[w]
		if !ok {
			t.Fatalf("a waiter was decided twice")
		}
		delete(h.waiting, w)
		h.decided(w, d)
	}
	h.core.done = h.core.done[:0]
}

func (h *history) decided(w *waiter, d Demand) {
	h.log = append(h.log, fmt.Sprintf("%d %d %d", h.now, w.seq, w.state))
	if !w.state.admitted() {
		h.ended++
		return
	}
	gr := new(grant)
	w.open(gr, d, h.now)
	h.booked = append(h.booked, booking{h.now, float64(gr.charge.tokens)})
	h.grants = append(h.grants, gr)
}

func (h *history) step(t *rapid.T) {
	switch rapid.IntRange(0, 10).Draw(t, "event") {
	case 0, 1, 2:
		d := Demand{Input: rapid.Int64Range(1, 3000).Draw(t, "input")}
		r := Request{
			Model: "m", Client: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "client"),
			Session: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "session"),
			Weight:  rapid.SampledFrom([]float64{0, 1, 2, 4}).Draw(t, "weight"), Demand: d,
			Priority: Priority(rapid.IntRange(-1, 1).Draw(t, "priority")),
		}
		w, gr := new(waiter), new(grant)
		h.arrived++
		if rapid.Bool().Draw(t, "by the short way") && h.core.seat(gr, &r, h.now) {
			h.booked = append(h.booked, booking{h.now, float64(gr.charge.tokens)})
			h.grants = append(h.grants, gr)
		} else if h.core.arrive(w, &r, time.Duration(rapid.Int64Range(1e9, 200e9).Draw(t, "wait")), h.now) != nil {
			h.ended++
		} else if w.state.admitted() {
			h.decided(w, d)
		} else {
			h.waiting[w] = d
		}
	case 3, 4:
		h.now = h.now.add(time.Duration(rapid.Int64Range(0, 5e9).Draw(t, "pass")))
	case 5:
		if next := h.core.next(); next != never {
			h.now = max(h.now, next)
		}
	case 6:
		if w := h.pickWaiter(t); w != nil {
			if !h.core.cancel(w, 0, h.now) {
				t.Fatal("a waiter could not leave")
			}
			delete(h.waiting, w)
			h.ended++
		}
	case 7:
		if gr := h.takeGrant(t); gr != nil {
			h.core.sent(gr, h.now)
			actual := Usage{Input: int64(float64(gr.demand.Input) * rapid.Float64Range(0.5, 1).Draw(t, "actual"))}
			h.core.settle(gr, actual, h.now)
			h.booked = append(h.booked, booking{h.now, float64(actual.Input - gr.charge.tokens)})
			h.ended++
		}
	case 8:
		if gr := h.takeGrant(t); gr != nil {
			if rapid.Bool().Draw(t, "sent") || gr.sent {
				h.core.sent(gr, h.now)
			} else {
				h.booked = append(h.booked, booking{h.now, -float64(gr.charge.tokens)})
			}
			h.core.release(gr, h.now)
			h.ended++
		}
	case 9:
		if gr := h.takeGrant(t); gr != nil {
			h.core.sent(gr, h.now)
			var notBefore instant
			if rapid.Bool().Draw(t, "throttled") {
				notBefore, _ = h.core.throttled(gr, &Signal{RetryAfter: time.Second, HasRetryAfter: true, Dimension: "tokens"}, h.now)
			} else {
				if rapid.Bool().Draw(t, "in a storm") {
					gr.group.gate.row = stormRow
				}
				h.booked = append(h.booked, booking{h.now, -float64(gr.charge.tokens)})
				notBefore, _ = h.core.unavailable(gr, time.Second, h.now)
			}
			w := new(waiter)
			if h.core.requeue(gr, w, 100*time.Second, 0, notBefore, h.now) != nil {
				h.ended++
			} else {
				h.waiting[w] = gr.demand
			}
		}
	case 10:
		if n := len(h.grants); n > 0 {
			gr := h.grants[rapid.IntRange(0, n-1).Draw(t, "answered")]
			h.core.sent(gr, h.now)
			h.core.started(gr, h.now)
		}
	}
	h.settleDown(t)
	h.check(t)
}

// wouldFit tells whether a place is free.
func (b *bucket) wouldFit() bool { return !b.on || b.level >= 1 }

func (h *history) pickWaiter(t *rapid.T) *waiter {
	if len(h.waiting) == 0 {
		return nil
	}
	all := make([]*waiter, 0, len(h.waiting))
	for w := range h.waiting {
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b *waiter) int { return cmp.Compare(a.seq, b.seq) })
	return all[rapid.IntRange(0, len(all)-1).Draw(t, "who")]
}

func (h *history) takeGrant(t *rapid.T) *grant {
	if len(h.grants) == 0 {
		return nil
	}
	i := rapid.IntRange(0, len(h.grants)-1).Draw(t, "grant")
	gr := h.grants[i]
	h.grants = slices.Delete(h.grants, i, i+1)
	return gr
}

func (h *history) check(t *rapid.T) {
	c := h.core
	if c.waiting != len(h.waiting) || c.inflight != len(h.grants) {
		t.Fatalf("core counts %d waiting and %d in flight, the history %d and %d", c.waiting, c.inflight, len(h.waiting), len(h.grants))
	}
	if h.arrived != h.ended+c.waiting+c.inflight {
		t.Fatalf("of %d requests %d ended, %d wait, %d are in flight", h.arrived, h.ended, c.waiting, c.inflight)
	}
	trying := map[*group]int{}
	for _, gr := range h.grants {
		if trying[gr.group] += 0; gr.probe {
			trying[gr.group]++
		}
	}
	for g, n := range trying {
		if g.gate.trying != n {
			t.Fatalf("the gate counts %d probes, %d are on the way", g.gate.trying, n)
		}
	}
	g := c.groupFor("m", h.now)
	var spent float64
	for _, b := range h.booked {
		spent += b.tokens
	}
	if b := &g.meters[dimTokens]; math.Abs(b.spent-spent) > 1e-6*max(1, math.Abs(spent)) {
		t.Fatalf("the ledger has %v tokens, charges less refunds are %v", b.spent, spent)
	}
	if c.waiting > 0 && c.inflight == 0 && c.next() == never {
		t.Fatalf("%d wait, nothing is in flight and no wake-up is set", c.waiting)
	}
	if c.waiting > 0 && c.next() < h.now-instant(1)<<wheelShift {
		t.Fatal("a wake-up is overdue after a pump")
	}
	if w, _ := g.head(); w != nil && g.blocked(h.now) <= h.now && c.global[dimConcurrent].wouldFit() {
		if at, _ := g.ready(h.now, w.charge); at < c.next() {
			t.Fatalf("the head may go at %v, the next wake-up is at %v", at, c.next())
		}
	}
	var sum charge
	for w := range h.waiting {
		sum.add(w.charge, 1)
	}
	if sum != c.sum {
		t.Fatalf("sum of waiting charges %v, want %v", c.sum, sum)
	}
}

// window checks that in no span of time more was charged, net of refunds, than
// the bucket holds and refills.
func (h *history) window(t *rapid.T) {
	rate := h.limit / 60
	least := 0.0 // of sum − rate·t over the starts so far
	sum := 0.0
	for i, b := range h.booked {
		// A charge beyond the bucket goes from a full one: only the debt it may leave is free.
		level := sum - rate*b.at.sub(0).Seconds()
		if i == 0 || level < least {
			least = level
		}
		sum += b.tokens
		if excess := sum - rate*b.at.sub(0).Seconds() - least - h.limit; b.tokens > 0 && excess > 1 {
			t.Fatalf("at %v the charges of some window exceed capacity and refill by %.0f tokens", b.at.sub(0), excess)
		}
	}
}

func TestCore_Histories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(rapid.SampledFrom([]int64{0, 60, 600}).Draw(t, "rpm"), 60_000, rapid.SampledFrom([]int64{0, 1, 5}).Draw(t, "places"))
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			h.step(t)
		}
		h.window(t)
		// Left alone, everything ends: no wake-up is lost.
		for n := 0; h.core.waiting > 0 || len(h.grants) > 0; n++ {
			if n > 1000 {
				t.Fatalf("%d still wait", h.core.waiting)
			}
			for _, gr := range h.grants {
				h.core.sent(gr, h.now)
				h.core.release(gr, h.now)
				h.ended++
			}
			h.grants = h.grants[:0]
			if next := h.core.next(); next != never {
				h.now = max(h.now, next)
			}
			h.settleDown(t)
		}
	})
}

func TestCore_ReplaysToTheSameDecisions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		a, b := replay(seed), replay(seed)
		if diff := gocmp.Diff(a, b, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// replay runs a fixed load and returns every decision.
func replay(seed uint64) []string {
	var log []string
	c := newCore(Config{Models: []ModelLimits{{Pattern: "*", Limits: Limits{TokensPerMinute: 60_000}}}}.withDefaults(), 0)
	x := seed | 1
	next := func(n uint64) uint64 { x ^= x << 13; x ^= x >> 7; x ^= x << 17; return x % n }
	now := instant(0)
	for range 100 {
		now = now.add(time.Duration(next(1e9)))
		w := new(waiter)
		r := Request{Model: fmt.Sprint(next(3)), Session: fmt.Sprint(next(5)), Demand: Demand{Input: int64(next(2000))}}
		if c.arrive(w, &r, time.Minute, now) == nil && w.state.admitted() {
			gr := new(grant)
			w.open(gr, r.Demand, now)
			c.settle(gr, Usage{Input: int64(next(2000))}, now)
		}
		for c.pump(now, pumpBatch) {
		}
		for _, w := range c.done {
			log = append(log, fmt.Sprint(now, w.seq, w.state))
		}
		c.done = c.done[:0]
	}
	return log
}

// TestCore_AgreesWithANaiveScheduler compares the order of a backlog with the
// definition: of all sessions the least start tag, in O(n).
func TestCore_AgreesWithANaiveScheduler(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCore(Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{TokensPerMinute: 60_000}, Profile: "postpaid"}}}.withDefaults(), 0)
		c.groupFor("m", 0).meters[dimTokens].lower(0, -1)
		type flowOf struct {
			tag, weight float64
			queue       []int64
		}
		naive := map[string]*flowOf{}
		weights := map[string]float64{"a": 1, "b": 2, "c": 4}
		demands := map[uint64]int64{}
		for range rapid.IntRange(1, 30).Draw(t, "n") {
			s := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "session")
			in := rapid.Int64Range(1, 3000).Draw(t, "input")
			w := new(waiter)
			r := Request{Model: "m", Session: s, Weight: weights[s], Demand: Demand{Input: in}}
			if rejected := c.arrive(w, &r, time.Hour, 0); rejected != nil {
				t.Fatal(rejected)
			}
			if w.state != waiting {
				t.Fatal("granted from an empty bucket")
			}
			if naive[s] == nil {
				naive[s] = &flowOf{weight: weights[s]}
			}
			naive[s].queue = append(naive[s].queue, in)
			demands[w.seq] = in
		}
		for now := instant(0); c.waiting > 0; now = max(now, c.next()) {
			for c.pump(now, pumpBatch) {
			}
			for _, w := range c.done {
				least := math.Inf(1)
				for _, f := range naive {
					if len(f.queue) > 0 {
						least = min(least, f.tag)
					}
				}
				f := naive[w.session.name]
				if f.tag > least+1e-9 {
					t.Fatalf("session %s went with tag %v, the least is %v", w.session.name, f.tag, least)
				}
				if f.queue[0] != demands[w.seq] {
					t.Fatalf("session %s is not first in, first out", w.session.name)
				}
				f.tag += float64(f.queue[0]) / 1000 / f.weight
				f.queue = f.queue[1:]
			}
			c.done = c.done[:0]
		}
	})
}

// TestCore_LagIsBounded checks Goyal's bound for every pair of backlogged
// sessions: what they got, per weight, differs by at most the largest c/w of
// each, in actual cost, though the estimates are up to two times off.
func TestCore_LagIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCore(Config{MaxWaiting: 1e6, Models: []ModelLimits{{Pattern: "m", Limits: Limits{TokensPerMinute: 600_000}, Profile: "postpaid"}}}.withDefaults(), 0)
		c.groupFor("m", 0).meters[dimTokens].lower(0, -1)
		names := []string{"a", "b", "c", "d"}
		weights := []float64{1, 1, 2, 4}
		got, actual := map[string]float64{}, map[uint64]int64{}
		worst := 0.0
		for i, s := range names {
			for range 60 {
				cost := rapid.Int64Range(300, 4000).Draw(t, "cost")
				est := int64(float64(cost) * rapid.Float64Range(0.5, 2).Draw(t, "off"))
				worst = max(worst, float64(cost)/weights[i])
				w := new(waiter)
				r := Request{Model: "m", Session: s, Weight: weights[i], Demand: Demand{Input: est}}
				if rejected := c.arrive(w, &r, time.Hour, 0); rejected != nil {
					t.Fatal(rejected)
				}
				actual[w.seq] = cost
			}
		}
		for now := instant(0); ; now = max(now, c.next()) {
			for more := true; more; {
				more = c.pump(now, 1)
				for _, w := range c.done {
					gr := new(grant)
					w.open(gr, w.demand.unpack(), now)
					c.sent(gr, now)
					c.settle(gr, Usage{Input: actual[w.seq]}, now)
					got[w.session.name] += float64(actual[w.seq]) / w.session.weight
				}
				c.done = c.done[:0]
				for s := range c.groupFor("m", now).sessions() {
					if s.queued == 0 {
						return // no longer all backlogged
					}
				}
				for _, a := range names {
					for _, b := range names {
						if lag := math.Abs(got[a] - got[b]); lag > 2*worst+1e-3 {
							t.Fatalf("%s and %s are %.0f tokens per weight apart, bound %.0f", a, b, lag, 2*worst)
						}
					}
				}
			}
		}
	})
}
