package limit

import (
	"math"
	"time"
)

// A core is the limiter without clock, lock or channel: a state machine of
// (state, event, now) → decisions. Every method is an event. After events that
// may open a place the caller calls pump until it returns false, takes the
// decided waiters from done, and comes back at next.
type core struct {
	cfg    Config
	global meters
	caps   budget // over all groups: the global meters

	groups      map[string]*group // by model, aliases included
	nurseries   map[string]*group // by pattern, "" for models that none matches
	plain       *group            // requests without a model
	active      []*group          // those with waiters: few, so scanned
	clock       float64           // virtual time among groups
	provisional bool              // the global request limit is a mere default

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
	draining  bool
	rejecting bool // refuse waiters instead of serving them
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
	seq     uint64
	taken   instant
	sentAt  instant
	sent    bool
	started bool
	open    bool
	spent   [dimOutput + 1]float64 // the group's ledger when it was sent
	late    [dimOutput + 1]float64 // what was charged shortly before that
	shadow  [numShadows]float64
	way     *group  // whose sum of what is on the way has the charge
	pending *Signal // headers seen before the model had a group
}

func newCore(cfg Config, now instant) *core {
	c := &core{groups: map[string]*group{}, nurseries: map[string]*group{}, dice: 0x9e3779b97f4a7c15}
	c.caps = &c.global
	c.plain = newGroup("", postpaid, now)
	c.groups[""] = c.plain
	c.reconfigure(cfg, now)
	return c
}

