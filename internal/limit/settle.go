package limit

import "time"

// open makes gr the grant of a request of s. What Sent fills in is left as it
// is until then.
func (gr *grant) open(s *flow, model string, d Demand, ch charge, seq uint64, now instant) {
	if gr.session != s { // a place often goes round in one session, and pointers cost a write barrier
		gr.session, gr.group = s, s.group
	}
	if s.group.lease != nil {
		gr.lease = s.group.lease
	}
	gr.model, gr.demand, gr.charge = model, d, ch
	gr.seq, gr.taken = seq, now
	gr.sent, gr.started, gr.heard = false, false, false
	if gr.pending != nil {
		gr.pending = nil
	}
}

// close ends the place of gr in the counts, whatever became of the charge.
func (c *core) close(gr *grant, now instant) {
	if gr.way != nil {
		gr.way.onTheWay.add(gr.charge, -1)
		gr.way = nil
	}
	if gr.probe {
		if gr.heard {
			c.taken(gr, now)
		} else { // its client left: that tells nothing
			gr.probe = false
			gr.group.gate.trying--
		}
	}
	g, s := gr.group, gr.session
	if gr.rates == 0 || (g.meters[0].of.on|c.global[0].of.on)&(1<<dimConcurrent) != 0 {
		c.leave(gr, now)
	}
	c.inflight--
	g.inflight--
	s.inflight--
	s.parent.inflight--
	if s.idleSince = now; s.idleListed == 0 {
		c.roster.list(s, now)
	}
}

// correct moves the tags of gr's session and client by refund, in cost.
func (gr *grant) correct(refund float64) {
	gr.session.correct(refund)
	gr.session.parent.correct(refund)
	gr.group.tag -= refund
}

// release ends gr without usage: what was never sent is refunded whole, what
// was sent keeps its charge, for the provider may have booked it.
func (c *core) release(gr *grant, now instant) {
	if !gr.sent {
		c.refund(gr, gr.charge, 1, now)
		gr.correct(gr.cost)
	}
	c.close(gr, now)
}

// settle ends gr with its exact usage. The buckets move as the provider's do,
// the session's tag always: what it used is what it had.
func (c *core) settle(gr *grant, u Usage, now instant) {
	g, used := gr.group, exact(u)
	back := gr.charge
	back.add(g.family.settle(gr.charge, u), -1)
	if gr.rates != 0 && gr.rates == c.rates(g) && g.into == nil && !g.nursery {
		own := 0.0
		if g.meters.bounded() {
			own = g.meters.settle(now, back, used, gr.taken)
		}
		all := c.global.settle(now, back, used, gr.taken)
		if used != gr.charge {
			gr.correct(gr.cost - dominant(used, own, all))
		}
	} else {
		c.settleAnew(gr, back, used, now)
	}
	if !gr.started {
		c.started(gr, now)
	}
	if gr.sent {
		live := c.resolve(g, gr.model)
		live.shadows.settle(gr.demand, u)
		live.service.observe(now.sub(gr.sentAt).Seconds())
	}
	c.close(gr, now)
}

// settleAnew is for a grant whose cost was worked out under other limits than
// those of now, or that was leased.
func (c *core) settleAnew(gr *grant, back, used charge, now instant) {
	if back != (charge{}) {
		c.refund(gr, back, 0, now)
	}
	if used != gr.charge { // in units of what was paid
		gr.correct(gr.cost * (1 - c.cost(gr.group, used)/c.cost(gr.group, gr.charge)))
	}
}

// takeBack refunds what gr was charged, wholly: it was not processed.
func (c *core) takeBack(gr *grant, now instant) {
	c.refund(gr, gr.charge, 1, now)
	if gr.sent {
		c.resolve(gr.group, gr.model).shadows.book(gr.demand, -1)
	}
}

// exhausted ends gr when the provider has turned it away as often as it may.
func (c *core) exhausted(gr *grant, refused int, now instant) *Rejected {
	if refused < c.cfg.MaxAttempts {
		return nil
	}
	c.close(gr, now)
	return c.refuse(AttemptsExhausted, c.resolve(gr.group, gr.model).pausedUntil.sub(now), "", 0, 0)
}

// requeue puts gr's request back at the head of its session, with the tag that
// it had, not to be served before notBefore. The place is given up; whether the
// charge is too is the caller's to say.
func (c *core) requeue(gr *grant, w *waiter, maxWait time.Duration, bytes int64, notBefore, now instant) *Rejected {
	c.close(gr, now)
	live := c.resolve(gr.group, gr.model)
	if c.rejecting {
		return c.refuse(Draining, time.Second, "", 0, 0)
	}
	start := max(notBefore, live.pausedUntil, now)
	if maxWait <= 0 || start.sub(now) > maxWait {
		why := DeadlineUnreachable
		if maxWait <= 0 {
			why = QueueTimeout
		}
		return c.refuse(why, start.sub(now), "", 0, start.sub(now))
	}
	s := gr.session
	if live != gr.group {
		s = live.session(sessionKey{s.band, s.parent.name, s.name}, s.parent.weight, s.weight, now)
	}
	s.move(-gr.cost * s.per)
	s.parent.move(-gr.cost * s.parent.per)
	*w = waiter{
		wake: w.wake, session: s, model: gr.model, charge: live.admit(gr.demand), demand: pack(gr.demand), queuedAt: now,
		deadline: now.add(maxWait), seq: gr.seq, bytes: clip32(bytes),
	}
	w.cost = float32(c.cost(live, w.charge))
	c.link(w, now, true)
	c.alarms.set(w)
	if notBefore > now {
		c.park(s, notBefore)
	}
	return nil
}
