package limit

import (
	"cmp"
	"slices"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A Snapshot is the limiter's state at one moment, for status pages and metrics.
type Snapshot struct {
	Waiting       int
	WaitingBytes  int64
	WaitingTokens int64 // prompts, and answers as allowed
	InFlight      int
	Draining      bool
	Global        []Meter
	Groups        []GroupState

	Granted   uint64 // requests let go since the start
	Throttled uint64 // 429s absorbed
	Refused   map[Reason]uint64
	Abandoned uint64 // requests whose caller left the queue

	// ForecastError is the mean of |actual − forecast| / actual over recent waits
	// of a second and more; 0 until there was one.
	ForecastError float64
}

// AllGroups names the caps over all groups (Snapshot.Global) where a name is
// needed beside those of the groups.
const AllGroups = "*"

// The names of groups that no model gives its own.
const (
	unmetered    = "(unmetered)"  // requests without a model
	controlCalls = "(control)"    // that go before all queues
	newModels    = "(new models)" // several that have not answered yet, and that no pattern matches
)

// A Meter is one limit and its level.
type Meter = lane.Meter

// GroupState is one set of limits in a Snapshot, with all that draw on it: a lane,
// or the models of a nursery.
type GroupState struct {
	Name        string   // the model's, its pattern's, "(new models)" or "(unmetered)"
	Aliases     []string // other names of the same limit; of a nursery: the models in it
	Profile     string
	Waiting     int
	InFlight    int
	Owed        int           // by control calls: requests that the caps have still to get
	Paused      time.Duration // left of the provider's pause
	HalfOpen    bool          // the provider refused everything of late, and is probed
	ServiceTime time.Duration // learned 95th percentile, send to settle
	Meters      []Meter
	Nursery     bool           // holds models that have not answered yet
	Sessions    []SessionState // those waiting or served, by band, client and name

	order string // of the groups: a nursery's pattern, or the name
}

// SessionState is a session that waits or is being served.
type SessionState struct {
	Client, Session string
	Priority        Priority
	Weight          float64
	Waiting         int
	InFlight        int
	Tokens          int64         // charges waiting
	Oldest          time.Duration // how long its first request has waited
	Lag             float64       // virtual time it is ahead (+) of its client's clock, in seconds of the limit
}

// Snapshot describes the present state. It takes the lock for a time that
// grows with the number of sessions known.
func (l *Limiter) Snapshot() Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.core.snapshot(l.now())
}

func (c *core) snapshot(now llm.Instant) Snapshot {
	s := Snapshot{
		Waiting: c.waiting, WaitingBytes: c.bytes, WaitingTokens: c.sum.Tokens(), InFlight: c.inflight,
		Draining: c.rejecting, Global: c.caps.Meters(now),
		Granted: c.stats.granted, Throttled: c.stats.throttled, Abandoned: c.stats.abandoned,
		Refused: map[Reason]uint64{}, ForecastError: c.stats.forecastError,
	}
	for r, n := range c.stats.refused {
		if n > 0 {
			s.Refused[Reason(r)] = n
		}
	}
	groups := map[*lane.Lane]*GroupState{}
	of := func(l *lane.Lane) *GroupState {
		if groups[l] == nil {
			groups[l] = &GroupState{Name: string(l.Name), order: string(l.Name), Profile: l.Profile(), Meters: l.Meters(now)}
		}
		return groups[l]
	}
	of(c.plain.lanes[0]).Name = unmetered
	of(c.plain.lanes[0]).add(c.plain, c.plain.lanes[0], now)
	if k := c.control.calls; k.used > 0 {
		g := of(k.lanes[0])
		g.Name, g.order, g.Owed = controlCalls, "\x01", c.control.owed
		g.add(k, k.lanes[0], now)
	}
	for _, m := range c.models {
		g := of(m.lanes[0])
		g.Aliases = names(m.lanes[0].Aliases)
		g.add(m, m.lanes[0], now)
	}
	for _, n := range c.nurseries {
		g := of(n.base)
		g.Name, g.Nursery = n.title(), true
		if len(n.guests) > 1 {
			g.Aliases = names(n.guests)
		}
		for _, m := range n.models {
			g.add(m, m.lanes[0], now)
		}
		if n.crowd != nil {
			g.add(n.crowd, n.crowd.lanes[0], now)
		}
	}
	for _, g := range groups {
		g.Sessions = merge(g.Sessions)
		s.Groups = append(s.Groups, *g)
	}
	slices.SortFunc(s.Groups, func(a, b GroupState) int { // requests without a model before new models
		switch {
		case a.order != b.order:
			return cmp.Compare(a.order, b.order)
		case a.Nursery:
			return 1
		}
		return -1
	})
	return s
}

func names(models []llm.Model) []string {
	all := make([]string, len(models))
	for i, m := range models {
		all[i] = string(m)
	}
	return all
}

// add counts what m has in l.
func (g *GroupState) add(m *model, l *lane.Lane, now llm.Instant) {
	if m.judges != nil {
		g.add(m.judges, l, now)
	}
	g.Waiting += m.queue.Waiting()
	g.InFlight += m.inflight
	g.Paused = max(g.Paused, l.PausedUntil().Sub(now))
	g.HalfOpen = g.HalfOpen || l.Probing()
	g.ServiceTime = max(g.ServiceTime, l.ServiceTime())
	for client := range m.queue.Clients() {
		for s := range client.Sessions() {
			if s.Waiting() > 0 || s.InFlight > 0 {
				g.Sessions = append(g.Sessions, sessionState(s, l, now))
			}
		}
	}
}

func sessionState(s *queue.Flow, l *lane.Lane, now llm.Instant) SessionState {
	state := SessionState{
		Client: s.Parent.Name, Session: s.Name, Priority: High - Priority(s.Band()), Weight: s.Weight,
		Waiting: s.Waiting(), InFlight: s.InFlight, Tokens: int64(l.Charge(s.Sum)[llm.Tokens]), Lag: s.Lag(),
	}
	if at := s.Oldest(); at != llm.Never {
		state.Oldest = now.Sub(at)
	}
	return state
}

// merge sorts sessions, and makes one of those that are in several queues of a group.
func merge(all []SessionState) []SessionState {
	order := func(a, b SessionState) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Client, b.Client), cmp.Compare(a.Session, b.Session))
	}
	slices.SortFunc(all, order)
	merged := all[:0]
	for _, s := range all {
		if last := len(merged) - 1; last >= 0 && order(merged[last], s) == 0 {
			have := &merged[last]
			have.Waiting += s.Waiting
			have.InFlight += s.InFlight
			have.Tokens += s.Tokens
			have.Oldest = max(have.Oldest, s.Oldest)
			have.Lag = min(have.Lag, s.Lag)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}
