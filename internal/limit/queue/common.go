package queue

import "github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"

// Two orders
//
// Each contest has an order of its own, by what clients had of its limit. For a cap over
// all models there is one order more, by what clients had of that cap, whatever models
// they asked for. Only one of the two is charged for a turn that it decides, so neither
// punishes anybody for what was had elsewhere: see [Queue.CommonHead].

// A common is the order over all queues of a roster. Its zero value is empty.
type common struct {
	bands   [numBands]period
	owed    [numBands]float64 // as a contest's
	clients map[clientKey]*member
	had     float64 // of the queue served last: virtual time among queues

	now   uint64 // counts returns and busy periods
	since uint64 // the present busy period
}

// A period is the virtual time of siblings in the common order.
type period struct {
	clock  float64  // the start tag last served
	finish float64  // the largest tag handed out
	since  uint64   // the busy period that they are of
	sum    llm.Load // of all that wait, in a band
	busy   int      // siblings of which something waits
	shares float64  // the sum of their weights
}

// begin makes siblings equal that a new busy period finds: what they had before it
// counts nothing.
func (p *period) begin(since uint64) {
	if p.since != since {
		p.since, p.clock = since, max(p.clock, p.finish)
	}
}

// A member is a client, or a session of one, in the common order: the same in all
// queues.
type member struct {
	tag      float64 // virtual start time of its next request
	waiting  int64
	sum      llm.Load // of what waits, of a session
	weight   float64  // as it is counted in shares; 0 = nothing of it waits
	children period   // of a client
	sessions map[string]*member
	owners   int // flows, one for each queue that knows it
}

// A standing is a flow's place in the common order of its queue.
type standing struct {
	member *member
	place  int     // in the parent's rank, counted from 1; 0 = nowhere
	since  uint64  // when its tag was last brought up to the clock
	rank   []entry // binary heap of children. Tags in it may be of before: see first.
}

// join gives a new flow the tag that it has in other queues.
func (c *common) join(f *Flow) {
	if f.sessions == nil {
		f.all.member = share(&f.Parent.all.member.sessions, f.Name)
		return
	}
	f.all.member = share(&c.clients, clientKey{f.band, f.Name})
}

func share[K comparable](all *map[K]*member, name K) *member {
	if *all == nil {
		*all = map[K]*member{}
	}
	m := (*all)[name]
	if m == nil {
		m = new(member)
		(*all)[name] = m
	}
	m.owners++
	return m
}

// leave takes a flow out that its queue forgets.
func (c *common) leave(f *Flow) {
	if f.all.place > 0 {
		f.Parent.unrank(f.all.place - 1)
	}
	if f.all.member.owners--; f.all.member.owners > 0 {
		return
	}
	if f.sessions == nil {
		delete(f.Parent.all.member.sessions, f.Name)
	} else {
		delete(c.clients, clientKey{f.band, f.Name})
	}
}

// Count puts w, which has been inserted, into the sums of what waits in the common
// order. Who is served at once need not be counted.
func (r *Roster) Count(w *Waiter) {
	if !w.counted {
		w.counted = true
		r.count(w, 1)
	}
}

func (r *Roster) uncount(w *Waiter) {
	if w.counted {
		w.counted = false
		r.count(w, -1)
	}
}

func (r *Roster) count(w *Waiter, sign int64) {
	s := w.Session
	s.all.member.sum.Add(w.Load, sign)
	s.all.member.wait(&s.Parent.all.member.children, s.Weight, sign)
	r.common.bands[s.band].sum.Add(w.Load, sign)
	s.Parent.all.member.wait(&r.common.bands[s.band], s.Parent.Weight, sign)
}

// wait counts one more or less that waits below m, one of siblings.
func (m *member) wait(siblings *period, weight float64, sign int64) {
	m.waiting += sign
	switch m.waiting {
	case 0:
		siblings.shares -= m.weight
		m.weight = 0
		if siblings.busy--; siblings.busy == 0 {
			siblings.shares = 0 // shed the rounding
		}
	case sign: // the first
		m.weight = weight
		siblings.shares += weight
		siblings.busy++
	}
}

// CommonAhead is Ahead in the common order: what goes before the next request of s if
// what limits all models decides.
func (q *Queue) CommonAhead(s *Flow, own llm.Load) (ahead llm.Load) {
	bands := &q.roster.common.bands
	for i := range s.band {
		ahead.Add(bands[i].sum, 1)
	}
	part := 1.0
	for _, f := range [2]*Flow{s, s.Parent} {
		all := f.siblings().shares
		if f.all.member.weight == 0 {
			all += f.Weight
		}
		part *= f.Weight / all
	}
	others, mine := bands[s.band].sum, s.Sum
	others.Add(own, -1)
	mine.Add(own, -1)
	mine = least(s.all.member.sum, mine, 1/float64(s.all.member.owners)) // its queues take turns
	ahead.Add(least(others, mine, part), 1)
	return ahead
}

// Rest ends the busy period of the common order: nobody waits for what limits them all.
func (r *Roster) Rest() {
	r.common.now++
	r.common.since = r.common.now
}

// Ready tells whether the next of q may go as far as its own limit is concerned, and
// reports whether that is new: then its clients, who did not wait for what limits all,
// have no claim to what others had of it meanwhile, and the head is to be asked for anew.
func (q *Queue) Ready(ready bool) (back bool) {
	back = ready && q.out
	q.out = !ready
	if back {
		q.roster.common.now++
		q.since = q.roster.common.now
	}
	return back
}

