package limit

import "time"

// seat grants r at once, if nobody waits and everything fits. It is most of
// what a limiter does on a good day, so it touches no queue and no heap.
func (c *core) seat(gr *grant, r *Request, now instant) bool {
	if c.waiting > 0 || len(c.parked) > 0 || c.rejecting {
		return false
	}
	s := c.sessionFor(r, now)
	ch := s.group.admit(r.Demand)
	cost, ok := c.tryTake(s.group, ch, now)
	if !ok {
		c.roster.list(s, now)
		return false
	}
	c.seq++
	gr.open(s, r.Model, r.Demand, ch, c.seq, now)
	gr.cost, gr.rates = cost, c.rates(s.group)
	gr.probe = s.group.gate.limit > 0
	c.serveIdle(s, cost, now)
	return true
}

// sessionFor finds or makes the session of r, in the group of its model.
func (c *core) sessionFor(r *Request, now instant) *flow {
	g := c.groupFor(r.Model, now)
	if g.nursery {
		g.meet(r.Model)
	}
	g.used = now
	if g.learned > 0 && now.sub(g.learned) > learnedIdle {
		c.unlearn(g, now)
	}
	band, clientWeight, weight := bandOf(r.Priority), clampWeight(r.ClientWeight), clampWeight(r.Weight)
	if client := g.recent; client != nil { // agents ask in bursts
		s := client.recent
		if s != nil && s.name == r.Session && client.name == r.Client && client.band == band {
			s.reweigh(weight)
			client.reweigh(clientWeight)
			return s
		}
	}
	return g.session(sessionKey{band, r.Client, r.Session}, clientWeight, weight, now)
}

// tryTake takes ch of g's limits and of the caps, if both let it go at once, and
// tells its cost.
func (c *core) tryTake(g *group, ch charge, now instant) (cost float64, ok bool) {
	if g.blocked(now) > now {
		return 0, false
	}
	own := 0.0
	if g.lease != nil {
		if at, _ := g.ready(now, ch); at > now {
			return 0, false
		}
		own = g.share(ch)
	} else if g.meters.bounded() {
		if own, ok = g.meters.tryTake(now, ch); !ok {
			return 0, false
		}
	}
	all, ok := c.global.tryTake(now, ch)
	switch {
	case !ok && g.lease == nil:
		g.meters.untake(g.meters[0].of.on, now, ch)
	case ok && g.lease != nil:
		g.lease.Take(time.Duration(now), ch.cost(1, 1))
	}
	return dominant(ch, own, all), ok
}

// serveIdle books a request of s that finds no queue in front of it.
func (c *core) serveIdle(s *flow, cost float64, now instant) {
	s.serveIdle(cost)
	s.parent.serveIdle(cost)
	c.book(s.group, cost, now)
}

// arrive decides about a newcomer: granted at once, queued, or refused.
func (c *core) arrive(w *waiter, r *Request, maxWait time.Duration, now instant) *Rejected {
	if c.rejecting {
		return c.refuse(Draining, time.Second, "", 0, 0)
	}
	s := c.sessionFor(r, now)
	g := s.group
	c.seq++
	w.session, w.model, w.bytes = s, r.Model, clip32(r.Bytes)
	w.state, w.seq, w.queuedAt = waiting, c.seq, now
	w.demand = pack(r.Demand)
	w.charge = g.admit(r.Demand)
	if c.waiting == 0 && len(c.parked) == 0 {
		if cost, ok := c.tryTake(g, w.charge, now); ok {
			w.cost = float32(cost)
			c.serveIdle(s, cost, now)
			w.grant()
			return nil
		}
	}
	w.cost = float32(c.cost(g, w.charge))
	raw, limit, isDaily := c.fluid(g, s, w, now)
	wait := scale(raw, g.bias)
	if min(raw, wait) > maxWait {
		c.roster.list(s, now)
		if isDaily {
			return c.refuse(DailyLimit, raw, limit, s.queued, raw)
		}
		return c.refuse(DeadlineUnreachable, wait-maxWait, limit, s.queued, wait)
	}
	if !c.makeRoom(w, now) {
		c.roster.list(s, now)
		return c.refuse(QueueFull, wait, limit, s.queued, wait)
	}
	w.deadline = now.add(maxWait)
	w.fluid, w.bias = float32(raw.Seconds()), uint16(g.bias*biasUnit)
	ghost, back := ghost{}, false
	if r.RetryCount > 0 {
		ghost, back = c.ghosts.claim(r.RetryKey, r.Session, now)
	}
	if back {
		w.seq = ghost.seq
		if s.queued == 0 {
			s.parent.tag = min(s.parent.tag, ghost.clientTag)
			s.tag = min(s.tag, ghost.tag)
		}
	}
	c.link(w, now, back)
	c.alarms.set(w)
	return nil
}

