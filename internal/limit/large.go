package limit

import (
	"math"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	// largeFrom is the cost, in seconds of the limit, from which a request that is next
	// does not make all others wait, but saves up.
	largeFrom = 1.0
	// manyTimes as much as others it has to need, too: where all are alike, each waits
	// its turn.
	manyTimes = 4.0
	// instalmentCost is what it saves at a time, and so the longest that another waits
	// for it; aloneCost where nobody else waits.
	instalmentCost = 0.05
	aloneCost      = 1.0
	// mostSaved is how many seconds of a limit a bucket has room for.
	mostSaved = 60.0
)

// ease fits an ask to the head w of m, that a limit does not let go: the reserve is
// there for it if it is small, and what is saved if it is large.
func (c *core) ease(m *model, w *queue.Waiter, l *lane.Lane, a *lane.Ask) {
	client, session := m.queue.Small(w, func(load llm.Load) float64 { return c.cost(m, l.Charge(load)) })
	if c.contended { // what is asked of all models counts
		one, only := w.Single()
		client, session = client && one, session && only
	}
	a.Small, a.Modest = client && session, session
	if a.Saver == 0 && (c.isLarge(m, w, l, a.Charge) || c.isLarge(m, w, c.caps, a.Charge)) {
		a.Saver = w.Seq
	}
}

// isLarge reports whether a charge takes longer than largeFrom to come back in l, and is
// much more than others need: of m's requests those that were served, or those that
// wait. Only of tokens does one request take more than another. own is w's load if it
// waits.
func (c *core) isLarge(m *model, w *queue.Waiter, l *lane.Lane, charge llm.Vector) bool {
	rates, longest := l.Rate(), 0.0
	for d := llm.Tokens; d <= llm.OutputTokens; d++ {
		if rates[d] > 0 {
			longest = max(longest, charge[d]/rates[d])
		}
	}
	if longest <= largeFrom {
		return false
	}
	others := m.queue.Others(w.Session, w.Load)
	usual := math.Inf(1)
	if m.often > 0 {
		usual = 1 / m.often
	}
	if others.Requests > 0 {
		usual = min(usual, c.cost(m, l.Charge(others))/float64(others.Requests))
	}
	return math.IsInf(usual, 1) || longest > manyTimes*usual
}

// usual averages what requests of m cost.
func (m *model) usual(cost float64) {
	if cost <= 0 {
		return
	}
	if m.often == 0 {
		m.often = 1 / cost
	}
	m.often += (1/cost - m.often) / 64
}

// saving reports whether le is large where its model asks first.
func (c *core) saving(le *Lease) bool {
	l := le.model.lanes[0]
	return c.isLarge(le.model, &le.queued, l, l.Charge(le.queued.Load))
}

// savesUp reports whether x, which l does not let go, pays an instalment and lets others
// go on: what it lacks is what it needs much of.
func (c *core) savesUp(x *choice, l *lane.Lane, v lane.Verdict) bool {
	rate := l.Rate()[v.Limit]
	return !x.ask.Saving && x.ask.Saver != 0 && v.Limit >= llm.Tokens && v.Limit <= llm.OutputTokens &&
		rate > 0 && x.ask.Charge[v.Limit] > largeFrom*rate && x.lane.Saves()
}

// instalment makes x ask for a part of what it needs, to put aside, unless there will
// be no room for that: then it waits for a full bucket.
func (c *core) instalment(x *choice, now llm.Instant) bool {
	cost := instalmentCost
	if c.waiting == 1 {
		cost = aloneCost
	}
	a := lane.Ask{Client: x.ask.Client, Saver: x.lease.queued.Seq, Saving: true}
	longest, rates, caps := 0.0, x.lane.Rate(), c.caps.Rate()
	for d := llm.Tokens; d <= llm.OutputTokens; d++ {
		rate := rates[d]
		if rate == 0 || caps[d] > 0 && caps[d] < rate {
			rate = caps[d]
		}
		if x.ask.Charge[d] > largeFrom*rate && rate > 0 {
			a.Charge[d] = min(x.ask.Charge[d], mostSaved*rate)
			longest = max(longest, a.Charge[d]/rate)
		}
	}
	for d := range a.Charge {
		a.Charge[d] *= cost / longest
	}
	at := x.lane.When(now, a).At
	if at == llm.Never || c.caps.When(now, a).At == llm.Never {
		return false
	}
	x.ask, x.cost, x.at = a, cost, at
	return true
}

// easeCaps is ease for x, that the caps over all models do not let go.
func (c *core) easeCaps(x *choice, v lane.Verdict, now llm.Instant) lane.Verdict {
	c.ease(x.lease.model, &x.lease.queued, x.lane, &x.ask)
	if v = c.caps.When(now, x.ask); v.At <= now || !c.contended || !c.savesUp(x, c.caps, v) || !c.instalment(x, now) {
		return v
	}
	v = c.caps.When(now, x.ask)
	v.At = max(v.At, x.at)
	return v
}

// save puts the instalment that x asks for aside. It is charged in the order that has
// decided it, as bill does.
func (c *core) save(x *choice) {
	for _, l := range []*lane.Lane{x.lane, c.caps} {
		l.Save(x.ask)
	}
	q, cost, common := x.lease.model.queue, x.cost, 0.0
	if c.contended {
		common = c.capsCost(&x.ask.Charge)
	}
	if c.contended && !q.Contest().Bound {
		cost = 0
	}
	q.Contest().Bound = false
	q.Prepay(&x.lease.queued, cost, common)
}

// forsake tells the lanes that le is not in the queue any more.
func (c *core) forsake(le *Lease, now llm.Instant) {
	for _, l := range le.model.lanes {
		l.Forsake(now, le.queued.Seq)
	}
	c.caps.Forsake(now, le.queued.Seq)
}
