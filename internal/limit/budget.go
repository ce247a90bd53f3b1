package limit

import (
	"math"
	"slices"
	"time"
)

// Never is the time at which a Budget is Ready when only its wake-up, or a
// Return, can tell.
const Never time.Duration = math.MaxInt64

// A Budget is where the charges of one limit group are booked: all kinds of
// limit at once, or none. Without Config.Shared a group books in buckets of its
// own, in this process. With it, many sidecars can draw on one engine: then the
// Budget is this process's wallet of what it has leased.
//
// Who calls what. The limiter calls every method, with its lock held: no method
// may block, do I/O, or call the limiter (wake included). What takes time, such
// as a call to the engine, is done elsewhere; when it has changed what Ready
// would say, wake is called, from any goroutine and holding no lock that a
// method takes. Calls come one at a time, and no two Budgets of one limiter are
// called at once; what a goroutine of its own changes, a Budget must guard.
//
// For a request the order is: Ready until it says now; Take in the same moment;
// Observe for every answer; Return when the request ends, maybe in parts. A
// Return goes to the Budget whose Take it answers, even after Close. Of an
// earlier 429 only the place is returned: the provider may have booked it.
//
// What a Budget must promise: what it lets through, over all sidecars, is never
// more than the provider's limit, and an engine that cannot be reached stops
// neither the limiter nor, for good, the queue. It should spend what it has
// leased, then a cautious part of the last known rate (NewBudget makes a bucket
// for that), and tell the engine afterwards.
//
// All times are on the limiter's monotonic clock, counted from its making, and
// never go back. Ready and Take are apart because the scheduler asks several
// groups before it serves one.
type Budget interface {
	// Ready tells when c may be taken (at or before now: at once) and which limit
	// binds, in the words of Meter.Name ("" = none). Never: wake will tell.
	Ready(now time.Duration, c Cost) (at time.Duration, limit string)
	// Take books c. The limiter has just been told that it is Ready.
	Take(now time.Duration, c Cost)
	// Return gives back c of what was taken at the time taken; a negative field is
	// a charge after the fact, where more was used than had been reserved.
	Return(now time.Duration, c Cost, taken time.Duration)
	// Wait foretells how long c would wait when ahead goes first. Nothing is booked.
	Wait(now time.Duration, ahead, c Cost) (wait time.Duration, limit string)
	// Share is the dominant share of c: the longest time that one of the limits
	// needs to make up for it, in seconds; 0 when there is no limit. Fairness
	// counts in it.
	Share(c Cost) float64
	// Want says what waits, whenever the head of the queue is not Ready: what a
	// lease should be asked for. It comes often, and must be cheap.
	Want(now time.Duration, w Want)
	// Observe hands on what the provider said: headers where Config.Learn is set,
	// and every 429. The levels in it count what all sidecars sent.
	Observe(now time.Duration, a Answer)
	// Meters describes limits and levels for status pages.
	Meters(now time.Duration) []Meter
	// Close tells that nothing more will be taken: the group is forgotten, merged
	// with another, or has other limits now. What is unspent should go back.
	Close()
}

// A Cost is what a request takes of each kind of limit.
type Cost struct {
	Requests, Tokens, Input, Output int64
	Places                          int64 // requests in flight: taken once, returned once
}

// Want is what a group's queue would take.
type Want struct {
	Head    Cost       // of the request that goes next: less is of no use
	Queued  Cost       // of all that wait, the head included
	Weights [3]float64 // of the clients that wait, by band: high, normal, low
}

// An Answer is what the provider said, and of which request.
type Answer struct {
	Signal
	Cost      Cost          // as it was taken
	Sent      time.Duration // when the request left
	Throttled bool          // it was a 429
}

// cost is a charge as a Cost, with so many requests and places.
func (c charge) cost(requests, places int64) Cost {
	return Cost{Requests: requests, Tokens: c.tokens, Input: c.input, Output: c.output, Places: places}
}

// A lease is a group's Budget, and what it was made for.
type lease struct {
	Budget
	limits Limits
}

// shared makes the Budget of a group, if there is somebody to lease from.
func (c *core) shared(model string, l Limits) *lease {
	if c.cfg.Shared == nil {
		return nil
	}
	wake := c.wake
	if wake == nil {
		wake = func() {}
	}
	if b := c.cfg.Shared(model, l, wake); b != nil {
		return &lease{b, l}
	}
	return nil
}

// relet leases anew when the limits that are configured for g have changed, and
// tells whether there still is a lease.
func (c *core) relet(g *group, l Limits) bool {
	if l != g.lease.limits {
		g.lease.Close()
		g.lease = c.shared(g.name, l)
	}
	return g.lease != nil
}

// closeShared closes every Budget.
func (c *core) closeShared() {
	for name, g := range c.groups {
		if g.lease != nil && name == g.name {
			g.lease.Close()
		}
	}
}

// The group's limits: its own meters, or the Budget in their place. tryTake and
// settle, which most requests need and no others, go to the meters directly.

