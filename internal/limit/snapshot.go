package limit

import (
	"cmp"
	"slices"
	"time"
)

// A Snapshot is the limiter's state at one moment, for status pages and metrics.
type Snapshot struct {
	Waiting       int
	WaitingBytes  int64
	WaitingTokens int64
	InFlight      int
	Draining      bool
	Global        []Meter
	Groups        []GroupState

	Granted   uint64 // places granted since the start
	Throttled uint64 // 429s absorbed
	Refused   map[Reason]uint64
	Abandoned uint64 // waiters whose caller left

	// ForecastError is the mean of |actual − forecast| / actual over recent waits
	// of a second and more; 0 until there was one.
	ForecastError float64
}

// AllGroups names the caps over all groups (Snapshot.Global) where a name is
// needed beside those of the groups.
const AllGroups = "*"

// The names of groups that no model gives its own.
const (
	unmetered = "(unmetered)"  // requests without a model
	newModels = "(new models)" // several that have not answered yet, and that no pattern matches
)

// GroupState is one limit group in a Snapshot.
type GroupState struct {
	Name        string   // the model's, its pattern's, "(new models)" or "(unmetered)"
	Aliases     []string // other names of the same limit; of a nursery: the models in it
	Profile     string
	Waiting     int
	InFlight    int
	Paused      time.Duration // left of the provider's pause
	HalfOpen    bool          // the provider refused everything of late, and is probed
	ServiceTime time.Duration // learned 95th percentile, send to settle
	Meters      []Meter
	Nursery     bool           // holds models that have not answered yet
	Sessions    []SessionState // those waiting or served, by band, client and name
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

// A Meter is one limit and its level.
type Meter struct {
	Name    string // such as "tokens_per_minute"
	Limit   int64
	Learned bool    // from the provider's own words
	Level   float64 // what may still be charged now; negative is debt
	Rate    float64 // refill a second as we use it, after foreign use and caution
	Factor  float64 // caution after 429s, 1 = none
	Foreign float64 // use a second by others of the same key
	Guard   float64 // kept back
}

// Snapshot describes the present state. It takes the lock for a time that
// grows with the number of sessions known.
func (l *Limiter) Snapshot() Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.core.snapshot(l.now())
}

func (c *core) snapshot(now instant) Snapshot {
	s := Snapshot{
		Waiting: c.waiting, WaitingBytes: c.bytes, WaitingTokens: c.sum.tokens, InFlight: c.inflight,
		Draining: c.rejecting, Global: c.global.snapshot(now),
		Granted: c.stats.granted, Throttled: c.stats.throttled, Abandoned: c.stats.abandoned,
		Refused: map[Reason]uint64{}, ForecastError: c.stats.forecastError,
	}
	for r, n := range c.stats.refused {
		if n > 0 {
			s.Refused[Reason(r)] = n
		}
	}
	var all []*group
	for _, g := range c.groups {
		if !slices.Contains(all, g) {
			all = append(all, g)
		}
	}
	for _, g := range c.nurseries {
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b *group) int { return cmp.Compare(a.name, b.name) })
	for _, g := range all {
		s.Groups = append(s.Groups, g.snapshot(now))
	}
	return s
}

func (g *group) snapshot(now instant) GroupState {
	s := GroupState{
		Name: g.title(), Aliases: slices.Clone(g.aliases), Profile: g.family.String(), InFlight: g.inflight,
		Paused: max(0, g.pausedUntil.sub(now)), ServiceTime: secondsDuration(g.service.value),
		Meters: g.meters.snapshot(now), Nursery: g.nursery,
		HalfOpen: g.gate.limit > 0,
	}
	if g.lease != nil {
		s.Meters = g.lease.Meters(time.Duration(now))
	}
	if len(g.guests) > 1 {
		s.Aliases = slices.Clone(g.guests)
	}
	for _, b := range g.bands {
		s.Waiting += b.queued
	}
	for f := range g.sessions() {
		if f.queued == 0 && f.inflight == 0 {
			continue
		}
		state := SessionState{
			Client: f.parent.name, Session: f.name, Priority: f.priority, Weight: f.weight,
			Waiting: f.queued, InFlight: int(f.inflight), Tokens: f.sum.tokens, Lag: f.tag - f.parent.clock,
		}
		if f.head != nil {
			state.Oldest = now.sub(f.head.queuedAt)
		}
		s.Sessions = append(s.Sessions, state)
	}
	slices.SortFunc(s.Sessions, func(a, b SessionState) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Client, b.Client), cmp.Compare(a.Session, b.Session))
	})
	return s
}

func (m *meters) snapshot(now instant) []Meter {
	var all []Meter
	for d := range m {
		b := &m[d]
		if !b.on {
			continue
		}
		b.advance(now)
		meter := Meter{
			Name: dimension(d).String(), Limit: int64(b.limit), Learned: b.learned, Level: b.level,
			Factor: b.factor, Foreign: b.foreign, Guard: b.reserve(),
		}
		if b.refill == continuous || b.refill == sliding {
			meter.Rate = b.effective()
		}
		all = append(all, meter)
	}
	return all
}
