package queue

import "github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"

// A Waiter is one request in a queue: what it is expected to use, wherever it will
// be sent, and how long it may wait. Whoever queues it sets the exported fields
// first, and leaves Deadline, Seq and Load alone while it waits.
type Waiter struct {
	Session  *Flow
	Owner    any      // whoever queued it; the queue does not look at it
	Load     llm.Load // of this one request
	Bytes    int64    // of its body
	Seq      uint64   // order of arrival; a request that comes back keeps it
	QueuedAt llm.Instant
	Deadline llm.Instant

	counted              bool    // see Roster.Count
	early, earlyClient   bool    // see Queue.Small
	paying               bool    // see Queue.Prepay
	next, prev           *Waiter // in the session's FIFO
	alarmNext, alarmPrev *Waiter // in the wheel's slot
}

// insert puts w into the FIFO of f: at the head when it was granted before (its
// Seq is older than anybody's), else at its place by arrival, which for a
// newcomer is the tail.
func (f *Flow) insert(w *Waiter) {
	after := f.tail
	if f.head != nil && w.Seq < f.head.Seq {
		after = nil
	} else {
		for after != nil && after.Seq > w.Seq {
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

func (f *Flow) remove(w *Waiter) {
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
func (f *Flow) count(w *Waiter, sign int64) {
	for ; f != nil; f = f.Parent {
		f.Sum.Add(w.Load, sign)
		if p := f.Parent; p != nil {
			if p.longer == nil {
				p.longer = new(lengths)
			}
			p.longer.file(f)
		}
	}
}
