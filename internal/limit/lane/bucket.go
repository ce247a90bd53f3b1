package lane

import (
	"math"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// The constants of caution: doc.go says why.
const (
	guardLeast    = 0.25 // seconds of refill kept back: network jitter reorders requests by this much
	guardMax      = time.Second
	factorMin     = 0.3
	factorRegain  = 0.02 / 60 // a second: a 2 % cut is forgotten in a minute, at any request rate
	rateFloor     = 0.05      // of the rate, however large the foreign use seems
	coldShare     = 0.1       // of a limit that may be used before anything tells its level
	coldRequests  = 3
	pacedRate     = 0.975 // of a rate that is enforced in slices of a second
	slidingSlots  = 240
	slidingFill   = 0.995 // of a limit whose charges we can only estimate, and no header corrects
	coldPassShare = 0.125
	reorderSpan   = 50 * time.Millisecond
	foreignGuard  = 1.0  // seconds of foreign use kept back: it comes in lumps that headers report late
	spillDecay    = 0.98 // per surcharge, of the largest one
)

// A bucket is one limit in one llm.Dimension, with what the controller believes
// about it. Amounts are requests or tokens; rates are per second.
type bucket struct {
	on     bool
	paced  bool // enforced in slices of a second: no burst
	sliced bool // paced because refusals have shown it
	refill Refill
	cold   int8 // requests of a cold start that need not wait for the level

	limit float64     // what may be used per period: also the capacity
	rate  float64     // limit per second
	level float64     // may be negative: a debt
	at    llm.Instant // level is of then

	factor  float64 // caution, in [factorMin, 1]
	guard   float64 // seconds of refill kept back
	foreign float64 // use by others of the same key, a second
	spill   float64 // how much answers lately exceeded their charge: the provider books that before we hear of it
	spent   float64 // charges less refunds since the start: the ledger that headers are compared with
	booked  float64 // charges alone, and as they stood at two marks, for late
	window  *window

	reset            llm.Instant // daily: when the level becomes the limit
	mark, markBefore float64
	markAt           llm.Instant
	primed           float64 // use before the start

	lastCut   llm.Instant // the last time the factor was cut; 429s of older requests say nothing new
	mirrors   bool        // limit is the provider's own, so that its remaining is our level
	surprises int

	seen   Sample // the last header that moved the level
	anchor Sample // the last header that began a measurement of foreign use

	counted bool // of requests: each costs one, so that headers can be held to their word
	belief  belief
}

// configure sets the limit, scaling the level: a bucket that was half full is
// half full afterwards. held are the slots in use.
func (b *bucket) configure(now llm.Instant, l Limit, held float64) {
	kind := l.Refill
	if b.sliced || b.paced && l.Paced {
		kind = b.refill
	}
	switch {
	case l.Amount <= 0:
		*b = bucket{spent: b.spent}
		return
	case b.on && b.refill == kind && (!b.paced || b.sliced || l.Paced):
		b.advance(now)
		if b.limit != l.Amount {
			b.level *= l.Amount / b.limit
			b.foreign *= l.Amount / b.limit
			b.keepOwn(now, b.ownLevel(now)*l.Amount/b.limit)
		}
	default:
		*b = bucket{on: true, refill: kind, at: now, spent: b.spent, factor: 1, guard: guardLeast, lastCut: -1}
	}
	b.mirrors = l.Mirrors
	fresh, changed := b.limit == 0, b.limit != l.Amount
	b.limit, b.rate = l.Amount, l.Amount/l.Period.Seconds()
	switch {
	case !changed:
	case kind == Slots:
		b.level, b.rate = b.limit-held, math.Inf(1)
	case !fresh:
	case kind == Continuous:
		b.cold = coldRequests
		b.level = min(b.limit, max(coldShare*b.limit, coldRequests)+b.reserve())
		b.keepOwn(now, b.level)
		b.belief.tries = doubtTries
	case kind == Sliding:
		// What others, or we before a restart, used of this minute is unknown:
		// nine tenths of it are held to be used, and come back in a period.
		b.cold = coldRequests
		b.window = newWindow(now, l.Period)
		b.window.add((1 - coldShare) * b.limit)
	case kind == Daily:
		b.level, b.reset = b.limit, now.Add(l.Period)
	}
	if l.Paced {
		b.pace()
	}
}

// follow takes over the level of another bucket of the same limit, and its caution. The
// ledger stays b's own: marks were made of it.
func (b *bucket) follow(of *bucket) {
	spent, booked := b.spent, b.booked
	*b = *of
	b.spent, b.booked, b.mark, b.markBefore = spent, booked, booked, booked
	if of.window != nil {
		copied := *of.window
		b.window = &copied
	}
}

// pace forbids bursts: for limits that are judged by the second although they
// are named by the minute.
func (b *bucket) pace() {
	if !b.on || b.paced || b.refill != Continuous && b.refill != Sliding {
		return
	}
	b.paced = true
	b.refill, b.window = Continuous, nil
	b.level = min(b.level, b.capacity())
	b.cold = 0
	b.factor, b.foreign = 1, 0 // the cause is found
}

// capacity is the most the level can be.
func (b *bucket) capacity() float64 {
	if b.paced {
		return min(b.limit, 1+b.rate*0.002) // room for a late timer
	}
	if b.refill == Sliding {
		return slidingFill * b.limit
	}
	return b.limit
}

// reserve is the guard band as an amount. It is an offset of the level and not
// a cut of the rate: without it the local bucket sits at the provider's very
// edge, and every reordering on the way becomes a 429.
func (b *bucket) reserve() float64 {
	if b.paced || b.refill != Continuous {
		return 0
	}
	r := b.rate*b.guard + b.foreign*foreignGuard + b.spill
	if most := b.limit / 4; r > most { // min() minds NaN, and this is done for every request
		return most
	}
	return r
}

// effective is the refill we count on.
func (b *bucket) effective() float64 {
	if b.factor == 1 && b.foreign == 0 && !b.paced {
		return b.rate
	}
	return b.cautious()
}

func (b *bucket) cautious() float64 {
	r := b.factor * (b.rate - b.foreign)
	if b.paced {
		r *= pacedRate
	}
	return min(max(r, rateFloor*b.rate), b.rate)
}

// advance brings the level to now.
func (b *bucket) advance(now llm.Instant) {
	if now > b.at {
		b.refillTo(now)
	}
}

func (b *bucket) refillTo(now llm.Instant) {
	dt := float64(now-b.at) * 1e-9
	if b.refill == Continuous && b.factor == 1 && b.foreign == 0 && b.guard <= guardLeast && !b.paced {
		// Most buckets at most times: nothing to be careful about.
		b.at = now
		if b.level += b.rate * dt; b.level > b.limit {
			b.level = b.limit
		}
		return
	}
	switch b.refill {
	case Continuous:
		b.level += b.effective() * dt
		if top := b.capacity(); b.level > top {
			b.level = top
		}
	case Sliding:
		b.window.advance(now)
		b.level = slidingFill*b.limit*b.factor - b.window.sum
	case Daily:
		for now >= b.reset {
			b.level = b.limit
			b.reset = b.reset.Add(24 * time.Hour)
		}
	case Slots:
	}
	if b.foreign > 0 && now.Sub(b.seen.Sent) > staleAfter {
		// What others use is known from headers only. When it is thought to be so
		// much that nothing is sent, no header comes to deny it.
		b.foreign *= math.Exp(-dt / foreignTau)
	}
	if b.factor < 1 {
		b.factor = min(1, b.factor+factorRegain*dt)
	}
	if b.guard > guardLeast {
		b.guard = guardLeast + (b.guard-guardLeast)*math.Exp(-dt/60)
	}
	b.at = now
}

// need is the level that a charge of amount waits for, if it has to leave so much
// behind. A full bucket serves everybody: what is larger goes and leaves a debt.
func (b *bucket) need(amount, leave float64) float64 {
	n := amount + b.reserve() + leave
	if most := b.capacity(); n > most {
		return most
	}
	return n
}

// room is the most that can be taken at once.
func (b *bucket) room() float64 { return b.capacity() - b.reserve() }

// depth is what so many seconds of refill are of the bucket, where depth costs no
// rate: what a fixed window or a second has not used when it ends is lost.
func (b *bucket) depth(seconds float64) float64 {
	if b.refill != Continuous || b.paced {
		return 0
	}
	return min(b.rate*seconds, b.limit/8)
}

// ready is the earliest instant at which amount may be taken; llm.Never if only the
// end of another request can tell.
func (b *bucket) ready(now llm.Instant, amount, leave float64) llm.Instant {
	if amount <= 0 {
		return now
	}
	b.advance(now)
	need := b.need(amount, leave)
	if b.level >= need-1e-9*need {
		return now
	}
	return b.comes(now, need)
}

// passes reports whether a cold start lets amount go without a level.
func (b *bucket) passes(amount float64) bool {
	return b.cold > 0 && amount <= coldPassShare*b.limit
}

// comes is when the level will be need, which it is not yet.
func (b *bucket) comes(now llm.Instant, need float64) llm.Instant {
	switch b.refill {
	case Sliding:
		return max(now+1, b.window.freed(now, need-b.level))
	case Daily:
		return b.reset
	case Slots:
		return llm.Never
	}
	return min(now.Add(roundUp((need-b.level)/b.effective())), b.doubt(now, need))
}

// wait is ready for a charge that has others ahead of it, in seconds from now:
// the fluid limit that forecasts are made of.
func (b *bucket) wait(now llm.Instant, ahead, amount, leave float64) float64 {
	b.advance(now)
	missing := ahead + b.need(amount, leave) - b.level
	switch {
	case missing <= 0 || amount <= 0:
		return 0
	case b.refill == Daily:
		return b.reset.Sub(now).Seconds()
	case b.refill == Slots:
		return 0 // depends on service times; the measured bias covers it
	case b.refill == Sliding:
		return max(missing/(b.rate*b.factor), b.window.freed(now, min(missing, b.limit)).Sub(now).Seconds())
	}
	return missing / b.effective()
}

// take books amount. The level must have been brought to now.
func (b *bucket) take(amount float64) {
	if b.counted && b.seen.ok {
		b.try(b.need(amount, 0))
	}
	b.spent += amount
	b.booked += amount
	b.level -= amount
	if b.cold > 0 {
		b.cold--
	}
	if b.window != nil {
		b.window.add(amount)
	}
}

// refund returns amount (or charges more, if negative) of what was taken at the
// instant taken.
func (b *bucket) refund(now llm.Instant, amount float64, taken llm.Instant) {
	switch {
	case amount == 0:
	case b.refill == Slots:
		b.level = min(b.limit, b.level+amount)
	case b.refill == Continuous && amount > 0:
		b.giveBack(amount)
	case b.refill == Sliding:
		b.advance(now)
		b.spent -= amount
		b.spilt(-amount)
		b.window.remove(amount, taken)
		b.level = slidingFill*b.limit*b.factor - b.window.sum
	case b.refill == Daily && taken < b.reset-llm.Instant(day): // a day that is over does not come back
	default:
		b.advance(now)
		b.spent -= amount
		b.spilt(-amount)
		b.level = min(b.capacity(), b.level+amount)
	}
}

// giveBack is a refund to a bucket that refills all the time. What comes in and
// what comes back add up to the same in any order, and the capacity bounds every
// sum, so the level need not be brought to now.
func (b *bucket) giveBack(amount float64) {
	b.spent -= amount
	b.level += amount
	if top := b.capacity(); b.level > top {
		b.level = top
	}
}

func (b *bucket) spilt(amount float64) {
	if amount > 0 {
		b.spill = max(b.spill*spillDecay, amount)
	}
}

// late is what others were charged in the last moments before now: their
// requests may arrive after one that is sent now, and be missing from the level
// that its answer tells.
func (b *bucket) late(now llm.Instant, own float64) float64 {
	if since := now.Sub(b.markAt); since > reorderSpan {
		b.markBefore, b.mark = b.mark, b.booked-own
		if since > 2*reorderSpan {
			b.markBefore = b.mark
		}
		b.markAt = now
	}
	return max(0, b.booked-own-b.markBefore)
}

// lower sets the level to at most level.
func (b *bucket) lower(now llm.Instant, level float64) {
	b.advance(now)
	if level >= b.level {
		return
	}
	if b.window != nil {
		b.window.add(b.level - level)
	}
	b.level = level
	b.cold = 0
	b.keepOwn(now, min(level, b.ownLevel(now)))
}

// prime books use by an earlier process of ours, of which only the sum is
// known: the level is what it left, or the cold start's, if that is less.
func (b *bucket) prime(now llm.Instant, used float64) {
	b.advance(now)
	b.primed += used
	left := b.limit - b.primed
	if b.refill == Continuous {
		// The rows do not have what was on the way, nor the provider's unit: nothing
		// of the cold start's tenth is given away on top of them.
		left = min(left, max(0, coldShare*b.limit-b.primed))
	}
	b.lower(now, left)
	b.cold = 0
}
