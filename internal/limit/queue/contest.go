package queue

import (
	"hash/fnv"
	"slices"
)

// A Contest is the queues whose clients compete for one limit: usually of one model;
// of several where they are names of one limit, or where nobody has ever answered by
// them. Clients share what a contest gets, whatever they ask for.
type Contest struct {
	roster *Roster
	bands  [numBands]virtual // of the clients
	owed   [numBands]float64 // see Queue.Head
	turns  map[clientKey]*turn
	tag    float64 // among contests, for what limits them all
}

type clientKey struct {
	band int8
	name string
}

// NewContest returns a contest without queues.
func NewContest(r *Roster) *Contest {
	return &Contest{roster: r, turns: map[clientKey]*turn{}, tag: r.turns}
}

// enter gives a client's flow the turn that the client has in c.
func (c *Contest) enter(client *Flow) {
	key := clientKey{client.band, client.Name}
	if t := c.turns[key]; t != nil {
		t.flows = append(t.flows, client)
		client.turn = t
		return
	}
	client.turn = &turn{tag: client.turn.tag, flows: []*Flow{client}}
	c.turns[key] = client.turn
}

// leave takes it back.
func (c *Contest) leave(client *Flow) {
	t := client.turn
	t.flows = slices.DeleteFunc(t.flows, func(f *Flow) bool { return f == client })
	if len(t.flows) == 0 {
		delete(c.turns, clientKey{client.band, client.Name})
	}
}

// Join moves q into another contest: who draws on other limits has other rivals.
// Everybody's distance from the clock stays what it was.
func (q *Queue) Join(to *Contest) {
	from := q.contest
	if from == to {
		return
	}
	for i, band := range q.bands {
		old, now := &from.bands[i], &to.bands[i]
		shift := now.clock - old.clock
		competing := band.ready
		for _, s := range competing {
			old.leave(s.flow.Weight)
			now.busy++
			now.shares += s.flow.Weight
		}
		old.sum.Add(band.Sum, -1)
		now.sum.Add(band.Sum, 1)
		band.time = now
		for key, client := range q.clients {
			if int(key.band) != i {
				continue
			}
			from.leave(client)
			client.turn = &turn{tag: client.turn.tag + shift} // unless it has one there
			to.enter(client)
			now.finish = max(now.finish, client.turn.tag)
		}
		for j := range competing {
			competing[j].tag = competing[j].flow.turn.tag
		}
		for j := range slices.Backward(competing) {
			band.down(j)
		}
	}
	q.contest = to
}

// Contest is the one that q is in.
func (q *Queue) Contest() *Contest { return q.contest }

// Before reports whether the head a, at that cost, goes before b of another queue. In one
// contest the client that has had less does, and of one client the queue that has;
// else the contest that has.
func Before(a *Waiter, costA float64, b *Waiter, costB float64) bool {
	x, y := a.Session, b.Session
	c := x.queue.contest
	switch {
	case c != y.queue.contest:
		return c.tag < y.queue.contest.tag
	case x.band < y.band:
		return !(c.owed[y.band] > 0 && c.owed[y.band] >= costB)
	case x.band > y.band:
		return c.owed[x.band] > 0 && c.owed[x.band] >= costA
	case x.Parent.turn != y.Parent.turn:
		return x.Parent.turn.tag < y.Parent.turn.tag
	}
	return x.queue.had < y.queue.had
}

// book counts a request that q has served.
func (c *Contest) book(q *Queue, cost float64) {
	c.tag = max(c.tag, c.roster.turns)
	c.roster.turns = c.tag
	c.tag += cost
	q.had += cost
}

// identity numbers a client in the same way in every process.
func identity(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return h.Sum64()
}
