package limit

import (
	"math"
	"time"
)

const (
	pauseMax     = time.Minute // of what a 429 may ask for, unless it is a day's limit
	backoffMax   = 30 * time.Second
	staleAfter   = 30 * time.Second // a remaining-header of an older request says too little
	raiseGain    = 0.2              // of the way up that one header moves the level; down it moves at once
	foreignTau   = 20.0             // seconds over which foreign use is averaged
	surprisesMax = 3
	day          = 24 * time.Hour
)

// sent marks the moment before gr's bytes leave, and remembers the ledger: the
// answer's headers speak of then.
func (c *core) sent(gr *grant, now instant) {
	g := c.resolve(gr.group, gr.model)
	if !gr.sent {
		g.shadows.book(gr.demand, 1)
		gr.way = g
		g.onTheWay.add(gr.charge, 1)
	}
	gr.sent, gr.sentAt, gr.family = true, now, g.family
	gr.count = g.gate.sends(now)
	for d := range gr.spent {
		gr.spent[d] = g.meters[d].spent
		gr.late[d] = g.meters[d].late(now, gr.charge.amount(dimension(d), 1))
		if g.family == postpaid {
			// The provider books at the end: its remaining has what is on the way still
			// in it, and to take that for free would admit the same again.
			gr.spent[d] -= g.onTheWay.amount(dimension(d), 0)
			gr.late[d] = 0
		}
	}
	gr.shadow = g.shadows.spent
}

// started books a good answer: the model exists, the provider is not overrun.
func (c *core) started(gr *grant, now instant) {
	if gr.started {
		return
	}
	gr.started = true
	g := c.resolve(gr.group, gr.model)
	if g.nursery && gr.model != "" {
		g = c.confirm(gr.model, now)
		if gr.pending != nil {
			c.heed(g, gr, gr.pending, now)
			gr.pending = nil
		}
	}
	g.rejects, g.gate.row = 0, 0
	if gr.probe {
		c.taken(gr, now)
	}
	if g.window > 0 && gr.sentAt > g.windowCut {
		// As TCP opens its window after a loss: double per round trip up to half
		// of what was too much, then one place per round trip.
		if g.window < g.threshold {
			g.window++
		} else {
			g.window += 1 / g.window
		}
		if now.sub(g.windowCut) > windowForget {
			g.window = 0
		}
	}
}

// observe takes in the headers of an answer. Those of a model that has not yet
// answered well are kept until it has.
func (c *core) observe(gr *grant, s *Signal, now instant) {
	gr.heard = true
	g := c.resolve(gr.group, gr.model)
	if g == c.plain || !c.cfg.Learn {
		return
	}
	if g.nursery {
		kept := *s
		gr.pending = &kept
		return
	}
	c.heed(g, gr, s, now)
}

func (c *core) heed(g *group, gr *grant, s *Signal, now instant) {
	c.hint(g, s.Profile, now)
	if g.lease != nil {
		gr.tell(s, false, now)
		return
	}
	c.level(g, dimRequests, &s.Requests, gr, now)
	c.level(g, dimTokens, &s.Tokens, gr, now)
	c.level(g, dimInput, &s.Input, gr, now)
	c.level(g, dimOutput, &s.Output, gr, now)
	c.dayLevel(g, dimRequestsDay, &s.RequestsDay, now)
	c.dayLevel(g, dimTokensDay, &s.TokensDay, now)
}

// hint follows a dialect of headers that only one provider speaks. The OpenAI
// dialect is spoken by many that charge differently; there the shadow ledgers
// decide.
func (c *core) hint(g *group, name string, now instant) {
	p, ok := profileNamed(name)
	if !ok || g.profile != auto || p != azure && p != anthropic {
		return
	}
	c.become(g, p, now)
}

// become changes how g is charged, from the next request on.
func (c *core) become(g *group, p profile, now instant) {
	if g.family == p {
		return
	}
	kind := p.refill() != g.family.refill()
	g.family = p
	if kind && g.lease == nil {
		_, limits, _ := c.configured(g.name)
		g.meters.configure(now, limits.vector(), c.cfg.Share, p.refill())
		g.paceByProfile()
	}
	c.recharge(g)
}

