package limit

import (
	"math"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// forecast is fluid, times the ratio by which recent waits exceeded it.
func (c *core) forecast(r *Request, now llm.Instant) Forecast {
	m := c.modelOf(r, now)
	s := m.queue.Session(r.key(), now)
	wait, d := c.fluid(m, &queue.Waiter{Session: s, Load: r.Demand.Load()}, llm.Load{}, now)
	c.roster.Idle(s, now)
	return Forecast{Wait: scale(wait, m.bias), Position: s.Waiting(), Limit: d.String()}
}

// fluid is the wait that w would have if the queue were a fluid (see queue.Ahead),
// in the lane of m that has it soonest. It is a lower bound in practice: those who
// come later are not in it. own is w's load if it waits already.
func (c *core) fluid(m *model, w *queue.Waiter, own llm.Load, now llm.Instant) (wait time.Duration, binding llm.Dimension) {
	ahead, ofAll := m.queue.Ahead(w.Session, own), m.queue.CommonAhead(w.Session, own)
	if m == c.control.calls { // they wait for no queue, and for the caps only as those they owe them
		l := m.lanes[0]
		return l.Wait(now, llm.Vector{}, l.Charge(w.Load))
	}
	first := true
	for _, l := range m.lanes {
		charge, before, all := l.Charge(w.Load), l.Charge(ahead), l.Charge(ofAll)
		there, d := l.Wait(now, before, charge)
		if t, e := c.caps.Wait(now, all, charge); t > there {
			there, d = t, e
		}
		if first || there < wait {
			first, wait, binding = false, there, d
		}
	}
	return wait, binding
}

// measure compares a wait with its forecast, for the next forecasts' sake.
func (m *model) measure(le *Lease, now llm.Instant, meanError *float64) {
	actual, fluid, forecast := now.Sub(le.queued.QueuedAt).Seconds(), le.fluid, le.fluid*le.bias
	if actual < 1 || fluid <= 0 {
		return
	}
	m.bias = min(max(m.bias*math.Pow(actual/fluid/m.bias, 0.05), 0.1), 4)
	off := math.Abs(actual-forecast) / actual
	if *meanError == 0 {
		*meanError = off
	}
	*meanError += 0.05 * (off - *meanError)
}

func scale(d time.Duration, by float64) time.Duration {
	return lane.Seconds(d.Seconds() * by)
}
