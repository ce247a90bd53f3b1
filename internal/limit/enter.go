package limit

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// enter queues a newcomer and serves whoever may go. A newcomer that still waits
// then has to fit into the queue, and to have a chance; otherwise it is refused.
func (c *core) enter(le *Lease, r *Request, now llm.Instant) *Rejected {
	if c.rejecting {
		return c.refuse(Draining, time.Second, "", 0, 0)
	}
	m := c.modelOf(r, now)
	m.used = now
	load := llm.Load{Requests: 1}
	if m.nursery != nil {
		m.nursery.meet(r.Model)
	}
	for _, l := range m.lanes {
		l.Refresh(now)
	}
	if m != c.plain && m != c.control.calls {
		load = r.Demand.Load()
		if judged := c.judged(m, load, now); judged != nil {
			m, load, le.whole = judged, llm.Load{Requests: 1}, load
		}
	}
	c.seq++
	le.model, le.name = m, r.Model
	le.queued = queue.Waiter{
		Session: m.queue.Session(r.key(), now), Owner: le, Load: load, Bytes: max(0, r.Bytes),
		Seq: c.seq, QueuedAt: now, Deadline: now.Add(le.maxWait),
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
	c.roster.Count(&le.queued)
	raw, wait, d := c.fluid(le.model, &le.queued, le.queued.Load, now)
	ahead := s.Waiting() - 1
	switch {
	case min(raw, wait) <= le.maxWait:
	case d.Daily():
		return c.refuse(DailyLimit, raw, d.String(), ahead, raw).quoting(le.model, now)
	default:
		return c.refuse(DeadlineUnreachable, wait-le.maxWait, d.String(), ahead, wait).quoting(le.model, now)
	}
	if !c.makeRoom(le, now) {
		return c.refuse(QueueFull, wait, d.String(), ahead, wait)
	}
	le.fluid, le.bias = raw.Seconds(), le.model.bias
	if wait > 0 && raw > 0 && c.saving(le) {
		le.fluid, le.bias = wait.Seconds(), 1
	}
	return nil
}

// link puts a request into its session's queue. With back, it had this turn before.
func (c *core) link(le *Lease, back bool) {
	m := le.model
	le.state = waiting
	m.queue.Insert(&le.queued, back)
	if c.waiting > 0 { // else it is likely served at once
		c.roster.Count(&le.queued)
	}
	c.alarms.Set(&le.queued)
	c.count(le, 1)
	c.list(m)
}

// list notes that somebody waits for m.
func (c *core) list(m *model) {
	if !m.listed {
		m.listed = true
		c.active = append(c.active, m)
	}
}

// unlink takes a request out that is not served.
func (c *core) unlink(le *Lease, now llm.Instant) {
	le.model.queue.Remove(&le.queued, now)
	c.forsake(le, now)
	c.unlisted(le)
}

// unlisted keeps the books after a request has left its queue.
func (c *core) unlisted(le *Lease) {
	c.alarms.Clear(&le.queued)
	c.count(le, -1)
	c.delist(le.model)
}

// delist is the reverse of list, if nobody waits for m any more.
func (c *core) delist(m *model) {
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
