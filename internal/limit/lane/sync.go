package lane

import (
	"math"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	staleAfter   = 30 * time.Second // a remaining-header of an older request says too little
	raiseGain    = 0.2              // of the way up that one header moves the level; down it moves at once
	foreignTau   = 20.0             // seconds over which foreign use is averaged
	surprisesMax = 3
	day          = 24 * time.Hour
)

// sync compares the level with a header. The header speaks of when its request
// was sent; what we charged since then is ours to subtract. Without that term
// requests in flight would look like free capacity, and the loop would
// oscillate.
func (b *bucket) sync(now llm.Instant, s Sample) {
	age := now.Sub(s.Sent)
	if age > staleAfter || b.seen.ok && s.Sent <= b.seen.Sent {
		return
	}
	b.advance(now)
	s.ok = true
	b.belief.loose = s.loose
	if b.counted && !s.loose && !b.weigh(now, s) {
		return
	}
	b.seen = s
	hat := min(b.limit, s.Remaining+b.effective()*age.Seconds()) - (b.spent - s.Spent)
	switch {
	case hat < b.level:
		own := b.belief // the headers' word is not our ledger's
		b.lower(now, hat)
		b.belief = own
	case b.refill != Continuous || b.paced || !b.mirrors:
		// Ours is the stricter view: windows that we cannot see the phase of, caps
		// below the provider's limit, and levels that other sidecars share.
	default:
		if hat -= s.Late; hat > b.level {
			b.level = min(b.level+raiseGain*(hat-b.level), b.capacity())
		}
	}
	b.cold = 0
	if b.mirrors && b.refill == Continuous && !b.paced {
		b.measure(s)
	}
}

// measure estimates the use by others of the same key from two headers, in the
// order their requests were sent: what went, less what we know of.
func (b *bucket) measure(s Sample) {
	a := b.anchor
	if !a.ok || a.family != s.family || a.Remaining >= 0.9*b.limit || s.Remaining >= 0.9*b.limit {
		// A bucket that is nearly full spills, and shows no use; and two ways of
		// charging keep two ledgers.
		b.anchor = s
		return
	}
	dt := s.Sent.Sub(a.Sent).Seconds()
	if dt < max(1, 5/b.rate) { // headers count whole requests: too soon is all noise
		return
	}
	use := (a.Remaining + b.rate*dt - (s.Spent - a.Spent) - s.Remaining) / dt
	alpha := 1 - math.Exp(-dt/foreignTau)
	b.foreign = min(max(0, b.foreign+alpha*(use-b.foreign)), b.rate)
	b.anchor = s
}

// cut is the multiplicative decrease after a 429 of a request sent at sentAt,
// once per epoch as TCP's is: the 429s of everything that was on the way
// already tell nothing new. It regains with time (see advance).
func (b *bucket) cut(now, sentAt llm.Instant) {
	if sentAt <= b.lastCut {
		return
	}
	by := 0.98
	if b.lastCut > 0 && now.Sub(b.lastCut) < time.Minute {
		by = 0.9
	}
	b.factor = max(factorMin, b.factor*by)
	b.guard = min(guardMax.Seconds(), 1.5*b.guard)
	b.lastCut = now
}

// refused corrects b, the limit of d, after a 429: its level so that the next
// request fits when the pause is over, its caution by one step.
func (b *bucket) refused(now llm.Instant, d llm.Dimension, r Refusal) {
	b.advance(now)
	s, byRequests := r.Signal, r.Named && d == llm.Requests
	exhausted := s.Limit > 0 && float64(s.Used+s.Requested) >= 0.9*float64(s.Limit)
	plenty := max(coldRequests, 0.1*b.limit)
	left := &s.Levels[llm.Requests]
	told := left.HasRemaining && float64(left.Remaining) > plenty
	if byRequests && (told || !exhausted && b.level > plenty) {
		// Refused with plenty left in the minute: it is judged by the second. Twice
		// is proof enough when the refusal's own headers say so, whatever its text,
		// which may tell a full second in numbers of the minute.
		if told {
			b.surprises++
		}
		if b.surprises++; b.surprises >= surprisesMax {
			b.pace()
			b.sliced = b.paced
			b.lastCut = now // the 429s still on their way have the same cause
			return
		}
	}
	if s.Limit > 0 && s.Used > 0 && r.Named && !(byRequests && told) {
		b.lower(now, float64(s.Limit-s.Used)-(b.spent-r.Spent))
	} else {
		b.lower(now, b.need(r.Asked, 0)-b.effective()*r.Pause.Seconds())
	}
	b.cut(now, r.Sent)
	if b.counted {
		b.proved(now, r.Sent)
	}
}
