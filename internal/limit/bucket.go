package limit

import (
	"math"
	"time"
)

// A refill says how what was charged comes back.
type refill uint8

const (
	continuous refill = iota // a token bucket: limit/period a second, up to the limit
	sliding                  // a charge comes back one period later (providers that count per fixed minute)
	daily                    // everything comes back at resetAt
	places                   // a place comes back when its request ends
)

// The controller's constants: doc.go says why.
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

// A bucket is one limit in one dimension, with what the controller believes
// about it. Amounts are requests or tokens; rates are per second.
type bucket struct {
	on      bool
	learned bool // limit came from the provider
	paced   bool // enforced in slices: no burst
	refill  refill
	passes  int8 // requests of a cold start that need not wait for the level

	limit float64 // what may be used per period: also the capacity
	rate  float64 // limit per second
	per   float64 // seconds of the limit that one takes: 1/rate, 0 where what was taken does not come back with time
	level float64 // may be negative: a debt
	at    instant // level is of then

	factor  float64 // caution, in [factorMin, 1]
	guard   float64 // seconds of refill kept back
	foreign float64 // use by others of the same key, a second
	spill   float64 // how much answers lately exceeded their charge: the provider books that before we hear of it
	spent   float64 // charges less refunds since the start: the ledger that headers are compared with
	booked  float64 // charges alone, and as they stood at two marks, for late
	ring    *ring

	dim dimension
	of  *shape // of the meters it belongs to; nil = it stands alone

	reset            instant // daily: when the level becomes the limit
	mark, markBefore float64
	markAt           instant
	primed           float64 // use before the start

	lastCut             instant // the last time the factor was cut; 429s of older requests say nothing new
	mirrors             bool    // limit is the provider's own, so that its remaining is our level
	dayHints, surprises int

	seen   sample // the last header that moved the level
	anchor sample // the last header that began a measurement of foreign use
}

// A sample is one remaining-header, with the ledger as it stood when its
// request was sent.
type sample struct {
	sent      instant
	remaining float64
	spent     float64
	late      float64
	family    profile // that spent was booked by
	ok        bool
}

// configure sets the limit, scaling the level: a bucket that was half full is
// half full afterwards.
func (b *bucket) configure(now instant, limit float64, kind refill, period time.Duration) {
	if limit <= 0 {
		*b = bucket{spent: b.spent, dim: b.dim, of: b.of}
		b.of.set(b.dim, false)
		return
	}
	if b.on && b.refill == kind {
		b.advance(now)
		if b.limit != limit {
			if kind == places {
				b.level += limit - b.limit
			} else {
				b.level *= limit / b.limit
				b.foreign *= limit / b.limit
			}
			b.limit, b.rate = limit, limit/period.Seconds()
			if b.per > 0 {
				b.per = 1 / b.rate
			}
			b.of.set(b.dim, true)
		}
		return
	}
	*b = bucket{
		on: true, refill: kind, limit: limit, rate: limit / period.Seconds(), at: now, spent: b.spent,
		factor: 1, guard: guardLeast, lastCut: -1, dim: b.dim, of: b.of,
	}
	b.of.set(b.dim, true)
	if kind == continuous || kind == sliding {
		b.per = 1 / b.rate
	}
	switch kind {
	case continuous:
		b.passes = coldRequests
		b.level = min(limit, max(coldShare*limit, coldRequests)+b.reserve())
	case sliding:
		// What others, or we before a restart, used of this minute is unknown:
		// nine tenths of it are held to be used, and come back in a period.
		b.passes = coldRequests
		b.ring = newRing(now, period)
		b.ring.add((1 - coldShare) * limit)
	case daily:
		b.level, b.reset = limit, now.add(period)
	case places:
		b.level, b.rate = limit, math.Inf(1)
	}
}

// pace forbids bursts: for limits that are judged by the second although they
// are named by the minute.
func (b *bucket) pace() {
	if !b.on || b.paced || b.refill != continuous && b.refill != sliding {
		return
	}
	b.paced = true
	b.refill, b.ring = continuous, nil
	b.level = min(b.level, b.capacity())
	b.passes = 0
	b.factor, b.foreign = 1, 0 // the cause is found
}

// capacity is the most the level can be.
func (b *bucket) capacity() float64 {
	if b.paced {
		return min(b.limit, 1+b.rate*0.002) // room for a late timer
	}
	if b.refill == sliding {
		return slidingFill * b.limit
	}
	return b.limit
}

