package ledger

import (
	"context"
	"fmt"
	"sync"
)

const (
	maxBatch   = 500  // records per transaction; longer statements cost more per row
	maxPending = 4096 // records waiting for the committer, those it works on included
)

// pending is one record on its way to the store.
type pending struct {
	record Record
	noted  bool       // a note of it was written
	done   chan error // buffered; nil when nobody waits

	placeless bool // it holds no place in the queue: from a journal, or done at once
}

func (p *pending) finish(err error) {
	if p.done != nil {
		p.done <- err
	}
}

// control is an act that the committer does between two batches.
type control struct {
	do   func(context.Context) error
	done chan error // buffered; nil when nobody waits
}

// queue is where records wait for the committer, in order of arrival. It is a slice
// under a mutex and not a channel, because the committer puts a batch back when
// the store is down, and because senders must be able to meet a closed queue.
type queue struct {
	slots chan struct{} // one per record accepted and not finished: the bound
	wake  chan struct{}
	shut  chan struct{}

	mu       sync.Mutex
	records  []*pending
	controls []*control
	closed   bool
}

func (q *queue) init() {
	q.slots = make(chan struct{}, maxPending)
	q.wake = make(chan struct{}, 1)
	q.shut = make(chan struct{})
}

// ring wakes the committer; it never blocks.
func (q *queue) ring() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// put accepts p, waiting for room until ctx ends.
func (q *queue) put(ctx context.Context, p *pending) error {
	select {
	case q.slots <- struct{}{}: // first, for an ended ctx must not lose a record that has room
	default:
		select {
		case q.slots <- struct{}{}:
		case <-q.shut:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: queue full: %w", ErrUnavailable, context.Cause(ctx))
		}
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		<-q.slots
		return ErrClosed
	}
	q.records = append(q.records, p)
	q.mu.Unlock()
	q.ring()
	return nil
}

// control accepts c unless the queue is closed.
func (q *queue) control(c *control) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.controls = append(q.controls, c)
	q.ring()
	return true
}

// take removes up to n records. They still count against the bound until settle.
func (q *queue) take(n int) []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.records))
	taken := q.records[:n:n]
	q.records = q.records[n:]
	if len(q.records) == 0 {
		q.records = nil
	}
	return taken
}

// putBack returns records that could not be stored to the head.
func (q *queue) putBack(taken []*pending) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.records = append(taken, q.records...)
}

// giveUp lets nobody wait any longer for the records in the queue. They stay in it.
func (q *queue) giveUp(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.records {
		p.finish(err)
		p.done = nil
	}
}

// settle finishes records with the same result and gives their places back.
func (q *queue) settle(taken []*pending, err error) {
	for _, p := range taken {
		p.finish(err)
		if !p.placeless {
			<-q.slots
		}
	}
}

func (q *queue) takeControls() []*control {
	q.mu.Lock()
	defer q.mu.Unlock()
	taken := q.controls
	q.controls = nil
	return taken
}

// close refuses everything from here on; false when it was closed before.
func (q *queue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.closed = true
	close(q.shut)
	q.ring()
	return true
}

// drained tells whether the queue is closed, and empty for good.
func (q *queue) drained() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && len(q.records) == 0 && len(q.controls) == 0
}

// waiting is the number of records accepted and not finished.
func (q *queue) waiting() int { return len(q.slots) }
