package limit

// pump grants and refuses what is due, at most limit decisions, and reports
// whether there may be more: a lock must not be held for a million grants.
func (c *core) pump(now instant, limit int) bool {
	for n := 0; ; n++ {
		if n >= limit {
			return true
		}
		if w := c.alarms.due(now); w != nil {
			c.reject(w, QueueTimeout, now)
			continue
		}
		if c.rejecting && c.waiting > 0 {
			c.reject(c.last(), Draining, now)
			continue
		}
		w, band, at := c.pick(now)
		if w == nil {
			c.wakeAt = at
			return false
		}
		if at > now { // its day is used up
			c.reject(w, DailyLimit, now)
			continue
		}
		c.dispatch(w, band, now)
	}
}

// next is when pump must be called although nothing happened.
func (c *core) next() instant { return min(c.wakeAt, c.alarms.next()) }

// pick chooses the next waiter: of every group the head, if the group's own
// limits let it go; of those the group that had least of the global caps. The
// choice is strict: when the caps do not let it go, nobody overtakes it. For
// limits that refill this wastes nothing, and it is what keeps large requests
// from starving.
func (c *core) pick(now instant) (best *waiter, bestBand int, at instant) {
	at = c.wakeParked(now)
	for _, g := range c.active {
		if t := g.blocked(now); t > now {
			at = min(at, t)
			continue
		}
		w, band := g.head()
		if w == nil {
			continue
		}
		if t, d := g.ready(now, w.charge); t > now {
			g.want(now, w.charge)
			if (d == dimRequestsDay || d == dimTokensDay) && t > w.deadline {
				return w, band, t
			}
			at = min(at, t)
			continue
		}
		if best == nil || g.tag < best.group().tag {
			best, bestBand = w, band
		}
	}
	if best == nil {
		return nil, 0, at
	}
	if t, d := c.global.ready(now, best.charge); t > now {
		if (d == dimRequestsDay || d == dimTokensDay) && t > best.deadline {
			return best, bestBand, t
		}
		return nil, 0, min(at, t)
	}
	return best, bestBand, now
}

// dispatch grants w, the head of its group.
func (c *core) dispatch(w *waiter, band int, now instant) {
	s := w.session
	g := s.group
	cost := float64(w.cost)
	s.serve(cost)
	s.parent.serve(cost)
	g.owe(band, cost)
	g.measure(w, now, &c.stats.forecastError)
	c.alarms.clear(w)
	c.unlink(w, now)
	g.take(now, w)
	c.global.take(now, w.charge)
	c.book(g, cost, now)
	w.grant()
	c.done = append(c.done, w)
}

// book counts a request that has been charged.
func (c *core) book(g *group, cost float64, now instant) {
	if c.clock < g.tag {
		c.clock = g.tag
	} else {
		g.tag = c.clock
	}
	g.tag += cost
	g.inflight++
	g.used = now
	if g.gate.limit > 0 {
		g.gate.trying++
		g.gate.since = now
	}
	c.inflight++
	c.stats.granted++
}
