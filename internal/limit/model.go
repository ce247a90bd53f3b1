package limit

import (
	"slices"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	maxModels = 256       // that have answered
	modelIdle = time.Hour // a model unused for so long is forgotten, with what was learned
)

// A model is what clients ask for by one name: the queue of those who do, and the
// lanes that may serve it. Models that the provider counts together share a lane.
type model struct {
	name    llm.Model
	queue   *queue.Queue
	lanes   []*lane.Lane // at least one; the first that is free is taken
	nursery *nursery     // nil once the model has answered well
	judges  *model       // where requests wait that look impossible; nil = there were none
	of      *model       // whose those are, in the model where they wait

	listed   bool // in core.active
	inflight int
	used     llm.Instant
	bias     float64 // actual wait over forecast wait, averaged
	often    float64 // 1/cost of what was served, averaged: small ones weigh most
}

func newModel(name llm.Model, c *queue.Contest, l *lane.Lane, now llm.Instant) *model {
	return &model{name: name, queue: queue.New(c), lanes: []*lane.Lane{l}, used: now, bias: 1}
}

// laneConfig is what a lane is told of the models that pattern stands for.
func (c *core) laneConfig(limits Limits, profile string) lane.Config {
	if profile == "" {
		profile = c.cfg.Profile
	}
	return lane.Config{Limits: limits.vector(), Share: c.cfg.Share, Profile: profile, Learn: c.cfg.Learn, Roll: c.roll}
}

// configured returns what the Config has for a name: the pattern that matches
// first, "" if none does, and the lane's part.
func (c *core) configured(name llm.Model) (pattern string, cfg lane.Config) {
	for _, m := range c.cfg.Models {
		if name.Matches(m.Pattern) {
			return m.Pattern, c.laneConfig(m.Limits, m.Profile)
		}
	}
	return "", c.laneConfig(Limits{}, "")
}

// modelOf is the model that r waits for.
func (c *core) modelOf(r *Request, now llm.Instant) *model {
	if r.Control {
		return c.control.calls
	}
	return c.model(r.Model, now)
}

// model finds the model of a name, or makes one in its nursery.
func (c *core) model(name llm.Model, now llm.Instant) *model {
	if name == "" {
		return c.plain
	}
	if m := c.models[name]; m != nil {
		return m
	}
	n := c.nursery(name, now)
	if m := n.models[name]; m != nil {
		return m
	}
	if len(n.models) < maxNew || n.forget(now) {
		m := c.enroll(n, name, now)
		n.models[name] = m
		return m
	}
	if n.crowd == nil {
		n.crowd = newModel(llm.Model(n.pattern), n.contest, lane.NewCrowd(llm.Model(n.pattern), n.base), now)
		n.crowd.nursery = n
	}
	return n.crowd
}

// idle reports whether nobody waits for m or is served.
func (m *model) idle() bool {
	return !m.listed && m.inflight == 0 && (m.judges == nil || m.judges.idle())
}

// pausedUntil is when one of the lanes may send again.
func (m *model) pausedUntil() llm.Instant {
	at := llm.Never
	for _, l := range m.lanes {
		at = min(at, l.PausedUntil())
	}
	return at
}

// alias books that the provider calls the limit of l by name. Two lanes that it
// calls the same become one. The queues stay apart, in one contest.
func (c *core) alias(l *lane.Lane, name llm.Model, now llm.Instant) {
	if name == "" || name == l.Name || l.Shared() || l.Name == "" { // that of requests without a model
		return
	}
	other := c.models[name]
	if other == nil {
		if len(c.models) >= maxModels {
			return
		}
		if other = c.leave(name); other == nil {
			other = newModel(name, c.contest(l), l, now)
		}
		other.queue.Join(c.contest(l))
		if own := other.lanes[0]; own != l {
			l.Merge(own, now)
		} else {
			l.Aliases = append(l.Aliases, name)
		}
		other.nursery, other.lanes[0] = nil, l
		c.models[name] = other
		return
	}
	into := other.lanes[0]
	if into == l {
		return
	}
	into.Merge(l, now)
	slices.Sort(into.Aliases)
	for _, m := range c.models {
		if i := slices.Index(m.lanes, l); i >= 0 {
			m.lanes[i] = into
			m.queue.Join(other.queue.Contest())
		}
	}
}

// contest is the one of l's queues.
func (c *core) contest(l *lane.Lane) *queue.Contest {
	for _, m := range c.models {
		if slices.Contains(m.lanes, l) {
			return m.queue.Contest()
		}
	}
	return queue.NewContest(&c.roster)
}

// forget drops models that nobody has used for an hour, and their lanes. All names of a
// lane go together: one that came back alone would get a second bucket of the same limit.
func (c *core) forget(now llm.Instant) {
	used := map[*lane.Lane]bool{}
	for _, m := range c.models {
		if !m.idle() || now.Sub(m.used) <= modelIdle {
			for _, l := range m.lanes {
				used[l] = true
			}
		}
	}
	closed := map[*lane.Lane]bool{}
	for name, m := range c.models {
		if slices.ContainsFunc(m.lanes, func(l *lane.Lane) bool { return used[l] }) {
			continue
		}
		delete(c.models, name)
		m.queue.Close()
		if m.judges != nil {
			m.judges.queue.Close()
		}
		for _, l := range m.lanes {
			if !closed[l] {
				closed[l] = true
				l.Close()
			}
		}
	}
}

// closeLanes tells every lane that nothing more will be taken, and makes no source
// any more.
func (c *core) closeLanes() {
	c.cfg.Source = nil
	closed := map[*lane.Lane]bool{}
	for _, m := range c.models {
		for _, l := range m.lanes {
			if !closed[l] {
				closed[l] = true
				l.Close()
			}
		}
	}
}

// soonest asks every lane of m when the head w may go, and returns the first that
// is free, or the soonest; a gets what w is charged there. Only if every lane holds
// back just this client may the next one go before it.
func (m *model) soonest(w *queue.Waiter, a *lane.Ask, now llm.Instant) (best *lane.Lane, v lane.Verdict) {
	v.At, v.ThisAsker = llm.Never, true
	for _, l := range m.lanes {
		there := *a
		there.Charge = l.Charge(w.Load)
		at := l.When(now, there)
		only := v.ThisAsker && at.ThisAsker
		if best == nil || at.At < v.At {
			best, a.Charge, v = l, there.Charge, at
		}
		if v.ThisAsker = only; v.At <= now {
			break
		}
	}
	return best, v
}

// share is the dominant share of v (Ghodsi et al., Dominant Resource Fair Queueing,
// SIGCOMM 2012): the longest time that one of the limits of all lanes together
// needs to make up for it, in seconds; 0 where nothing limits.
func (m *model) share(v llm.Vector) float64 {
	rates := m.lanes[0].Rate()
	for _, l := range m.lanes[1:] {
		for d, r := range l.Rate() {
			if r == 0 || rates[d] == 0 { // one of them has no limit of this kind
				rates[d] = 0
				continue
			}
			rates[d] += r
		}
	}
	return share(v, rates)
}

func share(v, rates llm.Vector) float64 {
	longest := 0.0
	for d, r := range rates {
		if r > 0 {
			longest = max(longest, v[d]/r)
		}
	}
	return longest
}