// recharge weighs those who wait in g anew.
func (c *core) recharge(g *group) {
	for s := range g.sessions() {
		for w := s.head; w != nil; w = w.next {
			before := w.charge
			w.charge = g.admit(w.demand.unpack())
			w.cost = float32(c.cost(g, w.charge))
			change := w.charge
			change.add(before, -1)
			c.sum.add(change, 1)
			for f := s; f != nil; f = f.parent {
				f.sum.add(change, 1)
			}
		}
	}
}

// learn takes the provider's word for a limit. A configured limit stays a cap.
func (c *core) learn(g *group, d dimension, limit float64, kind refill, period time.Duration, now instant) {
	b := &g.meters[d]
	limit *= c.cfg.Share
	_, l, _ := c.configured(g.name)
	configured := float64(l.vector()[d]) * c.cfg.Share
	g.learned = now
	b.mirrors = configured == 0 || configured >= limit
	if !b.mirrors {
		return
	}
	if b.paced {
		kind = b.refill
	}
	b.configure(now, limit, kind, period)
	b.learned = configured != limit
	if d == dimRequests && c.provisional {
		c.provisional, c.lifted = false, true
		c.global[dimRequests].configure(now, 0, continuous, time.Minute)
	}
}

// unlearn drops limits that the provider has long not confirmed.
func (c *core) unlearn(g *group, now instant) {
	g.learned = 0
	for d := range g.meters {
		g.meters[d].learned = false
	}
	_, limits, _ := c.configured(g.name)
	g.meters.configure(now, limits.vector(), c.cfg.Share, g.family.refill())
}

// level applies one header of a limit per minute. What cannot be meant is
// ignored: −1 and 0 placeholders, remaining above the limit.
func (c *core) level(g *group, d dimension, v *Level, gr *grant, now instant) {
	if v.HasLimit && v.Limit <= 0 || v.HasRemaining && v.Remaining < 0 {
		return
	}
	if v.HasRemaining && v.Remaining == 0 && (!v.HasLimit || v.HasReset && v.Reset <= 0) {
		return
	}
	b := &g.meters[d]
	fresh := !b.on
	if v.HasLimit {
		if d == dimRequests && b.perDay(v) {
			// Some tiers name their requests per day by the header of the minute: a
			// reset of 8.64 s after one request of 10,000 is a day for all of them.
			if b.learned {
				b.configure(now, 0, continuous, time.Minute)
			}
			d, b = dimRequestsDay, &g.meters[dimRequestsDay]
			c.learn(g, d, float64(v.Limit), continuous, day, now)
			b.level = min(b.level, float64(v.Remaining))
			return
		}
		c.learn(g, d, float64(v.Limit), g.family.refill(), time.Minute, now)
	}
	if !b.on || !v.HasRemaining || !gr.sent || float64(v.Remaining) > 1.05*max(b.limit/c.cfg.Share, float64(v.Limit)) {
		return
	}
	if d == dimTokens && g.profile == auto && g.family != azure {
		if p, ok := g.shadows.judge(gr, float64(v.Remaining), b, g.family); ok {
			c.become(g, p, now)
		}
	}
	b.sync(now, sample{sent: gr.sentAt, remaining: float64(v.Remaining), spent: gr.spent[d], late: gr.late[d], family: gr.family, ok: true}, fresh, c.cfg.Share == 1)
}

// perDay weighs whether v, named per minute, is a limit per day: three answers
// in a row whose level would take a day to fill.
func (b *bucket) perDay(v *Level) bool {
	if !v.HasReset || !v.HasRemaining || v.Remaining >= v.Limit {
		return false
	}
	period := v.Reset.Seconds() * float64(v.Limit) / float64(v.Limit-v.Remaining)
	if period < 0.8*day.Seconds() || period > 1.25*day.Seconds() {
		b.dayHints = 0
		return false
	}
	b.dayHints++
	return b.dayHints >= 3
}

// dayLevel applies a header of a limit per day.
func (c *core) dayLevel(g *group, d dimension, v *Level, now instant) {
	if !v.HasLimit || v.Limit <= 0 || v.HasRemaining && (v.Remaining < 0 || v.Remaining > v.Limit) {
		return
	}
	c.learn(g, d, float64(v.Limit), daily, day, now)
	b := &g.meters[d]
	if v.HasRemaining {
		b.lower(now, float64(v.Remaining))
	}
	if v.HasReset && v.Reset > 0 && v.Reset <= day {
		b.reset = now.add(v.Reset)
	}
}

