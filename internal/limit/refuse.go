package limit

import (
	"math"
	"time"
)

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
	g := w.group
	seconds, d := g.budget.wait(now, g.ahead(w.session), 0, w.charge)
	if s, e := c.caps.wait(now, c.sum, int64(c.waiting), w.charge); s > seconds {
		seconds, d = s, e
	}
	wait := secondsDuration(seconds)
	return c.refuse(w.reason, wait, d.String(), 0, wait)
}

// fluid is the wait that a newcomer w of session s would have if the queue were
// a fluid (generalized processor sharing): all that higher bands hold goes
// first, and of its own band as much as the session's share lets go meanwhile.
// It is a lower bound in practice: those who come later are not in it.
func (c *core) fluid(g *group, s *flow, w *waiter, now instant) (wait time.Duration, limit string, isDaily bool) {
	ahead, n := g.ahead(s), g.aheadCount(s)
	secs, d := g.budget.wait(now, ahead, n, w.charge)
	total, all := c.sum, int64(c.waiting)
	if total.tokens > ahead.tokens*2 && len(c.active) > 1 { // groups share the caps alike
		total, all = ahead, n
	}
	if t, e := c.caps.wait(now, minCharge(total, ahead), min(all, n), w.charge); t > secs {
		secs, d = t, e
	}
	if now < g.pausedUntil {
		secs = max(secs, g.pausedUntil.sub(now).Seconds())
	}
	return secondsDuration(secs), d.String(), d == dimRequestsDay || d == dimTokensDay
}

// ahead is the charge that goes before a newcomer of s.
func (g *group) ahead(s *flow) charge {
	ahead, part := charge{}, g.partOf(s)
	for _, b := range g.bands {
		if b == s.parent.parent {
			own := s.sum
			ahead.add(minCharge(b.sum, charge{
				tokens: over(own.tokens, part), input: over(own.input, part), output: over(own.output, part),
			}), 1)
			break
		}
		ahead.add(b.sum, 1)
	}
	return ahead
}

func (g *group) aheadCount(s *flow) int64 {
	n := int64(0)
	for _, b := range g.bands {
		if b == s.parent.parent {
			// The newcomer itself counts: others are served while it is.
			n += min(int64(b.queued), over(int64(s.queued)+1, g.partOf(s))-1)
			break
		}
		n += int64(b.queued)
	}
	return n
}

// partOf is the part of its band that s gets while all who wait, wait.
func (g *group) partOf(s *flow) float64 {
	client := s.parent
	weigh := func(f *flow) float64 {
		all := f.parent.shares
		if f.index < 0 {
			all += f.weight
		}
		return f.weight / all
	}
	return weigh(s) * weigh(client)
}

func over(n int64, part float64) int64 {
	return int64(min(math.Ceil(float64(n)/part), 1e15))
}

func minCharge(a, b charge) charge {
	return charge{min(a.tokens, b.tokens), min(a.input, b.input), min(a.output, b.output)}
}

// measure compares a wait with its forecast, for the next forecasts' sake.
func (g *group) measure(w *waiter, now instant, meanError *float64) {
	actual, fluid, forecast := now.sub(w.queuedAt).Seconds(), float64(w.fluid), float64(w.forecast)
	if actual < 1 || fluid <= 0 {
		return
	}
	g.bias = min(max(g.bias*math.Pow(actual/fluid/g.bias, 0.05), 0.1), 4)
	off := math.Abs(actual-forecast) / actual
	if *meanError == 0 {
		*meanError = off
	}
	*meanError += 0.05 * (off - *meanError)
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
			c.cfg.MaxWaitingBytes > 0 && c.bytes+w.bytes > c.cfg.MaxWaitingBytes ||
			c.cfg.MaxWaitingTokens > 0 && c.waiting > 0 && c.sum.tokens+w.charge.tokens > c.cfg.MaxWaitingTokens
	}
	for full() {
		v := c.victim()
		if v == nil {
			return false
		}
		mine, theirs := bandOf(w.session.priority), bandOf(v.session.priority)
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

// A quantile follows the 95th percentile of a stream by stochastic
// approximation, in the logarithm: up by much when exceeded, down by little
// when not, so that it rests where one in twenty exceeds it.
type quantile struct {
	value float64
	n     int
}

func (q *quantile) observe(x float64) {
	if !(x > 0) {
		return
	}
	if q.n++; q.n == 1 {
		q.value = x
		return
	}
	step := max(0.05, 1/float64(q.n))
	if x > q.value {
		q.value *= math.Exp(step * 0.95)
	} else {
		q.value *= math.Exp(-step * 0.05)
	}
}

func scale(d time.Duration, by float64) time.Duration {
	return secondsDuration(d.Seconds() * by)
}

func secondsDuration(s float64) time.Duration {
	if s > 1e9 {
		s = 1e9
	}
	return time.Duration(s * 1e9)
}
