package limit

import (
	"context"
	"errors"
	"time"
)

// ErrEnded is returned by Throttled and Retry on a lease that has ended.
var ErrEnded = errors.New("limit: lease has ended")

// A Lease is a granted place. It must end by Settle or Release; the second
// ending does nothing, so that
//
//	defer lease.Release()
//
// may stand above a Settle. Leases are reused after their second ending: two
// are the most that a lease may be given, and nothing may be asked of it
// afterwards. One goroutine at a time may use a Lease.
type Lease struct {
	l      *Limiter
	grant  grant
	demand Demand

	attempt  int
	waited   time.Duration
	maxWait  time.Duration
	every    time.Duration
	onWait   func() error
	retryKey uint64
	bytes    int64
	ended    bool
	pooled   bool
	next     *Lease // in the free list
}

func (le *Lease) open(w *waiter, now instant) {
	w.open(&le.grant, le.demand, now)
	le.attempt++
}

// Waited is the time spent in the queue so far, over all attempts.
func (le *Lease) Waited() time.Duration { return le.waited }

// Attempt is 1 for the first place granted, 2 after the first Throttled or
// Retry, and so on.
func (le *Lease) Attempt() int { return le.attempt }

// Sent must be called just before the request's bytes leave: from then on its
// charge counts as booked by the provider.
func (le *Lease) Sent() {
	le.l.mu.Lock()
	defer le.l.mu.Unlock()
	if !le.ended {
		le.l.core.sent(&le.grant, le.l.now())
	}
}

// Observe takes in what the headers of an answer, of any status, say about the
// provider's limits. Call it when they arrive, and before Started.
func (le *Lease) Observe(s Signal) {
	le.l.mu.Lock()
	defer le.l.mu.Unlock()
	if le.ended {
		return
	}
	now := le.l.now()
	le.l.core.observe(&le.grant, &s, now)
	le.l.pump(now)
}

// Started tells that the headers of an answer with status 2xx have arrived: the
// model exists, and gets a group of its own. Settle implies it.
func (le *Lease) Started() {
	le.l.mu.Lock()
	defer le.l.mu.Unlock()
	if le.ended {
		return
	}
	now := le.l.now()
	le.l.core.started(&le.grant, now)
	le.l.pump(now)
}

// Throttled takes in a 429 that waiting can cure, s with its headers and text.
// The group pauses as told, the request goes back to the head of its session
// and blocks until it is granted again. On error (a *Rejected when attempts or
// the time to wait are used up, else as Acquire) the lease has ended.
func (le *Lease) Throttled(ctx context.Context, s Signal) error {
	l := le.l
	l.mu.Lock()
	if le.ended {
		l.mu.Unlock()
		return ErrEnded
	}
	now := l.now()
	l.core.throttled(&le.grant, &s, now)
	return le.again(ctx, now, now)
}

// Retry takes back a request of which nothing was processed, such as a refused
// connection or a 503 with a hint. Its charge is returned, it goes back to the
// head of its session, and blocks until it is granted again, after at the
// soonest. Errors are those of Throttled.
func (le *Lease) Retry(ctx context.Context, after time.Duration) error {
	l := le.l
	l.mu.Lock()
	if le.ended {
		l.mu.Unlock()
		return ErrEnded
	}
	now := l.now()
	l.core.takeBack(&le.grant, now)
	return le.again(ctx, now.add(max(0, after)), now)
}

// again requeues the request and waits. It is called with the lock held, and
// gives it up.
func (le *Lease) again(ctx context.Context, notBefore, now instant) error {
	l := le.l
	w := l.newWaiter()
	if w.wake == nil {
		w.wake = make(chan struct{}, 1)
	}
	rejected := l.core.exhausted(&le.grant, le.attempt, now)
	if rejected == nil {
		rejected = l.core.requeue(&le.grant, w, le.maxWait-le.waited, le.bytes, notBefore, now)
	}
	if rejected != nil {
		le.ended = true
		l.free(w)
	}
	l.pump(now)
	l.mu.Unlock()
	if rejected != nil {
		return rejected
	}
	return le.await(ctx, w, now)
}

// Settle ends the lease with the exact usage of the answer. Buckets are
// corrected as the provider's are, the session's virtual time always.
func (le *Lease) Settle(u Usage) {
	l := le.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if le.ended {
		l.recycle(le)
		return
	}
	le.ended = true
	now := l.now()
	l.core.settle(&le.grant, u, now)
	l.pump(now)
}

// Release ends the lease without usage. When Sent was never called, everything
// that was charged is given back; otherwise the charge stays.
func (le *Lease) Release() {
	l := le.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if le.ended {
		l.recycle(le)
		return
	}
	le.ended = true
	now := l.now()
	l.core.release(&le.grant, now)
	l.pump(now)
}

func (l *Limiter) recycle(le *Lease) {
	if le.pooled {
		return
	}
	le.pooled = true
	le.onWait = nil
	le.grant = grant{}
	le.next, l.leases = l.leases, le
}
