package limit

import (
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// mostTurns bounds how many turns of others an impossible request waits for where
// requests are short.
const mostTurns = 100

// judged is the model in whose queue those requests for m wait that look larger than the
// provider's whole limit; nil if one of that load does not. They go one at a time,
// whatever waits for m.
func (c *core) judged(m *model, load llm.Load, now llm.Instant) *model {
	for _, l := range m.lanes {
		if charge := l.Charge(load); !l.Impossible(&charge) {
			return nil
		}
	}
	if m.judges == nil {
		m.judges = newModel(m.name, queue.NewContest(&c.roster), m.lanes[0], now)
		m.judges.of, m.judges.lanes = m, m.lanes
	}
	return m.judges
}

// divert moves le to those that are judged: its model's limit has become known.
func (c *core) divert(le *Lease, to *model, now llm.Instant) {
	c.unlink(le, now)
	w := &le.queued
	le.whole, w.Load = w.Load, llm.Load{Requests: 1}
	w.Session, le.model = to.queue.Session(keyOf(w.Session), now), to
	c.link(le, false)
	c.roster.Count(w)
}

// keyOf is the key that makes a session like s in another queue.
func keyOf(s *queue.Flow) queue.Key {
	return queue.Key{Band: s.Band(), Client: s.Parent.Name, Session: s.Name, ClientWeight: s.Parent.Weight, Weight: s.Weight}
}

// judgedHead is head for a model of those that are judged. Its charge is one request;
// where those are short it costs so much that others have theirs first.
func (c *core) judgedHead(m *model, now llm.Instant) choice {
	w := c.first(m, c.contended)
	if w == nil || m.inflight > 0 {
		return choice{at: llm.Never}
	}
	l := m.of.lanes[0]
	ask := lane.Ask{Client: w.Session.Client(), Charge: l.Charge(w.Load)}
	v := l.Open(now, ask)
	if v.Limit == llm.None && v.At > now || v.ThisAsker {
		return choice{at: v.At}
	}
	cost := c.cost(m.of, ask.Charge) * float64(1+min(m.of.queue.Waiting(), mostTurns))
	return choice{lease: owner(w), at: v.At, lane: l, ask: ask, cost: cost}
}

// settleJudged ends a request that was judged, and accepted: it had what it used, as far
// as that was there.
func (c *core) settleJudged(le *Lease, u llm.Usage, now llm.Instant) {
	c.started(le, now)
	h, used, m := le.held, lane.Exact(u), le.model.of
	h.ticket.Settle(now, u)
	h.caps.Less(now, used)
	s := m.queue.Session(keyOf(le.queued.Session), now)
	m.queue.Correct(s, -c.cost(m, used))
	c.roster.Idle(s, now)
	c.end(le, now)
}

// tooLarge takes in that the provider refuses le for its size alone.
func (c *core) tooLarge(le *Lease, s *llm.Signal, now llm.Instant) {
	judged := le.held.ticket.Judged()
	back := le.held.ticket.TooLarge(now, s)
	if !judged && le.held.due == nil { // a refused control call keeps what it owes
		le.held.caps.Return(now, back)
	}
}
