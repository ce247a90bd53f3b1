package queue

import (
	"slices"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A Flow is a node of the fair tree: a band, a client or a session. Bands hold
// clients and clients hold sessions; only sessions hold waiters.
//
// Children of one flow share it by start-time fair queueing (Goyal, Vin, Cheng,
// IEEE/ACM ToN 5(5), 1997), which is fair whatever the speed of the server, and
// ours stops at every 429. There is one tag per flow and not one per request,
// so that a waiter can leave without touching anybody's tag.
//
// Its exported fields are for reading.
type Flow struct {
	Name     string
	Parent   *Flow
	Weight   float64
	InFlight int // requests served that have not ended
	Sum      llm.Load

	queue  *Queue
	band   int8
	per    float64 // 1/Weight: tags are moved for every request, weights hardly ever
	turn   *turn   // its own, unless it is a client's
	own    turn
	credit float64 // corrections received while idle; see activate
	paid   float64 // of a session's next large request, in advance; see Prepay
	common float64 // the same in the common order
	paidTo llm.Instant
	index  int // in Parent.ready, -1 when not competing
	all    standing
	held   llm.Instant

	// As a session.
	head, tail *Waiter
	idle       idleness

	// As a parent.
	time   *virtual
	ready  []entry // 4-ary heap of competing children, by tag
	longer *lengths
	filing filing // in the parent's longer

	// As a client.
	sessions map[string]*Flow
	id       uint64
}

// A virtual is the virtual time of siblings. The clients of one band have it in
// common over all queues of a contest.
type virtual struct {
	clock  float64  // the start tag last served
	finish float64  // the largest tag handed out
	busy   int      // turns that compete
	shares float64  // the sum of their weights
	sum    llm.Load // of all that wait, in a band
}

// A turn is when a flow is next. A client has it in common over all queues of a
// contest, so that it gets no more by asking in many.
type turn struct {
	tag    float64 // virtual start time of its next request
	weight float64 // as it is counted in shares
	owners int     // of a client, the queues that know it
	flows  []*Flow // of a client, those that compete
}

// An entry keeps the key beside the pointer, so that sifting stays in one array.
type entry struct {
	tag  float64
	flow *Flow
}

func newFlow(parent *Flow, name string, weight float64) *Flow {
	f := &Flow{Parent: parent, Name: name, Weight: weight, per: 1 / weight, index: -1}
	f.turn = &f.own
	if parent != nil {
		f.queue, f.band = parent.queue, parent.band
		f.turn.tag = parent.time.clock
	}
	return f
}

// Waiting is how many requests wait below f.
func (f *Flow) Waiting() int { return int(f.Sum.Requests) }

// ID is the number of a client, the same in every process.
func (f *Flow) ID() uint64 { return f.id }

// Client is the number of a session's client.
func (f *Flow) Client() uint64 { return f.Parent.id }

// Band is the band that f is in; 0 is served first.
func (f *Flow) Band() int { return int(f.band) }

// Lag is the virtual time that f is ahead (+) of its parent's clock, in seconds of
// the limit.
func (f *Flow) Lag() float64 { return f.turn.tag - f.Parent.time.clock }

// Oldest is when the first of a session's requests came; Never if none waits.
func (f *Flow) Oldest() llm.Instant {
	if f.head == nil {
		return llm.Never
	}
	return f.head.QueuedAt
}

// activate makes an idle flow compete. A flow that was away may not claim the
// time it missed, so its tag moves up to the clock; but what was charged to it
// in excess while its requests were in flight is its own (credit), and may take
// it below the clock by that much. A client that competes in another queue of the
// contest was not away, unless that queue is.
func (f *Flow) activate() {
	if !slices.ContainsFunc(f.turn.flows, func(twin *Flow) bool { return !twin.queue.away }) {
		floor := f.Parent.time.clock
		if f.InFlight > 0 {
			floor -= f.credit
		}
		f.credit = 0
		f.lift(floor)
	}
	f.all.since = 0
	f.push()
}

// push enters f into its parent's heap, and the parent into its own.
func (f *Flow) push() {
	p := f.Parent
	if p.Parent != nil && p.index < 0 && p.held == 0 {
		p.activate()
	}
	p.time.enter(f)
	p.ready = append(p.ready, entry{f.turn.tag, f})
	f.index = len(p.ready) - 1
	p.up(len(p.ready) - 1)
	f.enrank()
}

// pushAsIs is push for a flow that competes with the tag it has, even below its
// parent's clock: it had this turn before.
func (f *Flow) pushAsIs() {
	if p := f.Parent; p.Parent != nil && p.index < 0 && p.held == 0 {
		p.push()
	}
	f.all.since = f.queue.roster.common.now + 1
	f.push()
}

// pop takes f out of the competition. When none of its siblings is left, the busy
// period ends: the clock jumps to the last finish, and debts of the past with it.
func (f *Flow) pop() {
	p := f.Parent
	i := f.index
	last := len(p.ready) - 1
	p.swap(i, last)
	p.ready[last] = entry{}
	p.ready = p.ready[:last]
	f.index = -1
	if i < last {
		p.fix(i)
	}
	p.time.leave(f)
	if last == 0 && p.Parent != nil && p.index >= 0 {
		p.pop()
	}
}

// enter notes that one of the siblings competes: with its turn, once for all queues.
func (v *virtual) enter(f *Flow) {
	if f.sessions != nil {
		f.turn.flows = append(f.turn.flows, f)
	}
	if len(f.turn.flows) <= 1 {
		v.busy++
		v.shares += f.Weight
		f.turn.weight = f.Weight
	}
}

// leave is the reverse of enter.
func (v *virtual) leave(f *Flow) {
	if f.sessions != nil {
		f.turn.flows = slices.DeleteFunc(f.turn.flows, func(twin *Flow) bool { return twin == f })
	}
	if len(f.turn.flows) > 0 {
		return
	}
	v.busy--
	if v.shares -= f.turn.weight; v.busy == 0 {
		v.shares = 0 // shed the rounding
		v.clock = max(v.clock, v.finish)
	}
}

// serve books cost on f, as the one that goes next.
func (f *Flow) serve(cost float64) {
	v := f.Parent.time
	v.clock = max(v.clock, f.turn.tag)
	f.move(cost * f.per)
	v.finish = max(v.finish, f.turn.tag)
}

// correct moves the tag back by a refund, or on by a surcharge (refund < 0).
func (f *Flow) correct(refund float64) {
	d := refund * f.per
	f.move(-d)
	if f.index < 0 && d > 0 {
		f.credit += d
	}
}

func (f *Flow) move(d float64) { f.set(f.turn.tag + d) }

// lift moves the tag up to least.
func (f *Flow) lift(least float64) {
	if f.turn.tag < least {
		f.set(least)
	}
}

func (f *Flow) set(tag float64) {
	f.turn.tag = tag
	if f.sessions == nil && f.index >= 0 {
		f.sift()
	}
	for _, twin := range f.turn.flows {
		twin.sift()
	}
}

// sift puts f, which competes, where its tag belongs.
func (f *Flow) sift() {
	f.Parent.ready[f.index].tag = f.turn.tag
	f.Parent.fix(f.index)
}

// reweigh changes the weight. Tags already given stay as they are.
func (f *Flow) reweigh(weight float64) {
	if f.Weight == weight {
		return
	}
	if f.index >= 0 {
		f.Parent.time.shares += weight - f.turn.weight
		f.turn.weight = weight
	}
	f.Weight, f.per = weight, 1/weight
}

// first is the waiter that fairness puts at the head; nil when none competes.
func (f *Flow) first() *Waiter {
	for len(f.ready) > 0 {
		f = f.ready[0].flow
	}
	return f.head
}

func (f *Flow) fix(i int) {
	if !f.up(i) {
		f.down(i)
	}
}

func (f *Flow) up(i int) bool {
	moved := false
	for i > 0 {
		parent := (i - 1) / 4
		if f.ready[parent].tag <= f.ready[i].tag {
			break
		}
		f.swap(i, parent)
		i, moved = parent, true
	}
	return moved
}

func (f *Flow) down(i int) {
	n := len(f.ready)
	for {
		least := i
		for child := 4*i + 1; child < min(4*i+5, n); child++ {
			if f.ready[child].tag < f.ready[least].tag {
				least = child
			}
		}
		if least == i {
			return
		}
		f.swap(i, least)
		i = least
	}
}

func (f *Flow) swap(i, j int) {
	h := f.ready
	h[i], h[j] = h[j], h[i]
	h[i].flow.index, h[j].flow.index = i, j
}
