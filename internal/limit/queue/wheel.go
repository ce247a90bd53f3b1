package queue

import (
	"math/bits"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A Wheel is a hashed timing wheel (Varghese, Lauck, SOSP 1987) of deadlines:
// every waiter has one and almost none expires, so setting and clearing must be
// O(1). A deadline is noticed at the end of its slot, 17 ms late at most;
// deadlines beyond one turn (275 s) stay in their slot until their turn comes.
type Wheel struct {
	slots [wheelSlots]*Waiter
	used  [wheelSlots / 64]uint64
	count int
	tick  int64 // slots before this one have been emptied of what was due
	hint  int64 // no used slot lies before this one
}

const (
	wheelShift = 24 // a slot is 2^24 ns = 16.8 ms
	wheelSlots = 1 << 14
)

func wheelTick(t llm.Instant) int64 { return int64(t) >> wheelShift }

// Set files w by its deadline, which must not be past.
func (h *Wheel) Set(w *Waiter) {
	tick := wheelTick(w.Deadline)
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

// Clear takes w out, which must have been set.
func (h *Wheel) Clear(w *Waiter) {
	if w.alarmNext != nil {
		w.alarmNext.alarmPrev = w.alarmPrev
	}
	if w.alarmPrev != nil {
		w.alarmPrev.alarmNext = w.alarmNext
	} else {
		i := wheelTick(w.Deadline) & (wheelSlots - 1)
		if h.slots[i] = w.alarmNext; w.alarmNext == nil {
			h.used[i/64] &^= 1 << (i % 64)
		}
	}
	w.alarmNext, w.alarmPrev = nil, nil
	h.count--
}

// Due returns one waiter whose slot has ended, or nil. The caller clears it.
func (h *Wheel) Due(now llm.Instant) *Waiter {
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
			if wheelTick(w.Deadline) < current {
				return w
			}
		}
	}
	h.tick = current
	h.hint = h.scan(current)
	return nil
}

// Next is when Due should be asked again: llm.Never too late, sometimes too early.
func (h *Wheel) Next() llm.Instant {
	if h.count == 0 {
		return llm.Never
	}
	return llm.Instant(h.hint+1) << wheelShift
}

// scan finds the first used slot at or after tick.
func (h *Wheel) scan(tick int64) int64 {
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
