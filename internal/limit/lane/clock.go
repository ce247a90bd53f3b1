package lane

import (
	"math"
	"math/bits"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A Clock is the source of a lane whose limits this process has for itself: what
// it may take comes back with time. It is one bucket per dimension; a request takes
// of all of them, or of none. Client names mean nothing to it.
type Clock struct {
	buckets [llm.NumDimensions]bucket
	on      set     // the dimensions that have a limit
	held    float64 // slots in use, whether or not there is a limit of them
	heir    *Clock  // that took over, and gets what is returned
	saved   savings
}

var _ Source = (*Clock)(nil)

// NewClock returns a Clock without limits.
func NewClock() *Clock { return new(Clock) }

// A set is a set of dimensions. Most lanes have two limits out of ten kinds.
type set uint16

func (s *set) put(d llm.Dimension, in bool) {
	*s &^= 1 << d
	if in {
		*s |= 1 << d
	}
}

func (s set) has(d llm.Dimension) bool { return s&(1<<d) != 0 }

// next takes the least dimension out of a set that is not empty.
func (s *set) next() llm.Dimension {
	d := llm.Dimension(bits.TrailingZeros16(uint16(*s)))
	*s &= *s - 1
	return d
}

// SetLimit implements [Source].
func (c *Clock) SetLimit(now llm.Instant, d llm.Dimension, l Limit) {
	c.buckets[d].configure(now, l, c.held)
	c.buckets[d].counted = d == llm.Requests
	c.on.put(d, c.buckets[d].on)
}

// Ready implements [Source].
func (c *Clock) Ready(now llm.Instant, a Ask) Verdict {
	v := Verdict{At: now}
	if c.saved.any {
		c.saved.keep(now, c)
	}
	if a.Saving {
		if d, ok := c.fits(&a); !ok {
			return Verdict{At: llm.Never, Limit: d}
		}
	}
	for on := c.on; on != 0; {
		d := on.next()
		b := &c.buckets[d]
		if at := b.ready(now, a.Charge[d], c.leave(d, &a)); at > v.At && (a.Saving || !b.passes(a.Charge[d])) {
			v.At, v.Limit = at, d
		}
	}
	return v
}

// Take implements [Source].
func (c *Clock) Take(now llm.Instant, a Ask) {
	c.held += a.Charge[llm.Concurrent]
	for on := c.on; on != 0; {
		b := &c.buckets[on.next()]
		b.advance(now)
	}
	for on := c.on; on != 0; {
		d := on.next()
		c.buckets[d].take(a.Charge[d])
	}
	if c.saved.any {
		c.saved.spend(now, &a)
	}
}

// Return implements [Source].
func (c *Clock) Return(now llm.Instant, client uint64, amount llm.Vector, taken llm.Instant) {
	if c.heir != nil {
		c.heir.Return(now, client, amount, taken)
		return
	}
	c.held -= amount[llm.Concurrent]
	for on := c.on; on != 0; {
		d := on.next()
		c.buckets[d].refund(now, amount[d], taken)
	}
}

// Wait implements [Source]: the longest that one of the limits makes it wait.
func (c *Clock) Wait(now llm.Instant, ahead llm.Vector, a Ask) (time.Duration, llm.Dimension) {
	longest, binding := 0.0, llm.None
	for on := c.on; on != 0; {
		d := on.next()
		if s := c.buckets[d].wait(now, ahead[d], a.Charge[d], c.leave(d, &a)); s > longest {
			longest, binding = s, d
		}
	}
	return Seconds(longest), binding
}

// Mark implements [Source].
func (c *Clock) Mark(now llm.Instant, charge llm.Vector) (m Mark) {
	for d := llm.Requests; int(d) < len(m.Spent); d++ {
		m.Spent[d] = c.buckets[d].spent
		m.Late[d] = c.buckets[d].late(now, charge[d])
	}
	return m
}

// Told implements [Source].
func (c *Clock) Told(now llm.Instant, d llm.Dimension, s Sample) {
	if b := &c.buckets[d]; b.on {
		b.sync(now, s)
	}
}

// Lower implements [Source].
func (c *Clock) Lower(now llm.Instant, d llm.Dimension, level float64, reset llm.Instant) {
	b := &c.buckets[d]
	if !b.on {
		return
	}
	b.lower(now, level)
	if reset != llm.Never && b.refill == Daily {
		b.reset = reset
	}
}

// Refused implements [Source].
func (c *Clock) Refused(now llm.Instant, d llm.Dimension, r Refusal) {
	if b := &c.buckets[d]; b.on {
		b.refused(now, d, r)
	}
}

// Prime implements [Source].
func (c *Clock) Prime(now llm.Instant, used llm.Vector) {
	for on := c.on; on != 0; {
		if d := on.next(); used[d] > 0 && d != llm.Concurrent {
			c.buckets[d].prime(now, used[d])
		}
	}
}

// Meters implements [Source]. Whether a limit was learned, the lane adds.
func (c *Clock) Meters(now llm.Instant) (all []Meter) {
	for on := c.on; on != 0; {
		d := on.next()
		b := &c.buckets[d]
		b.advance(now)
		m := Meter{
			Name: d.String(), Limit: int64(b.limit), Level: b.level,
			Factor: b.factor, Foreign: b.foreign, Guard: b.reserve(),
		}
		if b.refill == Continuous || b.refill == Sliding {
			m.Rate = b.effective()
		}
		all = append(all, m)
	}
	return all
}

// Close implements [Source].
func (c *Clock) Close() {}

// part returns a copy of c for a lane that goes on alone, with so many of the
// slots that are held: a copy of levels fills no bucket.
func (c *Clock) part(held float64) *Clock {
	own := *c
	for d := range own.buckets {
		if w := own.buckets[d].window; w != nil {
			copied := *w
			own.buckets[d].window = &copied
		}
	}
	own.hold(held - c.held)
	c.hold(-held)
	return &own
}

// hold changes how many slots are in use.
func (c *Clock) hold(more float64) {
	c.held += more
	if b := &c.buckets[llm.Concurrent]; b.on {
		b.level -= more
	}
}

// absorb takes over what from has booked: its levels where they are lower, and its
// slots.
func (c *Clock) absorb(from *Clock, now llm.Instant) {
	for on := c.on & from.on; on != 0; {
		d := on.next()
		a, b := &from.buckets[d], &c.buckets[d]
		if a.refill == b.refill && a.refill != Slots {
			a.advance(now)
			b.lower(now, a.level)
		}
	}
	c.hold(from.held)
	from.heir = c
}

// Seconds converts seconds to a Duration: what is longer than thirty years is that.
func Seconds(s float64) time.Duration { return time.Duration(min(s, 1e9) * 1e9) }

// roundUp is Seconds for wake-ups: one that is a nanosecond early finds the bucket
// a hair short and costs a second one.
func roundUp(s float64) time.Duration {
	if s >= math.MaxInt64/1e9 {
		return math.MaxInt64
	}
	return time.Duration(math.Ceil(s * 1e9))
}
