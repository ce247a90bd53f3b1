package queue

import (
	"iter"
	"math"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	numBands  = 3
	bandFloor = 0.05 // of what a higher band is served, owed to each waiting lower one
)

// A Queue holds the requests that wait for one model, and knows who of them is
// next. It knows nothing of limits: whoever serves it asks for the head, finds out
// whether that may go, and says so. It must be used under one lock.
type Queue struct {
	roster  *Roster
	contest *Contest
	bands   [numBands]*Flow // high, normal, low
	clients map[clientKey]*Flow
	had     float64 // virtual time among the queues of the contest
	away    bool    // see Away

	// In the common order.
	out       bool   // see Ready
	since     uint64 // its last return
	commonHad float64
}

// New returns an empty queue in a contest.
func New(c *Contest) *Queue {
	q := &Queue{roster: c.roster, contest: c, clients: map[clientKey]*Flow{}, had: c.had}
	c.queues++
	for i, name := range []string{"high", "normal", "low"} {
		band := newFlow(nil, name, 1)
		band.band, band.queue, band.time = int8(i), q, &c.bands[i]
		q.bands[i] = band
	}
	return q
}

// A Key names a session and what it may ask for.
type Key struct {
	Band            int // 0 is served first, 2 last
	Client, Session string
	ClientWeight    float64 // of the client in its band
	Weight          float64 // of the session in its client
}

// Session finds or makes the flow of a session, with the weights that it has now.
func (q *Queue) Session(k Key, now llm.Instant) *Flow {
	key := clientKey{int8(k.Band), k.Client}
	client := q.clients[key]
	if client == nil {
		client = newFlow(q.bands[k.Band], k.Client, k.ClientWeight)
		client.sessions, client.time, client.id = map[string]*Flow{}, new(virtual), identity(k.Client)
		q.clients[key] = client
		q.contest.enter(client, q.contest.bands[k.Band].clock)
		q.roster.common.join(client)
	}
	client.reweigh(k.ClientWeight)
	s := client.sessions[k.Session]
	if s == nil {
		s = newFlow(client, k.Session, k.Weight)
		client.sessions[k.Session] = s
		q.roster.common.join(s)
		q.roster.known++
		q.roster.prune(now)
	}
	s.reweigh(k.Weight)
	return s
}

// drop forgets a session that nothing refers to, and its client when that was
// the last one.
func (q *Queue) drop(s *Flow) {
	client := s.Parent
	delete(client.sessions, s.Name)
	q.roster.common.leave(s)
	if len(client.sessions) == 0 && client.InFlight == 0 {
		delete(q.clients, clientKey{client.band, client.Name})
		q.contest.leave(client)
		q.roster.common.leave(client)
	}
}

// Close forgets an empty queue's sessions, of which nothing may be in flight. The queue
// must not be used again.
func (q *Queue) Close() {
	for _, client := range q.clients {
		for _, s := range client.sessions {
			q.roster.forget(s)
		}
	}
	q.contest.queues--
}

// Waiting is how many requests wait.
func (q *Queue) Waiting() int {
	return q.bands[0].Waiting() + q.bands[1].Waiting() + q.bands[2].Waiting()
}

// Insert queues w in its session. With back, the session competes with the tag it
// has, even below its client's clock: it had this turn before.
func (q *Queue) Insert(w *Waiter, back bool) {
	s := w.Session
	s.insert(w)
	q.contest.bands[s.band].sum.Add(w.Load, 1)
	switch {
	case s.index >= 0 || s.held != 0:
	case back:
		s.pushAsIs()
	default:
		s.activate()
	}
	w.judge(back)
}

// Remove takes w out, whether it was served, refused, or has left.
func (q *Queue) Remove(w *Waiter, now llm.Instant) {
	s := w.Session
	s.remove(w)
	q.contest.bands[s.band].sum.Add(w.Load, -1)
	q.roster.uncount(w)
	if s.Waiting() > 0 {
		return
	}
	if s.index >= 0 {
		s.pop()
	}
	if s.paid > 0 {
		s.paidTo = now.Add(paidLife)
	}
	q.roster.letGo(s)
	if s.Parent.Waiting() == 0 {
		q.roster.letGo(s.Parent)
	}
	q.roster.Idle(s, now)
}

// Head is the waiter that goes next, nil if none may. A higher band goes first,
// unless a lower one is owed its floor: the cost of its own head.
func (q *Queue) Head(cost func(*Waiter) float64) *Waiter {
	var top *Waiter
	owed := &q.contest.owed
	for i, b := range q.bands {
		w := b.first()
		if w == nil {
			if b.time.sum.Requests == 0 {
				owed[i] = 0
			}
			continue
		}
		if top == nil || owed[i] > 0 && owed[i] >= cost(w) {
			top = w
		}
	}
	return top
}