// reconfigure applies cfg: levels are scaled, waiters stay.
func (c *core) reconfigure(cfg Config, now instant) {
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

// arrive decides about a newcomer: granted at once, queued, or refused.
func (c *core) arrive(w *waiter, r *Request, maxWait time.Duration, now instant) *Rejected {
	if c.draining {
		return c.refuse(Draining, time.Second, "", 0, 0)
	}
	g := c.groupFor(r.Model, now)
	g.used = now
	if g.learned > 0 && now.sub(g.learned) > learnedIdle {
		c.unlearn(g, now)
	}
	key := sessionKey{bandOf(r.Priority), r.Client, r.Session}
	s := g.session(key, clampWeight(r.ClientWeight), clampWeight(r.Weight), now)
	c.seq++
	w.group, w.session, w.model, w.bytes = g, s, r.Model, r.Bytes
	w.state, w.seq, w.queuedAt = waiting, c.seq, now
	w.demand = pack(r.Demand)
	w.charge = g.admit(r.Demand)
	w.cost = c.cost(g, w.charge)
	if c.waiting == 0 && len(c.parked) == 0 && g.blocked(now) <= now {
		if at, _ := g.budget.ready(now, w.charge); at <= now {
			if at, _ := c.caps.ready(now, w.charge); at <= now {
				s.serveIdle(w.cost)
				s.parent.serveIdle(w.cost)
				c.book(w, now)
				return nil
			}
		}
	}
	raw, limit, isDaily := c.fluid(g, s, w, now)
	wait := scale(raw, g.bias)
	if min(raw, wait) > maxWait {
		g.listIdle(s, now)
		if isDaily {
			return c.refuse(DailyLimit, raw, limit, s.queued, raw)
		}
		return c.refuse(DeadlineUnreachable, wait-maxWait, limit, s.queued, wait)
	}
	if !c.makeRoom(w, now) {
		g.listIdle(s, now)
		return c.refuse(QueueFull, wait, limit, s.queued, wait)
	}
	w.deadline = now.add(maxWait)
	w.fluid, w.forecast = float32(raw.Seconds()), float32(wait.Seconds())
	ghost, back := ghost{}, false
	if r.RetryCount > 0 {
		ghost, back = c.ghosts.claim(r.RetryKey, r.Session, now)
	}
	if back {
		w.seq = ghost.seq
		if s.queued == 0 {
			s.parent.tag = min(s.parent.tag, ghost.clientTag)
			s.tag = min(s.tag, ghost.tag)
		}
	}
	c.link(w, now, back)
	c.alarms.set(w)
	return nil
}

// link puts w into its session's queue. With old, the session competes with the
// tag it has, even below its client's clock: it had this turn before.
func (c *core) link(w *waiter, now instant, old bool) {
	g, s := w.group, w.session
	g.unlistIdle(s)
	s.insert(w)
	c.waiting++
	c.bytes += w.bytes
	c.sum.add(w.charge, 1)
	if s.index < 0 && s.parked == 0 {
		if old {
			if s.parent.index < 0 && len(s.parent.ready) == 0 {
				s.parent.push()
			}
			s.push()
		} else {
			s.activate()
		}
	}
	if !g.listed {
		g.listed = true
		g.tag = max(g.tag, c.clock)
		c.active = append(c.active, g)
	}
}

// unlink is the reverse of link.
func (c *core) unlink(w *waiter, now instant) {
	g, s := w.group, w.session
	s.remove(w)
	c.waiting--
	c.bytes -= w.bytes
	c.sum.add(w.charge, -1)
	if s.queued == 0 {
		if s.index >= 0 {
			s.pop()
		}
		c.unpark(s)
		g.listIdle(s, now)
	}
	if g.bands[0].queued+g.bands[1].queued+g.bands[2].queued == 0 {
		g.listed = false
		for i, a := range c.active {
			if a == g {
				last := len(c.active) - 1
				c.active[i], c.active[last] = c.active[last], nil
				c.active = c.active[:last]
				break
			}
		}
	}
}

// cancel takes out a waiter whose caller has left. It returns false when the
// waiter was decided before; a place that it was given must then be released.
func (c *core) cancel(w *waiter, key uint64, now instant) bool {
	if w.state != waiting {
		return false
	}
	s := w.session
	if key != 0 {
		c.ghosts.add(key, ghost{
			session: s.name, seq: w.seq, tag: s.tag, clientTag: s.parent.tag, until: now.add(ghostLife),
		})
	}
	c.alarms.clear(w)
	c.unlink(w, now)
	c.stats.abandoned++
	return true
}

// reject refuses a waiter that is in the queue.
func (c *core) reject(w *waiter, why Reason, now instant) {
	c.alarms.clear(w)
	c.unlink(w, now)
	w.state, w.reason = refused, why
	c.done = append(c.done, w)
}

// pump grants and refuses what is due, at most limit decisions, and reports
// whether there may be more: a lock must not be held for a million grants.
func (c *core) pump(now instant, limit int) bool {
	for n := 0; ; n++ {
		if n >= limit {
			return true
		}
		if w := c.alarms.due(now); w != nil {
			c.reject(w, QueueTimeout, now)
			continue
		}
		if c.rejecting && c.waiting > 0 {
			c.reject(c.last(), Draining, now)
			continue
		}
		w, band, at := c.pick(now)
		if w == nil {
			c.wakeAt = at
			return false
		}
		if at > now { // its day is used up
			c.reject(w, DailyLimit, now)
			continue
		}
		c.dispatch(w, band, now)
	}
}

// next is when pump must be called although nothing happened.
func (c *core) next() instant { return min(c.wakeAt, c.alarms.next()) }

// pick chooses the next waiter: of every group the head, if the group's own
// limits let it go; of those the group that had least of the global caps. The
// choice is strict: when the caps do not let it go, nobody overtakes it. For
// limits that refill this wastes nothing, and it is what keeps large requests
// from starving.
func (c *core) pick(now instant) (best *waiter, bestBand int, at instant) {
	at = c.wakeParked(now)
	for _, g := range c.active {
		if t := g.blocked(now); t > now {
			at = min(at, t)
			continue
		}
		w, band := g.head()
		if w == nil {
			continue
		}
		if t, d := g.budget.ready(now, w.charge); t > now {
			if (d == dimRequestsDay || d == dimTokensDay) && t > w.deadline {
				return w, band, t
			}
			at = min(at, t)
			continue
		}
		if best == nil || g.tag < best.group.tag {
			best, bestBand = w, band
		}
	}
	if best == nil {
		return nil, 0, at
	}
	if t, d := c.caps.ready(now, best.charge); t > now {
		if (d == dimRequestsDay || d == dimTokensDay) && t > best.deadline {
			return best, bestBand, t
		}
		return nil, 0, min(at, t)
	}
	return best, bestBand, now
}

// dispatch grants w, the head of its group.
func (c *core) dispatch(w *waiter, band int, now instant) {
	g, s := w.group, w.session
	s.serve(w.cost)
	s.parent.serve(w.cost)
	g.owe(band, w.cost)
	g.measure(w, now, &c.stats.forecastError)
	c.alarms.clear(w)
	c.unlink(w, now)
	c.book(w, now)
	c.done = append(c.done, w)
}

// book charges w's request to its group and the caps.
func (c *core) book(w *waiter, now instant) {
	g := w.group
	c.clock = max(c.clock, g.tag)
	g.tag = max(g.tag, c.clock) + w.cost
	g.budget.take(now, w.charge)
	c.caps.take(now, w.charge)
	g.inflight++
	g.used = now
	c.inflight++
	c.stats.granted++
	w.state = granted
}

// open fills gr from the granted w.
func (w *waiter) open(gr *grant, d Demand, now instant) {
	*gr = grant{
		group: w.group, session: w.session, model: w.model, demand: d, charge: w.charge, cost: w.cost,
		seq: w.seq, taken: now, open: true,
	}
}

// close ends the place of gr in the counts, whatever became of the charge.
func (c *core) close(gr *grant, now instant) {
	gr.open = false
	if gr.way != nil {
		gr.way.onTheWay.add(gr.charge, -1)
		gr.way = nil
	}
	gr.group.inflight--
	gr.group.budget.leave()
	c.caps.leave()
	c.inflight--
	s := gr.session
	s.inflight--
	s.parent.inflight--
	gr.group.listIdle(s, now)
}

// correct moves the tags of gr's session and client by refund, in cost.
func (gr *grant) correct(refund float64) {
	gr.session.correct(refund)
	gr.session.parent.correct(refund)
	gr.group.tag -= refund
}

// release ends gr without usage: what was never sent is refunded whole, what
// was sent keeps its charge, for the provider may have booked it.
func (c *core) release(gr *grant, now instant) {
	if !gr.sent {
		c.resolve(gr.group, gr.model).budget.refund(now, gr.charge, 1, gr.taken)
		c.caps.refund(now, gr.charge, 1, gr.taken)
		gr.correct(gr.cost)
	}
	c.close(gr, now)
}

// settle ends gr with its exact usage. The buckets move as the provider's do,
// the session's tag always: what it used is what it had.
func (c *core) settle(gr *grant, u Usage, now instant) {
	g := gr.group
	final := g.family.settle(gr.charge, u)
	back := gr.charge
	back.add(final, -1)
	if back != (charge{}) {
		// A group born meanwhile has inherited the charge, so it gets the refund.
		c.resolve(g, gr.model).budget.refund(now, back, 0, gr.taken)
		c.caps.refund(now, back, 0, gr.taken)
	}
	if est := c.cost(g, gr.charge); est > 0 {
		gr.correct(gr.cost * (1 - c.cost(g, exact(u))/est))
	}
	c.started(gr, now)
	live := c.resolve(g, gr.model)
	if gr.sent {
		live.shadows.settle(gr.demand, u)
		live.service.observe(now.sub(gr.sentAt).Seconds())
	}
	c.close(gr, now)
}

// cost is the dominant share of a charge (Ghodsi et al., Dominant Resource Fair
// Queueing, SIGCOMM 2012), in seconds of the limit that it loads most. Where
// nothing limits, a thousand tokens are one.
func (c *core) cost(g *group, ch charge) float64 {
	if s := max(g.budget.share(ch), c.caps.share(ch)); s > 0 {
		return s
	}
	return max(1, float64(ch.tokens)) / 1000
}

func clampWeight(w float64) float64 {
	if w == 0 || math.IsNaN(w) {
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

// patience is how long r may wait, all attempts together.
func (c *core) patience(r *Request, now instant) time.Duration {
	wait := c.cfg.MaxWait
	if r.MaxWait > 0 {
		wait = r.MaxWait
	}
	if r.Timeout > 0 {
		// The client's clock runs on while the answer is made. A tenth is left
		// whatever was learned: or slow answers would forbid every try to be faster.
		usual := secondsDuration(c.groupFor(r.Model, now).service.value)
		wait = min(wait, max(r.Timeout-usual, r.Timeout/10))
	}
	return wait
}

// takeBack refunds what gr was charged, wholly: it was not processed.
func (c *core) takeBack(gr *grant, now instant) {
	c.resolve(gr.group, gr.model).budget.refund(now, gr.charge, 1, gr.taken)
	c.caps.refund(now, gr.charge, 1, gr.taken)
	if gr.sent {
		c.resolve(gr.group, gr.model).shadows.book(gr.demand, -1)
	}
}

// exhausted ends gr when it has been granted as often as it may be.
func (c *core) exhausted(gr *grant, attempts int, now instant) *Rejected {
	if attempts < c.cfg.MaxAttempts {
		return nil
	}
	c.close(gr, now)
	return c.refuse(AttemptsExhausted, c.resolve(gr.group, gr.model).pausedUntil.sub(now), "", 0, 0)
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
