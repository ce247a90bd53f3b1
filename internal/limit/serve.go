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
		case next.lease.model == c.control.calls:
			c.admit(&next, now)
		case next.lease.due != nil:
			c.pay(&next, now)
		case next.judge != nil:
			c.divert(next.lease, next.judge, now)
		case next.ask.Saving:
			c.save(&next)
		default:
			c.dispatch(&next, now)
		}
	}
}

// pending reports whether anything waits for a turn.
func (c *core) pending() bool { return c.waiting > 0 || c.control.owed > 0 }

func owner(w *queue.Waiter) *Lease { return w.Owner.(*Lease) }

// next is when pump must be called although nothing happened.
func (c *core) next() llm.Instant { return min(c.wakeAt, c.alarms.Next()) }

// A choice is who is decided next: served in a lane, or refused because its day is
// over. Without a lease nobody is, until at.
type choice struct {
	lease     *Lease
	at        llm.Instant // when it may go
	lane      *lane.Lane
	ask       lane.Ask // for all of the request, or for an instalment of it
	cost      float64
	dayIsOver bool
	judge     *model // where it has to wait instead
}

// pick chooses who goes next: of every contest the first, if one of its lanes lets it
// go, and of those the first in the common order. The choice is strict: what its
// limit, or the caps over all models, do not let go yet is not overtaken. For limits
// that refill this wastes nothing, and it is what keeps large requests from starving.
//
// A contest's first is the one that its limit owes a turn while that limit is what they
// wait for, and else the one that the caps do. So who has had much of the caps is not held
// back at a model whose own limit binds, and the reverse.
func (c *core) pick(now llm.Instant) choice {
	at := c.roster.Release(now)
	if c.control.calls.listed {
		next := c.nextControl(now)
		if next.lease != nil {
			return next
		}
		at = min(at, next.at)
	}
	for {
		c.heads = c.heads[:0]
		c.round++
		for _, m := range c.active {
			if m == c.control.calls {
				continue
			}
			next := c.head(m, now)
			switch {
			case next.lease == nil:
				at = min(at, next.at)
			case next.dayIsOver, next.judge != nil:
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
			case best == nil || c.precedes(next, best):
				best = next
			}
		}
		if best == nil {
			c.contend(false)
			return choice{at: at}
		}
		w := &best.lease.queued
		v := c.caps.When(now, best.ask)
		if v.At > now && v.Limit != llm.None && !v.ThisAsker && !best.ask.Saving && best.lease.due == nil {
			v = c.easeCaps(best, v, now)
		}
		switch {
		case v.At <= now:
			return *best
		case v.ThisAsker:
			c.roster.Hold(w.Session.Parent, v.At)
			at = min(at, v.At)
		case !c.contended:
			c.contend(true) // who is next is asked anew
		default:
			best.dayIsOver = v.Limit.Daily() && v.At > w.Deadline
			if best.dayIsOver {
				return *best
			}
			return choice{at: min(at, v.At)}
		}
	}
}

// contend notes whether somebody waits for the caps over all models alone. As long as
// nobody does, nobody has anything to claim of them.
func (c *core) contend(contended bool) {
	if c.contended && !contended {
		c.roster.Rest()
	}
	c.contended = contended
}

// enlist keeps the first of each contest in heads.
func (c *core) enlist(next *choice) {
	contest := next.lease.model.queue.Contest()
	if contest.Round != c.round {
		contest.Round, contest.First = c.round, len(c.heads)
		c.heads = append(c.heads, *next)
		return
	}
	have := &c.heads[contest.First]
	first := queue.Before
	if c.contended && !contest.Bound {
		first = queue.CommonBefore
	}
	if first(&next.lease.queued, next.cost, &have.lease.queued, have.cost) {
		*have = *next
	}
}

// precedes compares the heads of two contests. While the caps let all go it makes no
// difference, but for the last one.
func (c *core) precedes(x, y *choice) bool {
	a, b := &x.lease.queued, &y.lease.queued
	if c.contended {
		return queue.CommonBefore(a, c.capsCost(&x.ask.Charge), b, c.capsCost(&y.ask.Charge))
	}
	if a.Session.Band() != b.Session.Band() {
		return a.Session.Band() < b.Session.Band()
	}
	return a.Seq < b.Seq
}

