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
	w := &queue.Waiter{Session: s, Load: r.Demand.Load()}
	m.queue.Foresee(w)
	_, wait, d := c.fluid(m, w, llm.Load{}, now)
	c.roster.Idle(s, now)
	return Forecast{Wait: wait, Position: s.Waiting(), Limit: d.String()}
}

// fluid is the wait that w would have if the queue were a fluid (see queue.Ahead),
// in the lane of m that has it soonest. It is a lower bound in practice: those who
// come later are not in it. Likely has the ratio by which recent waits exceeded it; of
// what saves up, for which others come while it waits, it is what its part of the limit
// takes. own is w's load if it waits already.
func (c *core) fluid(m *model, w *queue.Waiter, own llm.Load, now llm.Instant) (wait, likely time.Duration, binding llm.Dimension) {
	ahead, ofAll := m.queue.Ahead(w.Session, own), m.queue.CommonAhead(w.Session, own)
	if m == c.control.calls { // they wait for no queue, and for the caps only as those they owe them
		l := m.lanes[0]
		wait, binding = l.Wait(now, llm.Vector{}, lane.Ask{Charge: l.Charge(w.Load), Small: true})
		return wait, wait, binding
	}
	first, saves := true, false
	for _, l := range m.lanes {
		charge, before, all := l.Charge(w.Load), l.Charge(ahead), l.Charge(ofAll)
		ask := lane.Ask{Client: w.Session.Client(), Charge: charge}
		client, session := m.queue.Small(w, func(load llm.Load) float64 { return c.cost(m, l.Charge(load)) })
		ask.Small, ask.Modest = client && session, session
		expected := before
		if c.isLarge(m, w, l, charge) || c.isLarge(m, w, c.caps, charge) {
			ask.Saver, saves = math.MaxUint64, true
			c.beside(m, w, own, l, charge, &before, &expected)
		}
		there, d := l.Wait(now, before, ask)
		if t, e := c.caps.Wait(now, all, ask); t > there {
			there, d = t, e
		}
		if first || there < wait {
			first, wait, binding = false, there, d
			if likely = wait; saves {
				likely, _ = l.Wait(now, expected, ask)
				likely = max(likely, wait)
			}
		}
	}
	if !saves {
		likely = scale(wait, m.bias)
	}
	return wait, likely, binding
}

// beside adds to what goes before a large request of that charge what others are served
// while it saves up, and others that are large before it. There is no more of it than
// waits, in before; in expected they are thought to come as long as there is a queue.
func (c *core) beside(m *model, w *queue.Waiter, own llm.Load, l *lane.Lane, charge llm.Vector, before, expected *llm.Vector) {
	others := m.queue.Others(w.Session, own)
	if others.Requests <= 0 {
		return
	}
	there, part := l.Charge(others), m.queue.Part(w.Session)
	much := charge
	for client := range m.queue.Clients() {
		for s := range client.Sessions() {
			if first := s.First(); first != nil && s != w.Session {
				if load := l.Charge(first.Load); c.isLarge(m, first, l, load) {
					much.Add(load, 1)
				}
			}
		}
	}
	saved := l.Saved()
	for d := llm.Tokens; d <= llm.OutputTokens; d++ {
		goes := max(0, much[d]-saved[d])/part - charge[d] + saved[d]
		before[d] = max(before[d], min(there[d], goes))
		expected[d] = max(expected[d], goes)
	}
}

// measure compares a wait with its forecast, for the next forecasts' sake.
func (m *model) measure(le *Lease, now llm.Instant, meanError *float64) {
	actual, fluid, forecast := now.Sub(le.queued.QueuedAt).Seconds(), le.fluid, le.fluid*le.bias
	if actual < 1 || fluid <= 0 || le.bias == 1 && le.queued.Saver() != 0 {
		return // what saves up is foretold in another way
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
