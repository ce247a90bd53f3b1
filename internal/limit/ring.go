package limit

import "time"

// A ring remembers what was charged when, in slots of a 240th of the period.
// Each charge comes back one period after its slot ended. Whatever phase the
// provider's own window has, no window of it can then hold more than the limit,
// and the phase need not be learned.
type ring struct {
	slots [slidingSlots + 2]float64
	width instant
	tick  int64 // of the newest slot
	sum   float64
}

func newRing(now instant, period time.Duration) *ring {
	w := instant(period) / slidingSlots
	return &ring{width: w, tick: int64(now / w)}
}

func (r *ring) at(tick int64) *float64 { return &r.slots[tick%int64(len(r.slots))] }

// advance drops what is older than a period and one slot: the extra slot is the
// guard band, for requests that take longer to arrive than others.
func (r *ring) advance(now instant) {
	tick := int64(now / r.width)
	if tick-r.tick >= int64(len(r.slots)) {
		clear(r.slots[:])
		r.tick, r.sum = tick, 0
		return
	}
	for r.tick < tick {
		r.tick++
		r.sum -= *r.at(r.tick)
		*r.at(r.tick) = 0
	}
	if r.sum < 1e-6 {
		r.sum = max(0, r.sum)
	}
}

func (r *ring) add(amount float64) {
	*r.at(r.tick) += amount
	r.sum += amount
}

func (r *ring) remove(amount float64, taken instant) {
	tick := int64(taken / r.width)
	if tick <= r.tick-int64(len(r.slots)) {
		return // it has come back by itself
	}
	r.sum -= amount
	*r.at(tick) -= amount
}

// freed is when at least amount will have come back.
func (r *ring) freed(now instant, amount float64) instant {
	oldest := max(0, r.tick-int64(len(r.slots))+1)
	for t := oldest; t <= r.tick; t++ {
		amount -= *r.at(t)
		if amount <= 1e-6 {
			return instant(t+int64(len(r.slots))) * r.width
		}
	}
	return now.add(time.Duration(r.width)) // the factor is low: it regains with time
}
