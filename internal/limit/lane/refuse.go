package lane

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	pauseMax   = time.Minute // of what a 429 may ask for, unless it is a day's limit
	backoffMax = 30 * time.Second

	hourBackoffMax = 5 * time.Minute // of a limit per hour that does not say when it is over
)

// Throttled takes in a 429 that waiting can cure. The charge stays booked: freeing
// it would hand the next in line what the provider has just said is not there. Where
// this lane does not know the limit that the 429 is about, it takes what caps has in
// that place for its own, for it can be no higher. Caps, the lane of caps over all
// models, stays as it is: what one model is refused must not stop another. It returns
// when the request may go again.
func (t *Ticket) Throttled(now llm.Instant, s *llm.Signal, caps *Lane) (notBefore llm.Instant) {
	l := t.Lane()
	if t.sent {
		l.shadows.book(t.load, -1)
	}
	if t.sentAt > l.rejectedAt { // else it was on the way already
		l.rejects++
		l.rejectedAt = now
	}
	d := s.Dimension
	if d == llm.Concurrent { // that is not a level which time refills
		d = llm.None
	}
	if l.cfg.Learn && !l.shared {
		l.hint(now, s.Profile)
		if d != llm.None && s.Limit > 0 {
			refill, period := l.family.refill(), time.Minute
			if d.Daily() {
				refill, period = Daily, day
			}
			l.learn(now, d, float64(s.Limit), refill, period)
		}
	}
	if notBefore, ok := l.longOver(now, s); ok {
		l.belied = 0
		t.refusal(now)
		return notBefore
	}
	binding := l.about(d)
	if binding == llm.None && !l.shared {
		binding = l.assume(now, d, caps)
	}
	pause := l.pauseOf(now, t, d, s)
	switch {
	case l.crowd:
		// The name that is refused is one of many here: the others need not wait.
		return now.Add(l.spread(pause))
	case binding == llm.None:
		l.congestion.refused(now, t.sentAt, l.inflight, s.Dimension == llm.Concurrent)
	case l.shared:
		// The limit that is refused is this one model's, and the level is that of all
		// which have not answered: the pause has to do.
	default:
		r := Refusal{Signal: s, Sent: t.sentAt, Asked: 1, Spent: t.spent(d), Named: d != llm.None, Pause: pause}
		if r.Named {
			r.Asked = t.charge[d]
		}
		l.source.Refused(now, binding, r)
	}
	if asked := t.charge[llm.Tokens]; s.Requested > 0 && d == llm.Tokens && asked > 0 {
		l.requestX = min(max(l.requestX*(1+0.2*(float64(s.Requested)/asked-1)), 0.25), 4)
	}
	l.pausedUntil = max(l.pausedUntil, now.Add(l.spread(pause)))
	tripped := t.refusal(now)
	l.breaker.pauses(l.pausedUntil)
	if !tripped {
		return now
	}
	return l.pausedUntil.Add(aside)
}

// about finds the limit of this lane that a 429 in dimension d is about; None when
// none is known.
func (l *Lane) about(d llm.Dimension) llm.Dimension {
	for _, d := range candidates(d) {
		if l.on.has(d) {
			return d
		}
	}
	return llm.None
}

// candidates are the limits that a 429 in dimension d may be about.
func candidates(d llm.Dimension) []llm.Dimension {
	if d == llm.None {
		return []llm.Dimension{llm.Requests, llm.Tokens}
	}
	return []llm.Dimension{d}
}

// assume takes the cap in the place of a limit that nobody has named for a limit of
// this lane, with the level that it has. What a refusal then teaches is this lane's
// alone. It returns the limit's dimension; None if there is no such cap. A day is not
// assumed: that one model's is over says nothing of a cap's amount.
func (l *Lane) assume(now llm.Instant, d llm.Dimension, caps *Lane) llm.Dimension {
	for _, d := range candidates(d) {
		if !caps.on.has(d) || d.Daily() {
			continue
		}
		l.learned = now
		l.known[d] = named{learned: true, assumed: true}
		l.setLimit(now, d, caps.limits[d].Amount, caps.limits[d].Refill, caps.limits[d].Period)
		own, ok := l.source.(*Clock)
		if of, also := caps.source.(*Clock); ok && also {
			own.buckets[d].follow(&of.buckets[d])
		}
		return d
	}
	return llm.None
}