// CommonHead is Head in the order over all queues: who of q is next if what limits
// them all decides.
func (q *Queue) CommonHead(cost func(*Waiter) float64) *Waiter {
	var top *Waiter
	owed := &q.roster.common.owed
	for i, b := range q.bands {
		client := b.firstOfAll()
		if client == nil {
			if q.roster.common.bands[i].sum.Requests == 0 {
				owed[i] = 0
			}
			continue
		}
		if w := client.firstOfAll().head; top == nil || owed[i] > 0 && owed[i] >= cost(w) {
			top = w
		}
	}
	return top
}

// firstOfAll is the child that is next in the common order; nil when none competes. The
// tags of the rank are looked at only here: a member's tag moves in many queues at once,
// and the flows of most are not near the top.
func (f *Flow) firstOfAll() *Flow {
	for len(f.all.rank) > 0 {
		top := &f.all.rank[0]
		child := top.flow
		if child.index < 0 {
			f.unrank(0)
			continue
		}
		child.catchUp()
		if tag := child.all.member.tag; tag != top.tag {
			top.tag = tag
			f.sink(0)
			continue
		}
		return child
	}
	return nil
}

// catchUp moves the tag up to the clock if f has just begun to compete: neither idle
// time nor a wait for another limit is saved up.
func (f *Flow) catchUp() {
	c := &f.queue.roster.common
	if f.all.since > max(f.queue.since, c.since) {
		return
	}
	f.all.since = c.now + 1
	p := f.siblings()
	p.begin(c.since)
	f.all.member.tag = max(f.all.member.tag, p.clock)
}

// siblings is the virtual time that f is in.
func (f *Flow) siblings() *period {
	if f.sessions == nil {
		return &f.Parent.all.member.children
	}
	return &f.queue.roster.common.bands[f.band]
}

// CommonBefore reports whether a, at that cost, goes before b of another queue in the
// common order; of one session the queue does that has had less.
func CommonBefore(a *Waiter, costA float64, b *Waiter, costB float64) bool {
	x, y := a.Session, b.Session
	x.Parent.catchUp()
	x.catchUp()
	y.Parent.catchUp()
	y.catchUp()
	owed := &x.queue.roster.common.owed
	switch {
	case x.band < y.band:
		return !(owed[y.band] > 0 && owed[y.band] >= costB)
	case x.band > y.band:
		return owed[x.band] > 0 && owed[x.band] >= costA
	case x.Parent.all.member != y.Parent.all.member:
		return x.Parent.all.member.tag < y.Parent.all.member.tag
	case x.all.member != y.all.member:
		return x.all.member.tag < y.all.member.tag
	}
	return x.queue.commonHad < y.queue.commonHad
}

// Book charges a session and its client in the common order for a turn of that cost.
func (r *Roster) Book(s *Flow, cost float64) {
	c := &r.common
	for _, f := range []*Flow{s, s.Parent} {
		f.catchUp()
		p, m := f.siblings(), f.all.member
		p.begin(c.since)
		p.clock = max(p.clock, m.tag)
		m.tag += cost * f.per
		p.finish = max(p.finish, m.tag)
	}
	c.had = max(c.had, s.queue.commonHad)
	s.queue.commonHad = c.had + cost
	c.owed[s.band] = max(0, c.owed[s.band]-cost)
	for i := int(s.band) + 1; i < numBands; i++ {
		if c.bands[i].sum.Requests > 0 {
			c.owed[i] += bandFloor * cost
		}
	}
}

// Unbook moves the tags of the common order back by a refund of cost, or on by a
// surcharge (refund < 0).
func (r *Roster) Unbook(s *Flow, refund float64) {
	s.all.member.tag -= refund * s.per
	s.Parent.all.member.tag -= refund * s.Parent.per
}

// CommonLag is Lag in the common order.
func (f *Flow) CommonLag() float64 { return f.all.member.tag - f.siblings().clock }

// enrank files f, which has begun to compete, with its siblings. Who was there before
// has never left: see firstOfAll.
func (f *Flow) enrank() {
	if f.all.place > 0 {
		return
	}
	p := f.Parent
	p.all.rank = append(p.all.rank, entry{f.all.member.tag, f})
	p.settle(len(p.all.rank) - 1)
	p.raise(len(p.all.rank) - 1)
}

func (f *Flow) unrank(i int) {
	last := len(f.all.rank) - 1
	f.all.rank[i].flow.all.place = 0
	if i < last {
		f.all.rank[i] = f.all.rank[last]
		f.settle(i)
	}
	f.all.rank[last] = entry{}
	f.all.rank = f.all.rank[:last]
	if i < last {
		f.sink(i)
		f.raise(i)
	}
}

func (f *Flow) settle(i int) { f.all.rank[i].flow.all.place = i + 1 }

func (f *Flow) raise(i int) {
	for h := f.all.rank; i > 0 && h[i].tag < h[(i-1)/2].tag; i = (i - 1) / 2 {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
		f.settle(i)
		f.settle((i - 1) / 2)
	}
}

func (f *Flow) sink(i int) {
	for h := f.all.rank; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h); child++ {
			if h[child].tag < h[least].tag {
				least = child
			}
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		f.settle(i)
		f.settle(least)
		i = least
	}
}
