package limit

import "math"

type waiterState uint8

const (
	waiting waiterState = iota
	refused
	granted
	probing // granted by a gate that is shut
)

func (s waiterState) admitted() bool { return s >= granted }

// A waiter is one request in the queue. It is kept small, for a full queue is
// made of these: 144 bytes, and 112 for its channel, are the two size classes
// that add up to 256. What only matters after the grant lives in the grant.
type waiter struct {
	next, prev           *waiter // in the session's FIFO
	alarmNext, alarmPrev *waiter // in the wheel's slot
	session              *flow
	wake                 chan struct{} // made when the caller really has to wait
	model                string        // names the group to be, until that exists
	charge               charge
	demand               packed // to weigh it anew when the way of charging changes
	deadline             instant
	queuedAt             instant
	seq                  uint64  // order of arrival; survives a 429
	cost                 float32 // dominant share of the charge, in seconds of the limit
	fluid                float32 // seconds to wait, as computed on arrival
	bytes                uint32  // of its body
	bias                 uint16  // forecast over fluid, in ten-thousandths
	state                waiterState
	reason               Reason
}

const biasUnit = 1e4

func (w *waiter) group() *group { return w.session.group }

// forecast is the wait in seconds that was foretold on arrival.
func (w *waiter) forecast() float64 { return float64(w.fluid) * float64(w.bias) / biasUnit }

// grant marks w as served.
func (w *waiter) grant() {
	w.state = granted
	if w.group().gate.limit > 0 {
		w.state = probing
	}
}

// open fills gr from the granted w.
func (w *waiter) open(gr *grant, d Demand, now instant) {
	gr.open(w.session, w.model, d, w.charge, w.seq, now)
	gr.cost, gr.rates, gr.probe = float64(w.cost), 0, w.state == probing
	if g := w.group(); g.taken[w] != nil {
		gr.lease = g.taken[w]
		delete(g.taken, w)
	}
}

func clip32(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

// packed is a Demand in half the space; what exceeds 32 bits saturates.
type packed [4]uint32

func pack(d Demand) packed {
	return packed{clip32(d.Input), clip32(d.Output), clip32(d.MaxOutput), clip32(d.Chars)}
}

func (p packed) unpack() Demand {
	return Demand{Input: int64(p[0]), Output: int64(p[1]), MaxOutput: int64(p[2]), Chars: int64(p[3])}
}

// insert puts w into the FIFO of f: at the head when it was granted before (its
// seq is older than anybody's), else at its place by arrival, which for a
// newcomer is the tail.
func (f *flow) insert(w *waiter) {
	after := f.tail
	if w.seq < f.minSeq() {
		after = nil
	} else {
		for after != nil && after.seq > w.seq {
			after = after.prev
		}
	}
	w.prev = after
	if after != nil {
		w.next, after.next = after.next, w
	} else {
		w.next, f.head = f.head, w
	}
	if w.next != nil {
		w.next.prev = w
	} else {
		f.tail = w
	}
	f.count(w, 1)
}

func (f *flow) minSeq() uint64 {
	if f.head == nil {
		return 0
	}
	return f.head.seq
}

func (f *flow) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		f.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		f.tail = w.prev
	}
	w.next, w.prev = nil, nil
	f.count(w, -1)
}

// count keeps the sums of a session and of everything above it.
func (f *flow) count(w *waiter, sign int64) {
	for ; f != nil; f = f.parent {
		f.queued += int(sign)
		f.sum.add(w.charge, sign)
		if f.parent != nil {
			if f.parent.rungs == nil {
				f.parent.rungs = new(ladder)
			}
			f.parent.rungs.file(f)
		}
	}
}
