package limit

import "math/bits"

// A wheel is a hashed timing wheel (Varghese, Lauck, SOSP 1987) of deadlines:
// every waiter has one and almost none expires, so setting and clearing must be
// O(1). A deadline is noticed at the end of its slot, 17 ms late at most;
// deadlines beyond one turn (275 s) stay in their slot until their turn comes.
type wheel struct {
	slots [wheelSlots]*waiter
	used  [wheelSlots / 64]uint64
	count int
	tick  int64 // slots before this one have been emptied of what was due
	hint  int64 // no used slot lies before this one
}

const (
	wheelShift = 24 // a slot is 2^24 ns = 16.8 ms
	wheelSlots = 1 << 14
)

func wheelTick(t instant) int64 { return int64(t) >> wheelShift }

// set files w by its deadline, which must not be past.
func (h *wheel) set(w *waiter) {
	tick := wheelTick(w.deadline)
	if h.count == 0 || tick < h.hint {
		h.hint = tick
	}
	i := tick & (wheelSlots - 1)
	w.alarmPrev, w.alarmNext = nil, h.slots[i]
	if w.alarmNext != nil {
		w.alarmNext.alarmPrev = w
	}
	h.slots[i] = w
	h.used[i/64] |= 1 << (i % 64)
	h.count++
}

func (h *wheel) clear(w *waiter) {
	if w.alarmNext != nil {
		w.alarmNext.alarmPrev = w.alarmPrev
	}
	if w.alarmPrev != nil {
		w.alarmPrev.alarmNext = w.alarmNext
	} else {
		i := wheelTick(w.deadline) & (wheelSlots - 1)
		if h.slots[i] = w.alarmNext; w.alarmNext == nil {
			h.used[i/64] &^= 1 << (i % 64)
		}
	}
	w.alarmNext, w.alarmPrev = nil, nil
	h.count--
}

// due returns one waiter whose slot has ended, or nil. The caller clears it.
func (h *wheel) due(now instant) *waiter {
	current := wheelTick(now)
	if h.count == 0 || current <= h.hint {
		h.tick = max(h.tick, current)
		return nil
	}
	for h.tick = max(h.tick, h.hint, current-wheelSlots); h.tick < current; h.tick++ {
		i := h.tick & (wheelSlots - 1)
		if h.used[i/64] == 0 { // skip the rest of an empty word
			h.tick |= 63
			continue
		}
		for w := h.slots[i]; w != nil; w = w.alarmNext {
			if wheelTick(w.deadline) < current {
				return w
			}
		}
	}
	h.tick = current
	h.hint = h.scan(current)
	return nil
}

// next is when due should be asked again: never too late, sometimes too early.
func (h *wheel) next() instant {
	if h.count == 0 {
		return never
	}
	return instant(h.hint+1) << wheelShift
}

// scan finds the first used slot at or after tick.
func (h *wheel) scan(tick int64) int64 {
	i := tick & (wheelSlots - 1)
	word := i / 64
	if rest := h.used[word] >> (i % 64); rest != 0 {
		return tick + int64(bits.TrailingZeros64(rest))
	}
	base := tick - i%64
	for n := int64(1); n <= wheelSlots/64; n++ {
		if used := h.used[(word+n)%(wheelSlots/64)]; used != 0 {
			return base + n*64 + int64(bits.TrailingZeros64(used))
		}
	}
	return tick + wheelSlots
}