// pauseOf reads how long the provider wants to be left alone, from the best
// source that it gave.
func (l *Lane) pauseOf(now llm.Instant, t *Ticket, d llm.Dimension, s *llm.Signal) time.Duration {
	if s.HasRetryAfter && s.RetryAfter >= 0 && s.RetryAfter < 12*time.Hour {
		return min(s.RetryAfter, pauseMax)
	}
	if s.Limit > 0 && s.Used > 0 && s.Requested > 0 {
		// The provider's own sum: (Used + Requested − Limit) / (Limit / 60 s).
		missing := float64(s.Used+s.Requested-s.Limit) / (float64(s.Limit) / 60)
		return min(max(0, roundUp(missing)), pauseMax)
	}
	if v := &s.Levels[d]; !d.Daily() && v.HasReset && v.Reset > 0 && v.Reset <= pauseMax {
		return v.Reset
	}
	most := backoffMax
	if s.Period >= time.Hour {
		most = hourBackoffMax
	}
	backoff := l.puzzle.pause(now, min(time.Second<<min(max(l.rejects-1, 0), 9), most))
	if d != llm.None && l.on.has(d) {
		only := llm.Vector{}
		only[d] = t.charge[d]
		if at := l.source.Ready(now, Ask{Client: t.client, Charge: only, Small: true}).At; at != llm.Never {
			backoff = max(min(backoff, 2*time.Second), min(at.Sub(now), backoffMax))
		}
	}
	return backoff
}

// spread lengthens a pause a little: sidecars that share a key are refused
// together and must not come back together.
func (l *Lane) spread(pause time.Duration) time.Duration {
	return pause + time.Duration(l.cfg.Roll()*(0.1*float64(pause)+float64(50*time.Millisecond)))
}

// A congestion is a window of slots in flight that stands in for a limit which
// nobody has named: it is answered as TCP answers a loss. Its zero value, but for
// cutAt, bounds nothing.
type congestion struct {
	window    float64 // 0 = no bound
	threshold float64 // up to which it doubles per round trip
	cutAt     llm.Instant
	earlier   int // slots taken before that, which a rate has counted already: a long answer must stop nobody
}

func (c *congestion) full(inflight int) bool {
	return c.window > 0 && float64(inflight-c.earlier) >= max(1, c.window)
}

// ended notes that a slot is free that was taken at that instant.
func (c *congestion) ended(taken llm.Instant) {
	if c.earlier > 0 && taken <= c.cutAt {
		c.earlier--
	}
}

// refused closes the window to one slot, once for all that was on the way. Where it was
// the number of slots that was too many, those that are taken count.
func (c *congestion) refused(now, sentAt llm.Instant, inflight int, slots bool) {
	if sentAt > c.cutAt {
		c.cutAt = now
		if c.earlier = inflight; slots {
			c.earlier = 0
		}
		if c.window == 0 || c.window > 1 { // a try that is refused again says nothing of how many were too many
			c.threshold = max(1, float64(inflight)/2)
		}
		c.window = 1
	}
}

// answered opens it: doubling per round trip up to half of what was too much, then
// by one slot per round trip.
func (c *congestion) answered(now, sentAt llm.Instant) {
	if c.window == 0 || sentAt <= c.cutAt {
		return
	}
	if c.window < c.threshold {
		c.window++
	} else {
		c.window += 1 / c.window
	}
	if now.Sub(c.cutAt) > windowForget {
		c.window, c.earlier = 0, 0
	}
}
