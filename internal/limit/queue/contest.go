package queue

import "hash/fnv"

// A Contest is the queues whose clients compete for one limit: usually of one model;
// of several where they are names of one limit, or where nobody has ever answered by
// them. Clients share what a contest gets, whatever they ask for.
type Contest struct {
	roster *Roster
	bands  [numBands]virtual // of the clients
	owed   [numBands]float64 // see Queue.Head
	turns  map[clientKey]*turn
	had    float64 // of the queue served last: virtual time among queues
	queues int

	// Round and First are for whoever picks among contests to keep its place: it must
	// not search for a contest that it has met. Bound is for it to note that the contest's
	// own limit decides who is next, and not what limits all.
	Round uint64
	First int
	Bound bool
}

type clientKey struct {
	band int8
	name string
}

// NewContest returns a contest without queues.
func NewContest(r *Roster) *Contest {
	return &Contest{roster: r, turns: map[clientKey]*turn{}}
}

// enter gives a client's flow, which does not compete, the turn that the client has
// in c: that of tag if it has none.
func (c *Contest) enter(client *Flow, tag float64) {
	key := clientKey{client.band, client.Name}
	t := c.turns[key]
	if t == nil {
		t = &turn{tag: tag}
		c.turns[key] = t
	}
	t.owners++
	client.turn = t
}

// leave takes it back.
func (c *Contest) leave(client *Flow) {
	if client.turn.owners--; client.turn.owners == 0 {
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
	from.queues--
	to.queues++
	q.contest = to
	for i, band := range q.bands {
		old, now := &from.bands[i], &to.bands[i]
		shift := now.clock - old.clock
		var competing []*Flow
		for len(band.ready) > 0 {
			client := band.ready[0].flow
			competing = append(competing, client)
			client.pop()
		}
		old.sum.Add(band.Sum, -1)
		now.sum.Add(band.Sum, 1)
		band.time = now
		for key, client := range q.clients {
			if int(key.band) == i {
				tag := client.turn.tag + shift
				from.leave(client)
				to.enter(client, tag)
			}
		}
		for _, client := range competing {
			now.finish = max(now.finish, client.turn.tag)
			client.push()
		}
	}
}

// Away tells whether q is kept from being served by something that is none of its
// rivals' business, such as a pause. Its clients do not save up turns meanwhile.
func (q *Queue) Away(away bool) {
	back := q.away && !away
	q.away = away
	if !back || q.contest.queues == 1 {
		return // alone, nobody has had a turn meanwhile
	}
	for _, client := range q.clients {
		client.lift(client.Parent.time.clock)
	}
}

// Contest is the one that q is in.
func (q *Queue) Contest() *Contest { return q.contest }

// Before reports whether the head a, at that cost, goes before b of another queue of the
// same contest: the client that has had less does, and of one client the queue that has.
func Before(a *Waiter, costA float64, b *Waiter, costB float64) bool {
	x, y := a.Session, b.Session
	c := x.queue.contest
	switch {
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
	c.had = max(c.had, q.had)
	q.had = c.had + cost
}

// identity numbers a client in the same way in every process.
func identity(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return h.Sum64()
}
