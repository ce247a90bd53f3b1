package limit

import "math"

// A core is the limiter without clock, lock or channel: a state machine of
// (state, event, now) → decisions. Every method is an event. After events that
// may open a place the caller calls pump until it returns false, takes the
// decided waiters from done, and comes back at next.
type core struct {
	cfg    Config
	global meters // caps over all groups
	wake   func() // what a Budget calls when it has more; set by the shell

	groups      map[string]*group // by model, aliases included
	recent      *group            // the entry of groups that was asked for last, and its key
	recentName  string
	nurseries   map[string]*group // by pattern, "" for models that none matches
	plain       *group            // requests without a model
	active      []*group          // those with waiters: few, so scanned
	roster      roster
	clock       float64 // virtual time among groups
	provisional bool    // the global request limit is a mere default
	lifted      bool    // it was one, until the upstream's headers said better

	waiting   int
	bytes     int64
	sum       charge
	inflight  int
	seq       uint64
	alarms    wheel
	parked    []*flow // sessions whose head must not go yet
	ghosts    ghosts
	done      []*waiter // decided since the caller last looked
	wakeAt    instant
	rejecting bool // refuse waiters and newcomers instead of serving them
	dice      uint64

	stats struct {
		granted, throttled, abandoned uint64
		refused                       [DailyLimit + 1]uint64
		forecastError                 float64
	}
}

// A grant is what the core must know of a granted request until it ends.
type grant struct {
	group   *group // whose meters hold the charge
	session *flow
	model   string
	demand  Demand
	charge  charge
	cost    float64
	rates   uint64 // as they were when cost was worked out; 0 = unknown
	seq     uint64
	taken   instant
	sentAt  instant
	sent    bool
	started bool
	heard   bool                   // an answer's headers have come
	probe   bool                   // let through by a gate that is shut
	count   uint32                 // of the gate, that it was sent in
	family  profile                // by which it was charged when it was sent
	spent   [dimOutput + 1]float64 // the group's ledger when it was sent
	late    [dimOutput + 1]float64 // what was charged shortly before that
	shadow  [numShadows]float64
	lease   *lease  // that holds the charge; nil = the group's meters
	way     *group  // whose sum of what is on the way has the charge
	pending *Signal // headers seen before the model had a group
}

func newCore(cfg Config, now instant) *core {
	c := &core{groups: map[string]*group{}, nurseries: map[string]*group{}, dice: 0x9e3779b97f4a7c15}
	c.global.attach()
	c.plain = c.newGroup("", postpaid, now)
	c.groups[""] = c.plain
	c.reconfigure(cfg, now)
	return c
}

// reconfigure applies cfg: levels are scaled, waiters stay.
func (c *core) reconfigure(cfg Config, now instant) {
	if cfg.Provisional && c.lifted {
		cfg.Global.RequestsPerMinute, cfg.Provisional = 0, false
	}
	c.cfg = cfg
	c.provisional = cfg.Provisional
	kind := continuous
	if p, _ := profileNamed(cfg.Profile); p == azure {
		kind = sliding
	}
	c.global.configure(now, cfg.Global.vector(), cfg.Share, kind)
	if kind == sliding {
		c.global[dimRequests].pace()
	}
	c.global[dimConcurrent].level = c.global[dimConcurrent].limit - float64(c.inflight)
	seen := map[*group]bool{c.plain: true}
	apply := func(g *group, limits Limits, p profile) {
		if seen[g] {
			return
		}
		seen[g] = true
		if p != g.profile {
			g.profile, g.family = p, p
			if p == auto {
				g.family = reserve
			}
		}
		if g.lease != nil && c.relet(g, limits) {
			return
		}
		g.meters.configure(now, limits.vector(), cfg.Share, g.family.refill())
		g.meters[dimConcurrent].level = g.meters[dimConcurrent].limit - float64(g.inflight)
		g.paceByProfile()
	}
	for _, g := range c.groups {
		_, limits, p := c.configured(g.name)
		apply(g, limits, p)
	}
	for pattern, g := range c.nurseries {
		_, limits, p := c.configured(pattern)
		apply(g, limits, p)
		c.migrate(g, now) // the patterns may have changed
	}
}

// rates changes whenever cost would give another figure; 0 = it always may.
func (c *core) rates(g *group) uint64 {
	if g.lease != nil {
		return 0
	}
	return g.meters[0].of.version + c.global[0].of.version
}

// cost is the dominant share of a charge (Ghodsi et al., Dominant Resource Fair
// Queueing, SIGCOMM 2012), in seconds of the limit that it loads most. Where
// nothing limits, a thousand tokens are one.
func (c *core) cost(g *group, ch charge) float64 {
	return dominant(ch, g.share(ch), c.global.share(ch))
}

func dominant(ch charge, own, all float64) float64 {
	if all > own {
		own = all
	}
	if own > 0 {
		return own
	}
	return max(1, float64(ch.tokens)) / 1000
}

func clampWeight(w float64) float64 {
	if w == 0 || w == 1 {
		return 1
	}
	return clamped(w)
}

func clamped(w float64) float64 {
	if math.IsNaN(w) {
		return 1
	}
	return min(max(w, 0.1), 100)
}

// roll is a small deterministic generator (splitmix64): the core must replay.
func (c *core) roll() float64 {
	c.dice += 0x9e3779b97f4a7c15
	z := c.dice
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}

// prime lowers levels to what an earlier process left.
func (c *core) prime(r Recent, now instant) {
	used := charge{tokens: r.Input + r.Output, input: r.Input, output: r.Output}
	of := []*meters{&c.global}
	if r.Model != "" {
		of = append(of, &c.confirm(r.Model, now).meters)
	}
	for _, m := range of {
		for d := range m {
			b, amount := &m[d], used.amount(dimension(d), r.Requests)
			switch dimension(d) {
			case dimRequestsDay:
				amount = float64(r.RequestsDay)
			case dimTokensDay:
				amount = float64(r.TokensDay)
			case dimConcurrent:
				continue
			}
			if b.on && amount > 0 {
				b.prime(now, amount)
			}
		}
	}
}