// sync compares the level with a header. The header speaks of when its request
// was sent; what we charged since then is ours to subtract. Without that term
// requests in flight would look like free capacity, and the loop would
// oscillate.
func (b *bucket) sync(now instant, s sample, fresh, whole bool) {
	age := now.sub(s.sent)
	if age > staleAfter || b.seen.ok && s.sent <= b.seen.sent {
		return
	}
	b.advance(now)
	b.seen = s
	hat := min(b.limit, s.remaining+b.effective()*age.Seconds()) - (b.spent - s.spent)
	switch {
	case hat < b.level:
		b.lower(now, hat)
	case b.refill != continuous || b.paced || !b.mirrors || !whole:
		// Ours is the stricter view: windows that we cannot see the phase of, caps
		// below the provider's limit, and levels that other sidecars share.
	case fresh:
		b.level = min(hat-s.late, b.capacity())
	default:
		if hat -= s.late; hat > b.level {
			b.level = min(b.level+raiseGain*(hat-b.level), b.capacity())
		}
	}
	b.passes = 0
	if whole && b.mirrors && b.refill == continuous && !b.paced {
		b.measure(s)
	}
}

// measure estimates the use by others of the same key from two headers, in the
// order their requests were sent: what went, less what we know of.
func (b *bucket) measure(s sample) {
	a := b.anchor
	if !a.ok || a.family != s.family || a.remaining >= 0.9*b.limit || s.remaining >= 0.9*b.limit {
		// A bucket that is nearly full spills, and shows no use; and two ways of
		// charging keep two ledgers.
		b.anchor = s
		return
	}
	dt := s.sent.sub(a.sent).Seconds()
	if dt < max(1, 5/b.rate) { // headers count whole requests: too soon is all noise
		return
	}
	use := (a.remaining + b.rate*dt - (s.spent - a.spent) - s.remaining) / dt
	alpha := 1 - math.Exp(-dt/foreignTau)
	b.foreign = min(max(0, b.foreign+alpha*(use-b.foreign)), b.rate)
	b.anchor = s
}

// cut is the multiplicative decrease after a 429 of a request sent at sentAt,
// once per epoch as TCP's is: the 429s of everything that was on the way
// already tell nothing new. It regains with time (see advance).
func (b *bucket) cut(now, sentAt instant) {
	if sentAt <= b.lastCut {
		return
	}
	by := 0.98
	if b.lastCut > 0 && now.sub(b.lastCut) < time.Minute {
		by = 0.9
	}
	b.factor = max(factorMin, b.factor*by)
	b.guard = min(guardMax.Seconds(), 1.5*b.guard)
	b.lastCut = now
}

// throttled takes in a curable 429. The charge stays booked: freeing it would
// hand the next in line what the provider has just said is not there. It returns
// what unavailable does.
func (c *core) throttled(gr *grant, s *Signal, now instant) (notBefore instant, probe bool) {
	c.stats.throttled++
	g := c.resolve(gr.group, gr.model)
	if gr.sent {
		g.shadows.book(gr.demand, -1)
	}
	g = c.alias(g, s.Group, now)
	if gr.sentAt > g.rejectedAt { // else it was on the way already
		g.rejects++
		g.rejectedAt = now
	}
	d, known := dimensionOf(s.Dimension)
	if !known {
		d = -1
	}
	if c.cfg.Learn && !g.nursery && g != c.plain {
		c.hint(g, s.Profile, now)
		if known && s.Limit > 0 && g.lease == nil {
			kind, period := g.family.refill(), time.Minute
			if d == dimRequestsDay || d == dimTokensDay {
				kind, period = daily, day
			}
			c.learn(g, d, float64(s.Limit), kind, period, now)
		}
	}
	if known && (d == dimRequestsDay || d == dimTokensDay) && c.dayOver(g, d, s, now) {
		return now, gr.probe
	}
	b := g.bucketFor(d, &c.global)
	pause := c.pauseOf(g, b, d, s, gr, now)
	if g.lease != nil {
		gr.tell(s, true, now)
	} else if b != nil {
		b.refusedBy(s, gr, d, pause, now)
	} else if gr.sentAt > g.windowCut {
		g.windowCut = now
		g.threshold = max(1, float64(g.inflight)/2)
		g.window = 1
	}
	if s.Requested > 0 && d == dimTokens && gr.charge.tokens > 0 {
		x := float64(s.Requested) / float64(gr.charge.tokens)
		g.requestX = min(max(g.requestX*(1+0.2*(x-1)), 0.25), 4)
	}
	g.pausedUntil = max(g.pausedUntil, now.add(c.spread(pause)))
	probe = gr.probe
	shut := c.refusal(g, gr, now)
	g.gate.pauses(g.pausedUntil)
	if !shut {
		return now, probe
	}
	return g.pausedUntil.add(aside), probe
}