// reserve is the guard band as an amount. It is an offset of the level and not
// a cut of the rate: without it the local bucket sits at the provider's very
// edge, and every reordering on the way becomes a 429.
func (b *bucket) reserve() float64 {
	if b.paced || b.refill != continuous {
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
func (b *bucket) advance(now instant) {
	if now > b.at {
		b.refillTo(now)
	}
}

func (b *bucket) refillTo(now instant) {
	dt := float64(now-b.at) * 1e-9
	if b.refill == continuous && b.factor == 1 && b.foreign == 0 && b.guard <= guardLeast && !b.paced {
		// Most buckets at most times: nothing to be careful about.
		b.at = now
		if b.level += b.rate * dt; b.level > b.limit {
			b.level = b.limit
		}
		return
	}
	switch b.refill {
	case continuous:
		b.level += b.effective() * dt
		if top := b.capacity(); b.level > top {
			b.level = top
		}
	case sliding:
		b.ring.advance(now)
		b.level = slidingFill*b.limit*b.factor - b.ring.sum
	case daily:
		for now >= b.reset {
			b.level = b.limit
			b.reset = b.reset.add(24 * time.Hour)
		}
	case places:
	}
	if b.foreign > 0 && now.sub(b.seen.sent) > staleAfter {
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

// need is the level that a charge of amount waits for. What is larger than the
// bucket waits for a full one, goes, and leaves a debt: the provider judges.
func (b *bucket) need(amount float64) float64 {
	g := b.reserve()
	if most := b.capacity() - g; amount > most {
		amount = most
	}
	return amount + g
}

// ready is the earliest instant at which amount may be taken; never if only the
// end of another request can tell.
func (b *bucket) ready(now instant, amount float64) instant {
	if amount <= 0 {
		return now
	}
	b.advance(now)
	need := b.need(amount)
	if b.level >= need-1e-9*need {
		return now
	}
	if b.passes > 0 && amount <= coldPassShare*b.limit {
		return now
	}
	switch b.refill {
	case sliding:
		return max(now+1, b.ring.freed(now, need-b.level))
	case daily:
		return b.reset
	case places:
		return never
	}
	return now.add(seconds((need - b.level) / b.effective()))
}

// wait is ready for a charge that has others ahead of it, in seconds from now:
// the fluid limit that forecasts are made of.
func (b *bucket) wait(now instant, ahead, amount float64) float64 {
	b.advance(now)
	missing := ahead + b.need(amount) - b.level
	switch {
	case missing <= 0 || amount <= 0:
		return 0
	case b.refill == daily:
		return b.reset.sub(now).Seconds()
	case b.refill == places:
		return 0 // depends on service times; the measured bias covers it
	case b.refill == sliding:
		return max(missing/(b.rate*b.factor), b.ring.freed(now, min(missing, b.limit)).sub(now).Seconds())
	}
	return missing / b.effective()
}

// take books amount. The level must have been brought to now.
func (b *bucket) take(amount float64) {
	b.spent += amount
	b.booked += amount
	b.level -= amount
	if b.passes > 0 || b.ring != nil {
		b.note(amount)
	}
}

// note books a charge where it is not only the level that has it.
func (b *bucket) note(amount float64) {
	if b.passes > 0 {
		b.passes--
		b.of.passed |= 1 << b.dim
	}
	if b.ring != nil {
		b.ring.add(amount)
	}
}

// untake undoes the last take, which was at this very moment.
func (b *bucket) untake(now instant, amount float64) {
	b.spent -= amount
	b.booked -= amount
	b.level += amount
	if b.of.passed&(1<<b.dim) != 0 {
		b.passes++
	}
	if b.ring != nil {
		b.ring.remove(amount, now)
	}
}

// refund returns amount (or charges more, if negative) of what was taken at the
// instant taken.
func (b *bucket) refund(now instant, amount float64, taken instant) {
	switch {
	case amount == 0 || b.refill == places: // a place comes back when its request ends
	case b.refill == continuous && amount > 0:
		b.giveBack(amount)
	case b.refill == sliding:
		b.advance(now)
		b.spent -= amount
		b.spilt(-amount)
		b.ring.remove(amount, taken)
		b.level = slidingFill*b.limit*b.factor - b.ring.sum
	case b.refill == daily && taken < b.reset-instant(day): // a day that is over does not come back
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
func (b *bucket) late(now instant, own float64) float64 {
	if since := now.sub(b.markAt); since > reorderSpan {
		b.markBefore, b.mark = b.mark, b.booked-own
		if since > 2*reorderSpan {
			b.markBefore = b.mark
		}
		b.markAt = now
	}
	return max(0, b.booked-own-b.markBefore)
}

// lower sets the level to at most level.
func (b *bucket) lower(now instant, level float64) {
	b.advance(now)
	if level >= b.level {
		return
	}
	if b.ring != nil {
		b.ring.add(b.level - level)
	}
	b.level = level
	b.passes = 0
}

// prime books use by an earlier process of ours, of which only the sum is
// known: the level is what it left, or the cold start's, if that is less.
func (b *bucket) prime(now instant, used float64) {
	b.advance(now)
	b.primed += used
	left := b.limit - b.primed
	if b.refill == continuous {
		// The rows do not have what was on the way, nor the provider's unit: nothing
		// of the cold start's tenth is given away on top of them.
		left = min(left, max(0, coldShare*b.limit-b.primed))
	}
	b.lower(now, left)
	b.passes = 0
}
