package lane

import "github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"

// A Booking is what was taken of a lane's source, and a slot. It hears of no provider: a
// cap over all models needs no more. It must end once, by End.
type Booking struct {
	lane   *Lane
	source Source
	client uint64
	charge llm.Vector
	taken  llm.Instant
	epoch  int // of the lane, when it was taken
}

// Book takes an ask's charge, which When has just let go.
func (l *Lane) Book(now llm.Instant, a Ask) Booking {
	l.source.Take(now, a)
	l.inflight++
	l.slots++
	return Booking{lane: l, source: l.source, client: a.Client, charge: a.Charge, taken: now, epoch: l.epoch}
}

// Lane is the lane that b was taken of, or what has become of it.
func (b *Booking) Lane() *Lane { return b.lane.live() }

// Charge is what was taken.
func (b *Booking) Charge() llm.Vector { return b.charge }

// Return gives back amount of what was taken to where it came from, or to the part
// of it that the lane was born with.
func (b *Booking) Return(now llm.Instant, amount llm.Vector) {
	b.from().Return(now, b.client, amount, b.taken)
}

// from is where b was taken, or the part of it that the lane was born with.
func (b *Booking) from() Source {
	if parent := b.lane.parent; parent != nil && b.source == Source(parent) && b.epoch == b.lane.epoch {
		return b.lane.source
	}
	return b.source
}

// TakeBack returns the charge, wholly: the request was not processed.
func (b *Booking) TakeBack(now llm.Instant) {
	back := b.charge
	back[llm.Concurrent] = 0 // the slot comes back with End
	b.Return(now, back)
}

// End gives back the slot, whatever became of the charge.
func (b *Booking) End(now llm.Instant) {
	b.Return(now, llm.Vector{llm.Concurrent: 1})
	if b.epoch == b.lane.epoch {
		b.lane.slots--
	}
	l := b.Lane()
	l.inflight--
	l.congestion.ended(b.taken)
}
