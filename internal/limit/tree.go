package limit

// A flow is a node of the fair tree: a band, a client or a session. Bands hold
// clients and clients hold sessions; only sessions hold waiters.
//
// Children of one flow share it by start-time fair queueing (Goyal, Vin, Cheng,
// IEEE/ACM ToN 5(5), 1997), which is fair whatever the speed of the server, and
// ours stops at every 429. There is one tag per flow and not one per request,
// so that a waiter can leave without touching anybody's tag.
type flow struct {
	name     string
	parent   *flow
	group    *group
	weight   float64
	per      float64 // 1/weight: tags are moved for every request, weights hardly ever
	tag      float64 // virtual start time of the next request, in the parent's time
	credit   float64 // corrections received while idle; see activate
	index    int32   // in parent.ready, -1 when not competing
	inflight int32

	// As a session.
	idleListed instant // since when it is in the roster's list of those that may be idle; 0 = it is not
	idleSince  instant
	idlePrev   *flow
	idleNext   *flow
	head, tail *waiter
	parked     instant // not to be served before; 0 = at any time

	// As a parent.
	clock  float64 // virtual time: the start tag last served
	finish float64 // the largest tag handed out
	ready  []slot  // 4-ary heap of competing children, by tag
	shares float64 // sum of the weights in ready
	rungs  *ladder

	queued   int    // waiters below
	sum      charge // their charges
	priority Priority
	band     int8 // of priority
	rung     int8
	rungPrev *flow
	rungNext *flow

	// As a client.
	sessions map[string]*flow
	recent   *flow // the session that came last
}

// A slot keeps the key beside the pointer, so that sifting stays in one array.
type slot struct {
	tag  float64
	flow *flow
}

func newFlow(parent *flow, name string, weight float64) *flow {
	f := &flow{parent: parent, name: name, weight: weight, per: 1 / weight, index: -1}
	if parent != nil {
		f.tag, f.group = parent.clock, parent.group
		f.priority, f.band = parent.priority, parent.band
	}
	return f
}

// activate makes an idle flow compete. A flow that was away may not claim the
// time it missed, so its tag moves up to the clock; but what was charged to it
// in excess while its requests were in flight is its own (credit), and may take
// it below the clock by that much.
func (f *flow) activate() {
	floor := f.parent.clock
	if f.inflight > 0 {
		floor -= f.credit
	}
	f.credit = 0
	f.tag = max(f.tag, floor)
	f.push()
}

// push enters f into its parent's heap, and the parent into its own.
func (f *flow) push() {
	p := f.parent
	if len(p.ready) == 0 && p.parent != nil && p.index < 0 {
		p.activate()
	}
	p.shares += f.weight
	p.ready = append(p.ready, slot{f.tag, f})
	f.index = int32(len(p.ready) - 1)
	p.up(len(p.ready) - 1)
}

// pop takes f out of the competition. When its parent has nobody left, the busy
// period ends: the clock jumps to the last finish, and debts of the past with it.
func (f *flow) pop() {
	p := f.parent
	i := int(f.index)
	last := len(p.ready) - 1
	p.swap(i, last)
	p.ready[last] = slot{}
	p.ready = p.ready[:last]
	f.index = -1
	if i < last {
		p.fix(i)
	}
	p.shares -= f.weight
	if last == 0 {
		p.shares = 0 // shed the rounding
		p.clock = max(p.clock, p.finish)
		if p.parent != nil {
			p.pop()
		}
	}
}

// serve books cost on f, as the one that goes next.
func (f *flow) serve(cost float64) {
	p := f.parent
	p.clock = max(p.clock, f.tag)
	f.move(cost * f.per)
	p.finish = max(p.finish, f.tag)
	f.inflight++
}

// serveIdle is activate, serve and pop in one, for a flow that finds no queue
// in front of it.
func (f *flow) serveIdle(cost float64) {
	p := f.parent
	if f.tag < p.clock {
		f.tag = p.clock
	}
	f.tag += cost * f.per
	if p.finish < f.tag {
		p.finish = f.tag
	}
	p.clock = p.finish
	f.credit = 0
	f.inflight++
}

// correct moves the tag back by a refund, or on by a surcharge (refund < 0).
func (f *flow) correct(refund float64) {
	d := refund * f.per
	f.tag -= d
	if f.index >= 0 {
		f.sift()
	} else if d > 0 {
		f.credit += d
	}
}

func (f *flow) move(d float64) {
	f.tag += d
	if f.index >= 0 {
		f.sift()
	}
}

// sift puts f where its tag belongs among those that compete.
func (f *flow) sift() {
	f.parent.ready[f.index].tag = f.tag
	f.parent.fix(int(f.index))
}

// reweigh changes the weight. Tags already given stay as they are.
func (f *flow) reweigh(weight float64) {
	if f.weight == weight {
		return
	}
	if f.index >= 0 {
		f.parent.shares += weight - f.weight
	}
	f.weight, f.per = weight, 1/weight
}

// first is the waiter that fairness puts at the head; nil when none competes.
func (f *flow) first() *waiter {
	for len(f.ready) > 0 {
		f = f.ready[0].flow
	}
	return f.head
}

func (p *flow) fix(i int) {
	if !p.up(i) {
		p.down(i)
	}
}

func (p *flow) up(i int) bool {
	moved := false
	for i > 0 {
		parent := (i - 1) / 4
		if p.ready[parent].tag <= p.ready[i].tag {
			break
		}
		p.swap(i, parent)
		i, moved = parent, true
	}
	return moved
}

func (p *flow) down(i int) {
	n := len(p.ready)
	for {
		least := i
		for child := 4*i + 1; child < min(4*i+5, n); child++ {
			if p.ready[child].tag < p.ready[least].tag {
				least = child
			}
		}
		if least == i {
			return
		}
		p.swap(i, least)
		i = least
	}
}

func (p *flow) swap(i, j int) {
	h := p.ready
	h[i], h[j] = h[j], h[i]
	h[i].flow.index, h[j].flow.index = int32(i), int32(j)
}
