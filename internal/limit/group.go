package limit

import (
	"cmp"
	"slices"
	"time"
)

const (
	numBands  = 3
	bandFloor = 0.05 // of what a higher band is served, owed to each waiting lower one

	maxGroups    = 256
	maxGuests    = 8
	groupIdle    = time.Hour   // a group unused for so long is forgotten, with what it learned
	sessionIdle  = time.Minute // after which an idle session's virtual time is forgotten
	learnedIdle  = time.Hour   // without a word from the provider, a learned limit yields to the configured one
	windowForget = 10 * time.Minute
)

// A group is a set of models that the provider counts together, usually one.
type group struct {
	name    string
	aliases []string // names other than name
	nursery bool     // holds the models that have not answered yet
	guests  []string // of a nursery: names of the models that were asked for last
	into    *group   // where it was merged to
	profile profile  // as configured
	family  profile  // as used: for auto, the best guess so far
	meters  meters
	lease   *lease             // stands in the place of meters; nil = nobody to lease from
	taken   map[*waiter]*lease // by waiters that are granted and have not looked yet: lease may change meanwhile

	bands   [numBands]*flow // high, normal, low
	owed    [numBands]float64
	clients map[clientKey]*flow
	recent  *flow   // the client that came last
	roster  *roster // the core's

	tag      float64 // among groups, for what the global caps give
	listed   bool    // in core.active
	inflight int
	used     instant

	pausedUntil instant
	gate        gate
	rejects     int // pauses in a row without an answer between
	rejectedAt  instant
	window      float64 // places in flight while a 429's limit is unknown; 0 = no such bound
	threshold   float64
	windowCut   instant

	service  quantile
	bias     float64 // actual wait over forecast wait, averaged
	learned  instant // the last time the provider named a limit
	shadows  shadows
	onTheWay charge  // of requests that were sent and have not ended
	requestX float64 // the provider's estimate of a request over ours, from 429 texts
}

func bandOf(p Priority) int8 {
	switch {
	case p > Normal:
		return 0
	case p < Normal:
		return 2
	}
	return 1
}

func (c *core) newGroup(name string, p profile, now instant) *group {
	g := &group{
		name: name, profile: p, family: p, used: now, bias: 1, requestX: 1, windowCut: -1, rejectedAt: -1,
		clients: map[clientKey]*flow{}, roster: &c.roster,
	}
	if p == auto {
		g.family = reserve
	}
	g.meters.attach()
	for i, p := range []Priority{High, Normal, Low} {
		g.bands[i] = newFlow(nil, p.String(), 1)
		g.bands[i].priority, g.bands[i].band, g.bands[i].group = p, int8(i), g
	}
	return g
}

// configured returns what the Config has for model: the pattern that matches
// first ("" = none), its limits and its profile.
func (c *core) configured(model string) (pattern string, l Limits, p profile) {
	p, _ = profileNamed(c.cfg.Profile)
	for _, m := range c.cfg.Models {
		if matches(m.Pattern, model) {
			if m.Profile != "" {
				p, _ = profileNamed(m.Profile)
			}
			return m.Pattern, m.Limits, p
		}
	}
	return "", Limits{}, p
}

// groupFor finds the group of model. Models that have never answered share one
// nursery per pattern, and its limits: a name costs its inventor nothing, so it
// must not buy a queue or a bucket either.
func (c *core) groupFor(model string, now instant) *group {
	if c.recent != nil && c.recentName == model {
		return c.recent
	}
	return c.findGroup(model, now)
}

func (c *core) findGroup(model string, now instant) *group {
	if g := c.groups[model]; g != nil {
		c.recent, c.recentName = g, model
		return g
	}
	pattern, limits, p := c.configured(model)
	g := c.nurseries[pattern]
	if g == nil {
		g = c.newGroup(pattern, p, now)
		g.nursery = true
		g.meters.configure(now, limits.vector(), c.cfg.Share, g.family.refill())
		g.paceByProfile()
		c.nurseries[pattern] = g
	}
	return g
}

// confirm gives model a group of its own, after its first good answer. The
// group inherits the nursery's levels: a birth must not fill a bucket.
func (c *core) confirm(model string, now instant) *group {
	if g := c.groups[model]; g != nil {
		return g
	}
	parent := c.groupFor(model, now)
	c.forget(now)
	if len(c.groups) >= maxGroups {
		return parent
	}
	g := c.newGroup(model, parent.profile, now)
	g.family, g.meters, g.pausedUntil = parent.family, parent.meters, parent.pausedUntil
	g.gate, g.gate.trying = parent.gate, 0
	g.meters.attach()
	for d := range g.meters {
		if b := &g.meters[d]; b.ring != nil {
			r := *b.ring
			b.ring = &r
		}
	}
	if b := &g.meters[dimConcurrent]; b.on {
		b.level = b.limit
	}
	_, limits, _ := c.configured(model)
	if g.lease = c.shared(model, limits); g.lease != nil {
		g.meters = meters{}
		g.meters.attach()
	}
	g.tag = c.clock
	c.groups[model] = g
	c.recent = nil
	parent.guests = slices.DeleteFunc(parent.guests, func(name string) bool { return name == model })
	c.migrate(parent, now)
	return g
}