// Serve books that w, which has been the head, goes at that cost, and takes it out.
func (q *Queue) Serve(w *Waiter, cost float64, now llm.Instant) {
	s := w.Session
	cost = w.rest(cost, now)
	s.serve(cost)
	s.Parent.serve(cost)
	s.InFlight++
	s.Parent.InFlight++
	q.contest.owe(s.band, cost)
	q.Remove(w, now)
	q.contest.book(q, cost)
}

// Take is Serve for a turn that the common order decides: the contest's is not charged
// for it.
func (q *Queue) Take(w *Waiter, now llm.Instant) {
	w.Session.InFlight++
	w.Session.Parent.InFlight++
	q.Remove(w, now)
}

// owe books that band was served cost, and what the bands below are owed for it.
func (c *Contest) owe(band int8, cost float64) {
	cost = max(0, cost) // who has paid too much in advance takes back what is its own
	c.owed[band] = max(0, c.owed[band]-cost)
	for i := int(band) + 1; i < numBands; i++ {
		if c.bands[i].sum.Requests > 0 {
			c.owed[i] += bandFloor * cost
		}
	}
}

// Correct moves the virtual time of s, and of all that it counts in, back by a
// refund of cost, or on by a surcharge (refund < 0).
func (q *Queue) Correct(s *Flow, refund float64) {
	s.correct(refund)
	s.Parent.correct(refund)
	q.had -= refund
}

// Undo moves the tags of s back by the cost of a turn that it has to take again.
func (q *Queue) Undo(s *Flow, cost float64) {
	s.move(-cost * s.per)
	s.Parent.move(-cost * s.Parent.per)
}

// Ended notes that a request of s that was served has ended.
func (q *Queue) Ended(s *Flow, now llm.Instant) {
	s.InFlight--
	s.Parent.InFlight--
	q.roster.Idle(s, now)
}

// Longest is the client of a band with the longest queue, nil if nobody waits there.
func (q *Queue) Longest(band int) *Flow { return q.bands[band].longer.longest() }

// Last is the last waiter of the longest session of a client.
func (f *Flow) Last() *Waiter { return f.longer.longest().tail }

// Ahead estimates what goes before the next request of session s, if the queue were
// a fluid (generalized processor sharing): all that higher bands of the contest hold,
// and of its own band as much as the session's share lets go meanwhile. Of a request of s that
// waits already, own is its load, which is not ahead of itself.
func (q *Queue) Ahead(s *Flow, own llm.Load) (ahead llm.Load) {
	part := q.partOf(s)
	for i, b := range q.bands {
		if int8(i) < s.band {
			ahead.Add(b.time.sum, 1)
		}
		if int8(i) != s.band {
			continue
		}
		others, mine := b.time.sum, s.Sum
		others.Add(own, -1)
		mine.Add(own, -1)
		ahead.Add(least(others, mine, part), 1)
	}
	return ahead
}

// least is the less of what waits in a band, and of what it takes to serve a
// session that gets part of the band.
func least(all, mine llm.Load, part float64) llm.Load {
	take := func(all, mine int64) int64 { return min(all, over(mine, part)) }
	return llm.Load{
		// The newcomer itself counts: others are served while it is.
		Requests: min(all.Requests, over(mine.Requests+1, part)-1),
		Input:    take(all.Input, mine.Input), Output: take(all.Output, mine.Output),
		Reserve: take(all.Reserve, mine.Reserve), Capped: take(all.Capped, mine.Capped), Guess: take(all.Guess, mine.Guess),
	}
}

// partOf is the part of its band that s gets while all who wait, wait.
func (q *Queue) partOf(s *Flow) float64 {
	weigh := func(f *Flow) float64 {
		all := f.Parent.time.shares
		if f.index < 0 && len(f.turn.flows) == 0 {
			all += f.Weight
		}
		return f.Weight / all
	}
	return weigh(s) * weigh(s.Parent)
}

func over(n int64, part float64) int64 {
	return int64(min(math.Ceil(float64(n)/part), 1e15))
}

// Clients are those that the queue knows, in no order.
func (q *Queue) Clients() iter.Seq[*Flow] {
	return func(yield func(*Flow) bool) {
		for _, client := range q.clients {
			if !yield(client) {
				return
			}
		}
	}
}

// Sessions are those of a client, in no order.
func (f *Flow) Sessions() iter.Seq[*Flow] {
	return func(yield func(*Flow) bool) {
		for _, s := range f.sessions {
			if !yield(s) {
				return
			}
		}
	}
}

// First is the waiter of a client that goes next, nil if none may.
func (f *Flow) First() *Waiter { return f.first() }
