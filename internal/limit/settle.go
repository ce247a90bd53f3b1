package limit

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A held is what a granted request holds: a slot in a lane and, together with it
// or not at all, one under the caps over all models.
type held struct {
	ticket lane.Ticket
	caps   lane.Booking
	cost   float64 // by which its contest counted it
	common float64 // by which the common order did
	due    *due    // of a control call: what it owes the caps, instead of a slot under them
}

// maxSpare bounds the helds that are kept for the next requests.
const maxSpare = 256

// newHeld is one that a request has given up, or a new one: each would be garbage
// that every request pays for.
func (c *core) newHeld() *held {
	n := len(c.spare)
	if n == 0 {
		return new(held)
	}
	h := c.spare[n-1]
	c.spare = c.spare[:n-1]
	return h
}

// giveUp takes what le held from it, for another.
func (c *core) giveUp(le *Lease) {
	if len(c.spare) < maxSpare {
		*le.held = held{} // nothing that it spoke of is kept alive
		c.spare = append(c.spare, le.held)
	}
	le.held = nil
}

// sent marks the moment before the request's bytes leave.
func (c *core) sent(le *Lease, now llm.Instant) { le.held.ticket.Sent(now) }

// started books a good answer: the model exists, and gets limits of its own.
func (c *core) started(le *Lease, now llm.Instant) {
	t := &le.held.ticket
	if t.HasStarted() {
		return
	}
	if le.name != "" {
		c.confirm(le.model, le.name, now)
	}
	t.Started(now)
	if t.Judged() {
		full := t.Lane().Charge(le.whole)
		le.held.caps.More(now, &full, 0)
	}
	c.lift(t.Lane(), now)
}

// observe takes in the headers of an answer.
func (c *core) observe(le *Lease, s *llm.Signal, now llm.Instant) {
	t := &le.held.ticket
	t.Observe(now, s)
	c.lift(t.Lane(), now)
}

// settle ends a request with its exact usage. The buckets move as the provider's do,
// the session's tag always: what it used is what it had.
func (c *core) settle(le *Lease, u llm.Usage, now llm.Instant) {
	if le.model.of != nil {
		c.settleJudged(le, u, now)
		return
	}
	h, used := le.held, lane.Exact(u)
	back := h.ticket.Settle(now, u)
	if le.model != c.control.calls {
		h.caps.Return(now, back)
	}
	if charge := h.ticket.Charge(); used != charge { // in units of what was paid: limits may have changed
		m := le.model
		c.correct(le, h.cost*(1-c.cost(m, used)/c.cost(m, charge)), h.common*(1-c.capsCost(&used)/c.capsCost(&charge)))
	}
	c.started(le, now)
	c.end(le, now)
}

// correct moves the tags of a request's session and client by a refund, in cost.
func (c *core) correct(le *Lease, refund, common float64) {
	if refund != 0 {
		le.model.queue.Correct(le.queued.Session, refund)
	}
	if common != 0 {
		c.roster.Unbook(le.queued.Session, common)
	}
}

// release ends a request without usage: what was never sent is refunded whole, what
// was sent keeps its charge, for the provider may have booked it.
func (c *core) release(le *Lease, now llm.Instant) {
	if !le.held.ticket.WasSent() {
		c.returned(le, now)
		return
	}
	c.end(le, now)
}

// returned ends a request that the provider answered without doing anything for it:
// all that it was charged comes back, to the limits and to its session.
func (c *core) returned(le *Lease, now llm.Instant) {
	c.takeBack(le, now)
	c.correct(le, le.held.cost, le.held.common)
	c.end(le, now)
}

// takeBack refunds what a request was charged, wholly: it was not processed.
func (c *core) takeBack(le *Lease, now llm.Instant) {
	le.held.ticket.TakeBack(now)
	c.takeBackCaps(le, now)
}

func (c *core) takeBackCaps(le *Lease, now llm.Instant) {
	if le.model == c.control.calls {
		c.takeBackControl(le.held, now)
		return
	}
	le.held.caps.TakeBack(now)
}

// end gives the slot of a request back, whatever became of the charge.
func (c *core) end(le *Lease, now llm.Instant) {
	le.held.ticket.End(now)
	if le.model == c.control.calls {
		c.endControl(le)
	} else {
		le.held.caps.End(now)
	}
	c.giveUp(le)
	le.model.queue.Ended(le.queued.Session, now)
	le.model.inflight--
	c.inflight--
	c.roster.ReleaseClients() // what came back may be what they wait for
}

// throttled takes in a curable 429. It returns when the request may go again, and
// whether it was a probe: what it met then is not its own fault.
func (c *core) throttled(le *Lease, s *llm.Signal, now llm.Instant) (notBefore llm.Instant, probe bool) {
	t := &le.held.ticket
	c.stats.throttled++
	c.alias(t.Lane(), s.Group, now)
	probe = t.Probe()
	t.Lane().Quote(now, s.Said)
	if t.Judged() {
		return t.Spare(now, s), probe
	}
	caps := c.caps
	if le.model == c.control.calls {
		caps = t.Lane() // what they are refused says nothing of the caps
	}
	notBefore = t.Throttled(now, s, caps)
	c.lift(t.Lane(), now)
	return notBefore, probe
}

// unavailable takes in that a request did not reach the provider, or was turned
// away unprocessed with the wish to come back after. It returns what throttled does.
func (c *core) unavailable(le *Lease, after time.Duration, now llm.Instant) (notBefore llm.Instant, probe bool) {
	t := &le.held.ticket
	probe = t.Probe()
	c.takeBackCaps(le, now)
	return t.Unavailable(now, after), probe
}

// exhausted ends a request that the provider has turned away as often as it may.
func (c *core) exhausted(le *Lease, now llm.Instant) *Rejected {
	if le.refused < c.cfg.MaxAttempts {
		return nil
	}
	c.end(le, now)
	return c.refuse(AttemptsExhausted, le.model.pausedUntil().Sub(now), "", 0, 0).quoting(le.model, now)
}

// requeue puts a request back at the head of its session, with the tag that it had,
// not to be served before notBefore. The slot is given up; whether the charge is
// too is the caller's to say.
func (c *core) requeue(le *Lease, maxWait time.Duration, notBefore, now llm.Instant) *Rejected {
	cost, common := le.held.cost, le.held.common
	c.end(le, now)
	if c.rejecting {
		return c.refuse(Draining, time.Second, "", 0, 0)
	}
	start := max(notBefore, le.model.pausedUntil(), now)
	if maxWait <= 0 {
		return c.refuse(QueueTimeout, start.Sub(now), "", 0, start.Sub(now)).quoting(le.model, now)
	}
	if start.Sub(now) > maxWait {
		return c.refuse(DeadlineUnreachable, start.Sub(now), "", 0, start.Sub(now)).quoting(le.model, now)
	}
	w := &le.queued
	le.model.queue.Undo(w.Session, cost)
	c.roster.Unbook(w.Session, common)
	le.fluid, le.bias = 0, 0 // nobody has foretold this wait
	w.QueuedAt, w.Deadline = now, now.Add(maxWait)
	c.link(le, true)
	c.roster.Count(w)
	if notBefore > now {
		c.roster.Hold(w.Session, notBefore)
	}
	return nil
}
