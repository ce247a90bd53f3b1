package limit

import "time"

const (
	retryAfterMin = time.Second
	retryAfterMax = 59 * time.Second // longer ones are ignored by the SDKs
	ghostLife     = 10 * time.Second
	maxGhosts     = 4096
)

// refuse builds the error of a refusal. Waits are spread by a tenth, so that
// those who are refused together do not come back together.
func (c *core) refuse(why Reason, after time.Duration, limit string, position int, forecast time.Duration) *Rejected {
	c.stats.refused[why]++
	e := &Rejected{Reason: why, Limit: limit, Position: position, Forecast: forecast}
	if why == DailyLimit {
		e.RetryAfter = after
		return e
	}
	after = scale(after, 0.9+0.2*c.roll())
	e.RetryAfter = min(max(after, retryAfterMin), retryAfterMax)
	return e
}

// verdict builds the error of a waiter that was refused in the queue.
func (c *core) verdict(w *waiter, now instant) *Rejected {
	g := w.group()
	seconds, d := g.wait(now, g.ahead(w.session), 0, w.charge)
	if s, e := c.global.wait(now, c.sum, int64(c.waiting), w.charge); s > seconds {
		seconds, d = s, e
	}
	wait := secondsDuration(seconds)
	return c.refuse(w.reason, wait, d.String(), 0, wait)
}

// victim is the waiter that gives way when the queue is full: the last of the
// longest session of the longest client of the lowest band.
func (c *core) victim() *waiter {
	for band := numBands - 1; band >= 0; band-- {
		var longest *flow
		for _, g := range c.active {
			if f := g.bands[band].rungs.longest(); f != nil && (longest == nil || f.queued > longest.queued) {
				longest = f
			}
		}
		if longest != nil {
			return longest.rungs.longest().tail
		}
	}
	return nil
}

// last is some waiter, from the end of the queue.
func (c *core) last() *waiter { return c.victim() }

// makeRoom lets others give way until w fits the queue's bounds, and reports
// whether it does. A newcomer gives way itself when its own session is the
// longest, or its band the lowest.
func (c *core) makeRoom(w *waiter, now instant) bool {
	full := func() bool {
		return c.waiting >= c.cfg.MaxWaiting ||
			c.cfg.MaxWaitingBytes > 0 && c.bytes+int64(w.bytes) > c.cfg.MaxWaitingBytes ||
			c.cfg.MaxWaitingTokens > 0 && c.waiting > 0 && c.sum.tokens+w.charge.tokens > c.cfg.MaxWaitingTokens
	}
	for full() {
		v := c.victim()
		if v == nil {
			return false
		}
		mine, theirs := w.session.band, v.session.band
		if mine > theirs {
			return false
		}
		if mine == theirs {
			a, b := w.session, v.session
			if a == b || a.parent != b.parent && a.parent.queued+1 >= b.parent.queued+1 && a.parent.queued >= b.parent.queued ||
				a.parent == b.parent && a.queued >= b.queued {
				return false
			}
		}
		c.reject(v, QueueFull, now)
	}
	return true
}

// park keeps s from being served until then.
func (c *core) park(s *flow, until instant) {
	if s.index >= 0 {
		s.pop()
	}
	if s.parked == 0 {
		c.parked = append(c.parked, s)
	}
	s.parked = max(s.parked, until)
}

func (c *core) unpark(s *flow) {
	if s.parked == 0 {
		return
	}
	s.parked = 0
	for i, p := range c.parked {
		if p == s {
			last := len(c.parked) - 1
			c.parked[i], c.parked[last] = c.parked[last], nil
			c.parked = c.parked[:last]
			return
		}
	}
}

// wakeParked lets parked sessions compete again, and tells when the next may.
func (c *core) wakeParked(now instant) instant {
	next := never
	for i := 0; i < len(c.parked); {
		s := c.parked[i]
		if s.parked > now {
			next = min(next, s.parked)
			i++
			continue
		}
		c.unpark(s)
		if len(s.parent.ready) == 0 {
			s.parent.push()
		}
		s.push()
	}
	return next
}

// A ghost is the place of a waiter whose caller hung up. SDKs hang up by their
// own timeout and try again: such a request gets its old place back.
type ghost struct {
	session        string
	seq            uint64
	tag, clientTag float64
	until          instant
}

type ghosts struct {
	byKey map[uint64]ghost
	order []uint64 // a ring of keys, oldest at next
	next  int
}

func (g *ghosts) add(key uint64, v ghost) {
	if g.byKey == nil {
		g.byKey = map[uint64]ghost{}
	}
	if len(g.order) < maxGhosts {
		g.order = append(g.order, key)
	} else {
		delete(g.byKey, g.order[g.next])
		g.order[g.next] = key
		g.next = (g.next + 1) % maxGhosts
	}
	g.byKey[key] = v
}

func (g *ghosts) claim(key uint64, session string, now instant) (ghost, bool) {
	v, ok := g.byKey[key]
	if !ok || v.session != session {
		return ghost{}, false
	}
	delete(g.byKey, key)
	return v, now <= v.until
}
