package limit

import (
	"context"
	"errors"
	"time"
)

// ErrEnded is returned by Throttled and Retry on a lease that has ended.
var ErrEnded = errors.New("limit: lease has ended")

// A Lease is a granted place. It must end by Settle or Release; every further
// ending does nothing, so that
//
//	defer lease.Release()
//
// may stand above a Settle. Nothing that is asked of an ended Lease reaches
// another request. One goroutine at a time may use a Lease.
type Lease struct {
	place   *place // nil once it has ended
	number  uint64 // of the place's tenant that this lease is
	attempt int
	refused int // attempts that the provider turned away
	waited  time.Duration
}

// A place is the state of a request from its grant to its end. Places are used
// again, and a Lease is a numbered ticket to one: a small value, which the
// compiler keeps on the caller's stack where it can. So the pool costs no
// allocation, and a lease that outlives its place can do no harm.
type place struct {
	l      *Limiter
	tenant uint64 // changes when a lease ends
	grant  grant
	stay   stay
	next   *place // in the free list
}

// A stay is what must be known of a request each time it waits.
type stay struct {
	maxWait  time.Duration // over all attempts
	every    time.Duration
	onWait   func() error
	retryKey uint64
	bytes    int64
}

// enter locks the limiter for as long as the lease's place is its own; nil, and
// no lock, when the lease has ended.
func (le *Lease) enter() *place {
	p := le.place
	if p == nil {
		return nil
	}
	p.l.mu.Lock()
	if p.tenant != le.number {
		p.l.mu.Unlock()
		le.place = nil
		return nil
	}
	return p
}

// end makes the place free for others. It is called with the lock held.
func (le *Lease) end() {
	p := le.place
	le.place = nil
	p.tenant++
	if p.stay.onWait != nil {
		p.stay.onWait = nil
	}
	p.next, p.l.places = p.l.places, p
}

// Waited is the time spent in the queue so far, over all attempts.
func (le *Lease) Waited() time.Duration { return le.waited }

// Attempt is 1 for the first place granted, 2 after the first Throttled, Retry,
// Unavailable or Unsent, and so on.
func (le *Lease) Attempt() int { return le.attempt }

// Sent must be called just before the request's bytes leave: from then on its
// charge counts as booked by the provider.
func (le *Lease) Sent() {
	p := le.enter()
	if p == nil {
		return
	}
	defer p.l.mu.Unlock()
	p.l.core.sent(&p.grant, p.l.now())
}

// Observe takes in what the headers of an answer say about the provider's
// limits. Call it when they arrive, and before Started; of any status, but not
// for an answer that turns the request away (see Throttled and Unavailable).
func (le *Lease) Observe(s Signal) {
	p := le.enter()
	if p == nil {
		return
	}
	defer p.l.mu.Unlock()
	now := p.l.now()
	p.l.core.observe(&p.grant, &s, now)
	p.l.pump(now)
}

// Started tells that the headers of an answer with status 2xx have arrived: the
// model exists, and gets a group of its own. Settle implies it.
func (le *Lease) Started() {
	p := le.enter()
	if p == nil {
		return
	}
	defer p.l.mu.Unlock()
	now := p.l.now()
	p.l.core.started(&p.grant, now)
	p.l.pump(now)
}

// Throttled takes in a 429 that waiting can cure, s with its headers and text.
// The group pauses as told, the request goes back to the head of its session
// and blocks until it is granted again. On error (a *Rejected when attempts or
// the time to wait are used up, else as Acquire) the lease has ended.
func (le *Lease) Throttled(ctx context.Context, s Signal) error {
	p := le.enter()
	if p == nil {
		return ErrEnded
	}
	now := p.l.now()
	notBefore, probe := p.l.core.throttled(&p.grant, &s, now)
	if !probe {
		le.refused++
	}
	return le.again(ctx, notBefore, now)
}

// Retry takes back a request that the provider answered without processing it,
// for a cause that is cured already. Its charge is returned, it goes back to the
// head of its session, and blocks until it is granted again. Errors are those of
// Throttled.
func (le *Lease) Retry(ctx context.Context) error {
	p := le.enter()
	if p == nil {
		return ErrEnded
	}
	now := p.l.now()
	p.l.core.takeBack(&p.grant, now)
	le.refused++
	return le.again(ctx, now, now)
}

// Unavailable is Retry for a request that the provider turned away because it is
// overloaded or down, such as with a 503 and a hint: it is granted again after
// that at the soonest, and the provider's others wait when it turns away most.
func (le *Lease) Unavailable(ctx context.Context, after time.Duration) error {
	return le.back(ctx, after, 1)
}

// Unsent is Unavailable for a request that did not reach the provider, such as
// over a refused connection. It does not count as an attempt that was turned
// away: only the time to wait bounds it.
func (le *Lease) Unsent(ctx context.Context, after time.Duration) error {
	return le.back(ctx, after, 0)
}

func (le *Lease) back(ctx context.Context, after time.Duration, refused int) error {
	p := le.enter()
	if p == nil {
		return ErrEnded
	}
	now := p.l.now()
	notBefore, probe := p.l.core.unavailable(&p.grant, after, now)
	if !probe {
		le.refused += refused
	}
	return le.again(ctx, notBefore, now)
}

// again requeues the request and waits. It is called with the lock held, and
// gives it up.
func (le *Lease) again(ctx context.Context, notBefore, now instant) error {
	p := le.place
	l := p.l
	w := l.newWaiter()
	rejected := l.core.exhausted(&p.grant, le.refused, now)
	if rejected == nil {
		rejected = l.core.requeue(&p.grant, w, p.stay.maxWait-le.waited, p.stay.bytes, notBefore, now)
	}
	if rejected != nil {
		le.end()
		l.free(w)
		l.pump(now)
		l.mu.Unlock()
		return rejected
	}
	l.pump(now)
	l.mu.Unlock()
	since := now
	now, err := l.await(ctx, w, &p.stay)
	le.waited += now.sub(since)
	if err != nil {
		le.end()
	} else {
		w.open(&p.grant, p.grant.demand, now)
		l.free(w)
		le.attempt++
	}
	l.mu.Unlock()
	return err
}

// Settle ends the lease with the exact usage of the answer. Buckets are
// corrected as the provider's are, the session's virtual time always.
func (le *Lease) Settle(u Usage) {
	p := le.enter()
	if p == nil {
		return
	}
	now := p.l.now()
	p.l.core.settle(&p.grant, u, now)
	le.end()
	p.l.pump(now)
	p.l.mu.Unlock()
}

// Release ends the lease without usage. When Sent was never called, everything
// that was charged is given back; otherwise the charge stays.
func (le *Lease) Release() {
	if le.place != nil { // it is called in vain by most: see Lease
		le.release()
	}
}

func (le *Lease) release() {
	p := le.enter()
	if p == nil {
		return
	}
	now := p.l.now()
	p.l.core.release(&p.grant, now)
	le.end()
	p.l.pump(now)
	p.l.mu.Unlock()
}
