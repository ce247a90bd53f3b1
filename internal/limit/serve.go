package limit

import (
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// pump grants and refuses what is due, at most limit decisions, and reports
// whether there may be more: a lock must not be held for a million grants.
func (c *core) pump(now llm.Instant, limit int) bool {
	for n := 0; ; n++ {
		if n >= limit {
			return true
		}
		if w := c.alarms.Due(now); w != nil {
			c.reject(owner(w), QueueTimeout, now)
			continue
		}
		if c.rejecting && c.waiting > 0 {
			c.reject(c.victim(), Draining, now)
			continue
		}
		if c.away = c.away && c.waiting > 0; c.away {
			c.reject(c.victim(), Unreachable, now)
			continue
		}
		next := c.pick(now)
		switch {
		case next.lease == nil:
			c.wakeAt = next.at
			return false
		case next.dayIsOver:
			c.reject(next.lease, DailyLimit, now)
		default:
			c.dispatch(&next, now)
		}
	}
}

func owner(w *queue.Waiter) *Lease { return w.Owner.(*Lease) }

// next is when pump must be called although nothing happened.
func (c *core) next() llm.Instant { return min(c.wakeAt, c.alarms.Next()) }

// A choice is who is decided next: served in a lane, or refused because its day is
// over. Without a lease nobody is, until at.
type choice struct {
	lease     *Lease
	at        llm.Instant // when it may go
	lane      *lane.Lane
	charge    llm.Vector
	cost      float64
	dayIsOver bool
}

// pick chooses who goes next: of every contest the first, if one of its lanes lets it
// go; of those the one of the contest that had least. The choice is strict: what its
// limit, or the caps over all models, do not let go yet is not overtaken. For limits
// that refill this wastes nothing, and it is what keeps large requests from starving.
func (c *core) pick(now llm.Instant) choice {
	at := c.roster.Release(now)
	for {
		c.heads = c.heads[:0]
		c.round++
		for _, m := range c.active {
			next := c.head(m, now)
			switch {
			case next.lease == nil:
				at = min(at, next.at)
			case next.dayIsOver:
				return next
			default:
				c.enlist(&next)
			}
		}
		var best *choice
		for i := range c.heads {
			switch next := &c.heads[i]; {
			case next.at > now:
				at = min(at, next.at)
			case best == nil || next.before(best):
				best = next
			}
		}
		if best == nil {
			return choice{at: at}
		}
		w := &best.lease.queued
		v := c.caps.When(now, w.Session.Client(), best.charge)
		switch {
		case v.At <= now:
			return *best
		case v.ThisAsker:
			c.roster.Hold(w.Session.Parent, v.At)
			at = min(at, v.At)
		default:
			best.dayIsOver = v.Limit.Daily() && v.At > w.Deadline
			if best.dayIsOver {
				return *best
			}
			return choice{at: min(at, v.At)}
		}
	}
}

// enlist keeps the first of each contest in heads.
func (c *core) enlist(next *choice) {
	contest := next.lease.model.queue.Contest()
	if contest.Round != c.round {
		contest.Round, contest.First = c.round, len(c.heads)
		c.heads = append(c.heads, *next)
	} else if have := &c.heads[contest.First]; next.before(have) {
		*have = *next
	}
}

func (x *choice) before(y *choice) bool {
	return queue.Before(&x.lease.queued, x.cost, &y.lease.queued, y.cost)
}

// head finds who of m's queue is next, and when. If only its client is held back, the
// next client's is asked. A lane that is paused has no head: in its contest others
// may go meanwhile.
func (c *core) head(m *model, now llm.Instant) choice {
	next := choice{at: llm.Never}
	asked := false
	for {
		w := m.queue.Head(func(w *queue.Waiter) float64 { return c.costOf(m, w) })
		if w == nil {
			break
		}
		l, charge, v := m.soonest(w, now)
		m.queue.Away(v.At > now && v.Limit == llm.None && !v.ThisAsker)
		asked = asked || v.At > now
		if v.ThisAsker && v.At > now {
			c.roster.Hold(w.Session.Parent, v.At)
			next.at = min(next.at, v.At)
			continue
		}
		if v.At > now && v.Limit == llm.None {
			next.at = min(next.at, v.At)
			break
		}
		next = choice{lease: owner(w), at: v.At, lane: l, charge: charge, cost: c.cost(m, charge)}
		next.dayIsOver = v.At > now && v.Limit.Daily() && v.At > w.Deadline
		break
	}
	if asked {
		m.tell(now)
	}
	return next
}

// costOf is what w would cost if it went now, for the floors of bands.
func (c *core) costOf(m *model, w *queue.Waiter) float64 {
	charge := m.lanes[0].Charge(w.Load)
	return c.cost(m, charge)
}

// tell lets the sources that want to know hear who waits.
func (m *model) tell(now llm.Instant) {
	for _, l := range m.lanes {
		if listener := l.Listens(); listener != nil {
			listener.Waiting(now, m.backlog(l))
		}
	}
}

// backlog is who waits for m, client by client, in l's unit.
func (m *model) backlog(l *lane.Lane) (all []lane.Backlog) {
	for client := range m.queue.Clients() {
		if client.Waiting() == 0 {
			continue
		}
		b := lane.Backlog{Client: client.ID(), Band: client.Band(), Weight: client.Weight, Sum: l.Charge(client.Sum)}
		for s := range client.Sessions() {
			if s.Waiting() > 0 {
				b.Sessions = append(b.Sessions, s.Weight)
			}
		}
		if w := client.First(); w != nil {
			b.Head = l.Charge(w.Load)
		}
		all = append(all, b)
	}
	return all
}

// dispatch grants the choice.
func (c *core) dispatch(next *choice, now llm.Instant) {
	le, m := next.lease, next.lease.model
	w := &le.queued
	m.measure(le, now, &c.stats.forecastError)
	m.queue.Serve(w, next.cost, now)
	c.unlisted(le)
	le.state = granted
	le.held = c.newHeld()
	le.held.ticket = next.lane.Take(now, w.Session.Client(), w.Load, next.charge)
	le.held.caps = c.caps.Book(now, w.Session.Client(), next.charge)
	le.held.cost = next.cost
	m.inflight++
	m.used = now
	c.inflight++
	c.stats.granted++
	c.done = append(c.done, le)
}