// link puts w into its session's queue. With old, the session competes with the
// tag it has, even below its client's clock: it had this turn before.
func (c *core) link(w *waiter, now instant, old bool) {
	g, s := w.session.group, w.session
	s.insert(w)
	c.waiting++
	c.bytes += int64(w.bytes)
	c.sum.add(w.charge, 1)
	if s.index < 0 && s.parked == 0 {
		if old {
			if s.parent.index < 0 && len(s.parent.ready) == 0 {
				s.parent.push()
			}
			s.push()
		} else {
			s.activate()
		}
	}
	if !g.listed {
		g.listed = true
		g.tag = max(g.tag, c.clock)
		c.active = append(c.active, g)
	}
}

// unlink is the reverse of link.
func (c *core) unlink(w *waiter, now instant) {
	g, s := w.session.group, w.session
	s.remove(w)
	c.waiting--
	c.bytes -= int64(w.bytes)
	c.sum.add(w.charge, -1)
	if s.queued == 0 {
		if s.index >= 0 {
			s.pop()
		}
		c.unpark(s)
		c.roster.list(s, now)
	}
	if g.queued() == 0 {
		g.listed = false
		for i, a := range c.active {
			if a == g {
				last := len(c.active) - 1
				c.active[i], c.active[last] = c.active[last], nil
				c.active = c.active[:last]
				break
			}
		}
	}
}

// cancel takes out a waiter whose caller has left. It returns false when the
// waiter was decided before; a place that it was given must then be released.
func (c *core) cancel(w *waiter, key uint64, now instant) bool {
	if w.state != waiting {
		return false
	}
	s := w.session
	if key != 0 {
		c.ghosts.add(key, ghost{
			session: s.name, seq: w.seq, tag: s.tag, clientTag: s.parent.tag, until: now.add(ghostLife),
		})
	}
	c.alarms.clear(w)
	c.unlink(w, now)
	c.stats.abandoned++
	return true
}

// reject refuses a waiter that is in the queue.
func (c *core) reject(w *waiter, why Reason, now instant) {
	c.alarms.clear(w)
	c.unlink(w, now)
	w.state, w.reason = refused, why
	c.done = append(c.done, w)
}

// patience is how long r may wait, all attempts together.
func (c *core) patience(r *Request, now instant) time.Duration {
	wait := c.cfg.MaxWait
	if r.MaxWait > 0 && r.MaxWait < wait {
		wait = r.MaxWait
	}
	if r.Timeout > 0 {
		return c.timeLeft(r, wait, now)
	}
	return wait
}

// timeLeft is what the client's own clock leaves of wait: it runs on while the
// answer is made. A tenth is left whatever was learned: or slow answers would
// forbid every try to be faster.
func (c *core) timeLeft(r *Request, wait time.Duration, now instant) time.Duration {
	usual := secondsDuration(c.groupFor(r.Model, now).service.value)
	return min(wait, max(r.Timeout-usual, r.Timeout/10))
}
