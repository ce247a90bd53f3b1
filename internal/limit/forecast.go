package limit

import (
	"math"
	"time"
)

// forecast is fluid, times the ratio by which recent waits exceeded it.
func (c *core) forecast(r *Request, now instant) Forecast {
	g := c.groupFor(r.Model, now)
	s := g.session(sessionKey{bandOf(r.Priority), r.Client, r.Session}, clampWeight(r.ClientWeight), clampWeight(r.Weight), now)
	w := &waiter{charge: g.admit(r.Demand)}
	wait, limit, _ := c.fluid(g, s, w, now)
	c.roster.list(s, now)
	return Forecast{Wait: scale(wait, g.bias), Position: s.queued, Limit: limit}
}

// fluid is the wait that a newcomer w of session s would have if the queue were
// a fluid (generalized processor sharing): all that higher bands hold goes
// first, and of its own band as much as the session's share lets go meanwhile.
// It is a lower bound in practice: those who come later are not in it.
func (c *core) fluid(g *group, s *flow, w *waiter, now instant) (wait time.Duration, limit string, isDaily bool) {
	ahead, n := g.ahead(s), g.aheadCount(s)
	secs, d := g.wait(now, ahead, n, w.charge)
	total, all := c.sum, int64(c.waiting)
	if total.tokens > ahead.tokens*2 && len(c.active) > 1 { // groups share the caps alike
		total, all = ahead, n
	}
	if t, e := c.global.wait(now, minCharge(total, ahead), min(all, n), w.charge); t > secs {
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
	actual, fluid, forecast := now.sub(w.queuedAt).Seconds(), float64(w.fluid), w.forecast()
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