// bucketFor is the bucket that a 429 in dimension d is about: the group's, or
// the cap that was configured in its place; nil when no limit is known.
func (g *group) bucketFor(d dimension, global *meters) *bucket {
	candidates := []dimension{d}
	if d < 0 {
		candidates = []dimension{dimRequests, dimTokens}
	}
	for _, d := range candidates {
		if b := &g.meters[d]; b.on {
			return b
		}
		if b := &global[d]; b.on {
			return b
		}
	}
	return nil
}

// dayOver books that a day's limit is used up.
func (c *core) dayOver(g *group, d dimension, s *Signal, now instant) bool {
	b := g.bucketFor(d, &c.global)
	if b == nil {
		return false
	}
	b.lower(now, 0)
	if b.refill == daily && s.HasRetryAfter && s.RetryAfter > 0 {
		b.reset = now.add(min(s.RetryAfter, day))
	}
	return true
}

// pauseOf reads how long the provider wants to be left alone, from the best
// source that it gave.
func (c *core) pauseOf(g *group, b *bucket, d dimension, s *Signal, gr *grant, now instant) time.Duration {
	if s.HasRetryAfter && s.RetryAfter >= 0 && s.RetryAfter < 12*time.Hour {
		return min(s.RetryAfter, pauseMax)
	}
	if s.Limit > 0 && s.Used > 0 && s.Requested > 0 {
		// The provider's own sum: (Used + Requested − Limit) / (Limit / 60 s).
		missing := float64(s.Used+s.Requested-s.Limit) / (float64(s.Limit) / 60)
		return min(max(0, seconds(missing)), pauseMax)
	}
	if v := s.of(d); v != nil && v.HasReset && v.Reset > 0 && v.Reset <= pauseMax {
		return v.Reset
	}
	backoff := min(time.Second<<min(max(g.rejects-1, 0), 5), backoffMax)
	if b != nil && d >= 0 && b.refill != places {
		if at := b.ready(now, gr.charge.amount(d, 1)); at != never {
			backoff = max(min(backoff, 2*time.Second), min(at.sub(now), backoffMax))
		}
	}
	return backoff
}

func (s *Signal) of(d dimension) *Level {
	switch d {
	case dimRequests:
		return &s.Requests
	case dimTokens:
		return &s.Tokens
	case dimInput:
		return &s.Input
	case dimOutput:
		return &s.Output
	}
	return nil
}

// refusedBy corrects b after a 429: its level so that the next request fits
// when the pause is over, its caution by one step.
func (b *bucket) refusedBy(s *Signal, gr *grant, d dimension, pause time.Duration, now instant) {
	b.advance(now)
	amount := gr.charge.amount(max(d, 0), 1)
	exhausted := s.Limit > 0 && float64(s.Used+s.Requested) >= 0.9*float64(s.Limit)
	plenty := max(coldRequests, 0.1*b.limit)
	told := s.Requests.HasRemaining && float64(s.Requests.Remaining) > plenty
	if d == dimRequests && (told || !exhausted && b.level > plenty) {
		// Refused with plenty left in the minute: it is judged by the second. Twice
		// is proof enough when the refusal's own headers say so, whatever its text,
		// which may tell a full second in numbers of the minute.
		if told {
			b.surprises++
		}
		if b.surprises++; b.surprises >= surprisesMax {
			b.pace()
			b.lastCut = now // the 429s still on their way have the same cause
			return
		}
	}
	if s.Limit > 0 && s.Used > 0 && d >= 0 && !(d == dimRequests && told) {
		b.lower(now, float64(s.Limit-s.Used)-(b.spent-gr.spentIn(d)))
	} else {
		b.lower(now, b.need(amount)-b.effective()*pause.Seconds())
	}
	b.cut(now, gr.sentAt)
}

// spentIn is the ledger of d when gr was sent.
func (gr *grant) spentIn(d dimension) float64 {
	if int(d) < len(gr.spent) {
		return gr.spent[d]
	}
	return math.Inf(1)
}
