package limit

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// enter queues a newcomer and serves whoever may go. A newcomer that still waits
// then has to fit into the queue, and to have a chance; otherwise it is refused.
func (c *core) enter(le *Lease, r *Request, now llm.Instant) *Rejected {
	if c.rejecting {
		return c.refuse(Draining, time.Second, "", 0, 0)
	}
	m := c.model(r.Model, now)
	m.used = now
	if m.nursery != nil {
		m.nursery.meet(r.Model)
	}
	for _, l := range m.lanes {
		l.Refresh(now)
	}
	c.seq++
	le.model, le.name = m, r.Model
	le.queued = queue.Waiter{
		Session: m.queue.Session(r.key(), now), Owner: le, Load: llm.Load{Requests: 1}, Bytes: max(0, r.Bytes),
		Seq: c.seq, QueuedAt: now, Deadline: now.Add(le.maxWait),
	}
	if m != c.plain {
		le.queued.Load = r.Demand.Load()
	}
	back := r.RetryCount > 0 && c.ghosts.Claim(r.RetryKey, &le.queued, now)
	c.link(le, back)
	c.pump(now, pumpBatch)
	switch le.state {
	case granted:
		return nil
	case refused:
		return c.verdict(le, now)
	}
	rejected := c.judge(le, now)
	if rejected != nil {
		c.unlink(le, now)
		if back {
			c.ghosts.Leave(r.RetryKey, &le.queued, now)
		}
	}
	return rejected
}

// judge refuses a newcomer that cannot be served in time, or that the queue has no
// room for.
func (c *core) judge(le *Lease, now llm.Instant) *Rejected {
	s := le.queued.Session
	raw, d := c.fluid(le.model, &le.queued, le.queued.Load, now)
	wait, ahead := scale(raw, le.model.bias), s.Waiting()-1
	switch {
	case min(raw, wait) <= le.maxWait:
	case d.Daily():
		return c.refuse(DailyLimit, raw, d.String(), ahead, raw)
	default:
		return c.refuse(DeadlineUnreachable, wait-le.maxWait, d.String(), ahead, wait)
	}
	if !c.makeRoom(le, now) {
		return c.refuse(QueueFull, wait, d.String(), ahead, wait)
	}
	le.fluid, le.bias = raw.Seconds(), le.model.bias
	return nil
}

// link puts a request into its session's queue. With back, it had this turn before.
func (c *core) link(le *Lease, back bool) {
	m := le.model
	le.state = waiting
	m.queue.Insert(&le.queued, back)
	c.alarms.Set(&le.queued)
	c.count(le, 1)
	if !m.listed {
		m.listed = true
		c.active = append(c.active, m)
	}
}

// unlink takes a request out that is not served.
func (c *core) unlink(le *Lease, now llm.Instant) {
	le.model.queue.Remove(&le.queued, now)
	c.unlisted(le)
}

// unlisted keeps the books after a request has left its queue.
func (c *core) unlisted(le *Lease) {
	m := le.model
	c.alarms.Clear(&le.queued)
	c.count(le, -1)
	if m.queue.Waiting() > 0 {
		return
	}
	m.listed = false
	for i, a := range c.active {
		if a == m {
			last := len(c.active) - 1
			c.active[i], c.active[last] = c.active[last], nil
			c.active = c.active[:last]
			return
		}
	}
}

func (c *core) count(le *Lease, sign int) {
	c.waiting += sign
	c.bytes += int64(sign) * le.queued.Bytes
	c.sum.Add(le.queued.Load, int64(sign))
	for _, l := range le.model.lanes {
		l.Queued += sign
	}
}

// cancel takes out a request whose caller has left. It returns false when the
// request was decided before; if it was granted it must then be released.
func (c *core) cancel(le *Lease, now llm.Instant) bool {
	if le.state != waiting {
		return false
	}
	if le.retryKey != 0 {
		c.ghosts.Leave(le.retryKey, &le.queued, now)
	}
	c.unlink(le, now)
	le.state = refused
	c.stats.abandoned++
	return true
}

// reject refuses a request that is in the queue.
func (c *core) reject(le *Lease, why Reason, now llm.Instant) {
	c.unlink(le, now)
	le.state, le.reason = refused, why
	c.done = append(c.done, le)
}

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
	le.held = &held{
		ticket: next.lane.Take(now, w.Session.Client(), w.Load, next.charge),
		caps:   c.caps.Take(now, w.Session.Client(), w.Load, next.charge),
		cost:   next.cost,
	}
	m.inflight++
	m.used = now
	c.inflight++
	c.stats.granted++
	c.done = append(c.done, le)
}