// alias books that the provider calls g's limit by name. Two groups that it
// calls the same are one.
func (c *core) alias(g *group, name string, now instant) *group {
	if name == "" || name == g.name || g.nursery || g == c.plain {
		return g
	}
	other := c.groups[name]
	if other == nil {
		if len(c.groups) < maxGroups {
			c.groups[name] = g
			g.aliases = append(g.aliases, name)
		}
		return g
	}
	if other == g {
		return g
	}
	c.recent = nil
	for n, h := range c.groups {
		if h == g {
			c.groups[n] = other
			other.aliases = append(other.aliases, n)
		}
	}
	slices.Sort(other.aliases)
	for d := range other.meters {
		from, to := &g.meters[d], &other.meters[d]
		if from.on && to.on && from.refill == to.refill && from.refill != places {
			from.advance(now)
			to.lower(now, from.level)
		}
	}
	g.into = other
	if g.lease != nil {
		g.lease.Close()
	}
	c.migrate(g, now)
	return other
}

// resolve follows merges and births: the group whose limits hold for a request
// now, which need not be the one that booked it.
func (c *core) resolve(g *group, model string) *group {
	for g.into != nil {
		g = g.into
	}
	if g.nursery {
		if h := c.groups[model]; h != nil {
			return h
		}
	}
	return g
}

// migrate moves every waiter of from whose model has another group now,
// keeping the order of arrival.
func (c *core) migrate(from *group, now instant) {
	var moving []*waiter
	for s := range from.sessions() {
		for w := s.head; w != nil; w = w.next {
			if c.groupFor(w.model, now) != from {
				moving = append(moving, w)
			}
		}
	}
	slices.SortFunc(moving, func(a, b *waiter) int { return cmp.Compare(a.seq, b.seq) })
	for _, w := range moving {
		s := w.session
		key := sessionKey{s.band, s.parent.name, s.name}
		parked := s.parked
		c.unlink(w, now)
		w.session = c.groupFor(w.model, now).session(key, s.parent.weight, s.weight, now)
		c.link(w, now, false)
		if parked > now && w.session.head == w {
			c.park(w.session, parked)
		}
	}
}

// meet notes that a model without a group was asked for, for the Snapshot's sake.
func (g *group) meet(model string) {
	if !g.nursery || slices.Contains(g.guests, model) {
		return
	}
	if len(g.guests) == maxGuests {
		g.guests = slices.Delete(g.guests, 0, 1)
	}
	g.guests = append(g.guests, model)
}

// title names g for people. A nursery goes by the model in it, or by its
// pattern when there are several.
func (g *group) title() string {
	switch {
	case g.nursery && len(g.guests) == 1:
		return g.guests[0]
	case g.nursery && g.name == "":
		return newModels
	case g.nursery || g.name != "":
		return g.name
	}
	return unmetered
}

// forget drops groups that nobody has used for an hour.
func (c *core) forget(now instant) {
	c.recent = nil
	for name, g := range c.groups {
		if g != c.plain && !g.listed && g.inflight == 0 && now.sub(g.used) > groupIdle {
			delete(c.groups, name)
			if g.lease != nil && name == g.name {
				g.lease.Close()
			}
		}
	}
}

// head is the waiter of g that goes next. A higher band goes first, unless a
// lower one is owed its floor.
func (g *group) head() (*waiter, int) {
	var top *waiter
	band := -1
	for i, b := range g.bands {
		w := b.first()
		if w == nil {
			g.owed[i] = 0
			continue
		}
		if top == nil || g.owed[i] >= float64(w.cost) {
			top, band = w, i
		}
	}
	return top, band
}

// owe books that band was served cost, and what the bands below are owed for it.
func (g *group) owe(band int, cost float64) {
	served := false
	for i := range g.bands {
		if i == band {
			g.owed[i] = max(0, g.owed[i]-cost)
			served = true
		} else if served && g.bands[i].queued > 0 {
			g.owed[i] += bandFloor * cost
		}
	}
}

// blocked is when g may send at all: not during a pause, not beyond the gate
// after one, and not beyond the window that stands in for an unknown limit.
func (g *group) blocked(now instant) instant {
	if now < g.pausedUntil {
		return g.pausedUntil
	}
	if g.gate.limit > 0 {
		if at := g.gate.opens(g.queued(), now); at > now {
			return at
		}
	}
	if g.window > 0 && float64(g.inflight) >= max(1, g.window) {
		return never
	}
	return now
}

// queued is how many wait in g.
func (g *group) queued() int { return g.bands[0].queued + g.bands[1].queued + g.bands[2].queued }

// paceByProfile applies what a profile knows about bursts.
func (g *group) paceByProfile() {
	if g.family == azure {
		g.meters[dimRequests].pace()
	}
}

// admit is the charge of d in g.
func (g *group) admit(d Demand) charge {
	if g.name == "" && !g.nursery {
		return charge{}
	}
	c := g.family.admit(d)
	if g.requestX != 1 && (g.family == openai || g.family == azure) {
		c.tokens = int64(float64(c.tokens) * g.requestX)
	}
	return c
}