func (g *group) ready(now instant, ch charge) (instant, dimension) {
	if g.lease == nil {
		return g.meters.ready(now, ch)
	}
	at, limit := g.lease.Ready(time.Duration(now), ch.cost(1, 1))
	return max(instant(at), now), dimension(slices.Index(dimensionNames[:], limit))
}

func (g *group) take(now instant, w *waiter) {
	if g.lease == nil {
		g.meters.take(now, w.charge)
		return
	}
	g.lease.Take(time.Duration(now), w.charge.cost(1, 1))
	if g.taken == nil {
		g.taken = map[*waiter]*lease{}
	}
	g.taken[w] = g.lease
}

func (g *group) wait(now instant, ahead charge, n int64, ch charge) (float64, dimension) {
	if g.lease == nil {
		return g.meters.wait(now, ahead, n, ch)
	}
	wait, limit := g.lease.Wait(time.Duration(now), ahead.cost(n, n), ch.cost(1, 1))
	return wait.Seconds(), dimension(slices.Index(dimensionNames[:], limit))
}

func (g *group) share(ch charge) float64 {
	if g.lease == nil {
		if !g.meters.bounded() {
			return 0
		}
		return g.meters.share(ch)
	}
	return g.lease.Share(ch.cost(1, 1))
}

// want tells the lease what waits.
func (g *group) want(now instant, head charge) {
	if g.lease == nil {
		return
	}
	w := Want{Head: head.cost(1, 1)}
	for i, b := range g.bands {
		sum := b.sum.cost(int64(b.queued), int64(b.queued))
		w.Queued.Requests += sum.Requests
		w.Queued.Tokens += sum.Tokens
		w.Queued.Input += sum.Input
		w.Queued.Output += sum.Output
		w.Queued.Places += sum.Places
		w.Weights[i] = b.shares
	}
	g.lease.Want(time.Duration(now), w)
}

// refund gives back ch of gr, and requests places of the requests per period.
// What was leased goes back where it came from. A group that was born meanwhile
// has inherited its nursery's charges, so it gets the refunds.
func (c *core) refund(gr *grant, ch charge, requests int64, now instant) {
	live := c.resolve(gr.group, gr.model)
	switch {
	case gr.lease != nil:
		gr.lease.Return(time.Duration(now), ch.cost(requests, 0), time.Duration(gr.taken))
	case live.lease == nil:
		live.meters.refund(now, ch, requests, gr.taken)
	}
	c.global.refund(now, ch, requests, gr.taken)
}

// leave gives back the place of gr.
func (c *core) leave(gr *grant, now instant) {
	switch {
	case gr.lease != nil:
		gr.lease.Return(time.Duration(now), Cost{Places: 1}, time.Duration(gr.taken))
		gr.lease = nil // places are used again
	default:
		gr.group.meters.leave()
	}
	c.global.leave()
}

// tell hands an answer to the lease that gr was charged to.
func (gr *grant) tell(s *Signal, throttled bool, now instant) {
	if gr.lease != nil {
		gr.lease.Observe(time.Duration(now), Answer{
			Signal: *s, Cost: gr.charge.cost(1, 1), Sent: time.Duration(gr.sentAt), Throttled: throttled,
		})
	}
}

// NewBudget returns a Budget that lives in this process alone: buckets for l,
// that refill as the named profile's provider refills ("" = continuously). It
// starts as a Limiter does, with a tenth of each limit, and learns nothing. An
// engine's wallet can fall back to it while the engine cannot be reached.
func NewBudget(l Limits, profile string) Budget {
	p, _ := profileNamed(profile)
	b := new(local)
	b.meters.attach()
	b.meters.configure(0, l.vector(), 1, p.refill())
	if p == azure {
		b.meters[dimRequests].pace()
	}
	return b
}

// local is the embedded meters as a Budget.
type local struct{ meters }

func (c Cost) charge() charge { return charge{tokens: c.Tokens, input: c.Input, output: c.Output} }

func (b *local) Ready(now time.Duration, c Cost) (time.Duration, string) {
	at, d := b.ready(instant(now), c.charge())
	return time.Duration(at), d.String()
}

func (b *local) Take(now time.Duration, c Cost) { b.take(instant(now), c.charge()) }

func (b *local) Return(now time.Duration, c Cost, taken time.Duration) {
	b.refund(instant(now), c.charge(), c.Requests, instant(taken))
	for range c.Places {
		b.leave()
	}
}

func (b *local) Wait(now time.Duration, ahead, c Cost) (time.Duration, string) {
	wait, d := b.wait(instant(now), ahead.charge(), ahead.Requests, c.charge())
	return secondsDuration(wait), d.String()
}

func (b *local) Share(c Cost) float64             { return b.share(c.charge()) }
func (b *local) Want(time.Duration, Want)         {}
func (b *local) Observe(time.Duration, Answer)    {}
func (b *local) Meters(now time.Duration) []Meter { return b.snapshot(instant(now)) }
func (b *local) Close()                           {}