// head finds who of m's queue is next, and when. If only its client is held back, the
// next client's is asked. A lane that is paused has no head: in its contest others
// may go meanwhile.
func (c *core) head(m *model, now llm.Instant) choice {
	if m.of != nil {
		return c.judgedHead(m, now)
	}
	next := choice{at: llm.Never}
	contest := m.queue.Contest()
	asked := false
	for {
		common := c.contended && !contest.Bound
		w := c.first(m, common)
		if w == nil {
			break
		}
		ask := lane.Ask{Client: w.Session.Client(), Saver: w.Saver()}
		l, v := m.soonest(w, &ask, now)
		if v.At > now && v.Limit != llm.None {
			if judges := c.judged(m, w.Load, now); judges != nil {
				return choice{lease: owner(w), judge: judges}
			}
			c.ease(m, w, l, &ask)
			l, v = m.soonest(w, &ask, now)
		}
		if m == c.control.dues {
			ask.Charge = slotless(ask.Charge)
		}
		away := v.At > now && (v.Limit == llm.None || v.ThisLane) && !v.ThisAsker
		if common && v.At > now && !away && !v.ThisAsker {
			contest.Bound = true // m's own limit decides
			continue
		}
		if c.contended && m.queue.Ready(v.At <= now) && common {
			continue
		}
		m.queue.Away(away)
		asked = asked || v.At > now
		if v.ThisAsker && v.At > now {
			c.roster.Hold(w.Session.Parent, v.At)
			next.at = min(next.at, v.At)
			continue
		}
		dayIsOver := v.At > now && v.Limit.Daily() && v.At > w.Deadline
		if away && !dayIsOver {
			next.at = min(next.at, v.At)
			break
		}
		next = choice{lease: owner(w), at: v.At, lane: l, ask: ask, cost: c.cost(m, ask.Charge), dayIsOver: dayIsOver}
		if v.At > now && !dayIsOver && c.savesUp(&next, l, v) {
			c.instalment(&next, now)
		}
		break
	}
	if asked {
		m.tell(now)
	}
	return next
}

// first is the head of m's queue in its contest's order or in the common one.
func (c *core) first(m *model, common bool) *queue.Waiter {
	if common {
		return m.queue.CommonHead(func(w *queue.Waiter) float64 {
			charge := m.lanes[0].Charge(w.Load)
			return c.capsCost(&charge)
		})
	}
	return m.queue.Head(func(w *queue.Waiter) float64 { return c.costOf(m, w) })
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

// charge takes a turn out of its queue, and charges it in the order that has decided it;
// in the common order whenever that is kept.
func (c *core) charge(le *Lease, next *choice, now llm.Instant) {
	q := le.model.queue
	contest := q.Contest()
	if c.contended {
		le.held.common = c.capsCost(&next.ask.Charge)
		c.roster.Book(le.queued.Session, le.queued.CommonRest(le.held.common))
	}
	if !c.contended || contest.Bound {
		le.held.cost = next.cost
		q.Serve(&le.queued, next.cost, now)
	} else {
		q.Take(&le.queued, now)
	}
	contest.Bound = false // until its limit makes the next one wait
}

// dispatch grants the choice.
func (c *core) dispatch(next *choice, now llm.Instant) {
	le := next.lease
	le.model.measure(le, now, &c.stats.forecastError)
	le.held = c.newHeld()
	c.charge(le, next, now)
	c.grant(le, next, now)
	le.held.caps = c.caps.Book(now, next.ask)
	if next.ask.Saver != 0 {
		c.forsake(le, now)
	}
	if le.model.of != nil {
		le.held.ticket.Judge(next.lane.Charge(le.whole))
	} else {
		le.model.usual(next.cost)
	}
}

// grant takes the choice, which has left its queue, off its lane.
func (c *core) grant(le *Lease, next *choice, now llm.Instant) {
	w := &le.queued
	c.unlisted(le)
	le.state = granted
	load := w.Load
	if le.model.of != nil {
		load = le.whole
	}
	le.held.ticket = next.lane.Take(now, load, next.ask)
	le.model.inflight++
	le.model.used = now
	c.inflight++
	c.stats.granted++
	c.done = append(c.done, le)
}
