package lane

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A window remembers what was charged when, in slots of a 240th of the period.
// Each charge comes back one period after its slot ended. Whatever phase the
// provider's own window has, no window of it can then hold more than the limit,
// and the phase need not be learned.
type window struct {
	slots [slidingSlots + 2]float64
	width llm.Instant
	tick  int64 // of the newest slot
	sum   float64
}

func newWindow(now llm.Instant, period time.Duration) *window {
	width := llm.Instant(period) / slidingSlots
	return &window{width: width, tick: int64(now / width)}
}

func (w *window) at(tick int64) *float64 { return &w.slots[tick%int64(len(w.slots))] }

// advance drops what is older than a period and one slot: the extra slot is the
// guard band, for requests that take longer to arrive than others.
func (w *window) advance(now llm.Instant) {
	tick := int64(now / w.width)
	if tick-w.tick >= int64(len(w.slots)) {
		clear(w.slots[:])
		w.tick, w.sum = tick, 0
		return
	}
	for w.tick < tick {
		w.tick++
		w.sum -= *w.at(w.tick)
		*w.at(w.tick) = 0
	}
	if w.sum < 1e-6 {
		w.sum = max(0, w.sum)
	}
}

func (w *window) add(amount float64) {
	*w.at(w.tick) += amount
	w.sum += amount
}

func (w *window) remove(amount float64, taken llm.Instant) {
	tick := int64(taken / w.width)
	if tick <= w.tick-int64(len(w.slots)) {
		return // it has come back by itself
	}
	w.sum -= amount
	*w.at(tick) -= amount
}

// freed is when at least amount will have come back.
func (w *window) freed(now llm.Instant, amount float64) llm.Instant {
	oldest := max(0, w.tick-int64(len(w.slots))+1)
	for t := oldest; t <= w.tick; t++ {
		amount -= *w.at(t)
		if amount <= 1e-6 {
			return llm.Instant(t+int64(len(w.slots))) * w.width
		}
	}
	return now.Add(time.Duration(w.width)) // the factor is low: it regains with time
}
