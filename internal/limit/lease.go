package limit

import (
	"context"
	"errors"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// ErrEnded is returned by Throttled and Retry on a lease that has ended.
var ErrEnded = errors.New("limit: lease has ended")

// A Lease is a request in the limiter, and from Acquire's return a granted one. It
// must end by Settle, Release or Return; every further ending does nothing, so that
//
//	defer lease.Release()
//
// may stand above a Settle. One goroutine at a time may use a Lease, and it must not
// be copied.
type Lease struct {
	l      *Limiter
	model  *model
	name   llm.Model    // as it was asked for; the model's, unless that is a crowd
	whole  llm.Load     // if it looks impossible: queued has one request
	queued queue.Waiter // while it waits; its session as long as it lives
	held   *held        // while it is served
	due    *due         // it is what a control call owes, and nobody's
	state  state
	reason Reason        // why it was refused
	wake   chan struct{} // while its caller sleeps
	ended  bool

	maxWait  time.Duration // over all attempts
	every    time.Duration
	onWait   func() error
	retryKey uint64

	waited  time.Duration
	attempt int
	refused int     // attempts that the provider turned away
	fluid   float64 // seconds to wait, as foretold on arrival
	bias    float64 // by which the forecast exceeded that
}

type state uint8

const (
	waiting state = iota
	refused
	granted
)

// sleep blocks until the lease is decided, ctx ends, or onWait fails.
func (le *Lease) sleep(ctx context.Context) error {
	var beat <-chan time.Time
	if le.every > 0 && le.onWait != nil {
		t := time.NewTicker(le.every)
		defer t.Stop()
		beat = t.C
	}
	for {
		select {
		case <-le.wake:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-beat:
			if err := le.onWait(); err != nil {
				return err
			}
		}
	}
}

// event tells the core what came of the request, and serves whom that lets go. On an
// ended lease it does nothing.
func (le *Lease) event(tell func(c *core, now llm.Instant)) {
	if le.l == nil || le.ended { // most are released in vain: see Lease
		return
	}
	le.l.mu.Lock()
	defer le.l.mu.Unlock()
	now := le.l.now()
	tell(le.l.core, now)
	le.l.pump(now)
}

// Waited is the time spent in the queue so far, over all attempts.
func (le *Lease) Waited() time.Duration { return le.waited }

// Attempt is 1 after the first grant, 2 after the first Throttled, Retry,
// Unavailable or Unsent, and so on.
func (le *Lease) Attempt() int { return le.attempt }

// Sent must be called just before the request's bytes leave: from then on its
// charge counts as booked by the provider.
func (le *Lease) Sent() {
	if le.l == nil || le.ended {
		return
	}
	le.l.mu.Lock()
	defer le.l.mu.Unlock()
	le.l.core.sent(le, le.l.now())
}

// Observe takes in what the headers of an answer say about the provider's
// limits. Call it when they arrive, and before Started; of any status, but not
// for an answer that turns the request away (see Throttled and Unavailable).
func (le *Lease) Observe(s llm.Signal) {
	le.event(func(c *core, now llm.Instant) { c.observe(le, &s, now) })
}

// Started tells that the headers of an answer with status 2xx have arrived: the
// model exists, and gets limits of its own. Settle implies it.
func (le *Lease) Started() {
	le.event(func(c *core, now llm.Instant) { c.started(le, now) })
}

// Settle ends the lease with the exact usage of the answer. Buckets are
// corrected as the provider's are, the session's virtual time always.
func (le *Lease) Settle(u llm.Usage) {
	le.event(func(c *core, now llm.Instant) {
		c.settle(le, u, now)
		le.ended = true
	})
}

// Release ends the lease without usage. When Sent was never called, everything
// that was charged is given back; otherwise the charge stays.
func (le *Lease) Release() {
	le.event(func(c *core, now llm.Instant) {
		c.release(le, now)
		le.ended = true
	})
}

// Return ends the lease of a request for which the provider did nothing, although it was
// sent, such as a handshake that it refused: everything that was charged is given back.
func (le *Lease) Return() {
	le.event(func(c *core, now llm.Instant) {
		c.returned(le, now)
		le.ended = true
	})
}

// Throttled takes in a 429 that waiting can cure, s with its headers and text. The
// model's lane pauses as told, the request goes back to the head of its session
// and blocks until it is granted again. On error (a *Rejected when attempts or
// the time to wait are used up, else as Acquire) the lease has ended.
func (le *Lease) Throttled(ctx context.Context, s llm.Signal) error {
	return le.again(ctx, 1, func(c *core, now llm.Instant) (llm.Instant, bool) { return c.throttled(le, &s, now) })
}

// Limited is Throttled for a request that is not sent again, because its body is gone
// or a part of its answer is out: the model's lane pauses as told all the same.
func (le *Lease) Limited(s llm.Signal) {
	le.event(func(c *core, now llm.Instant) { c.throttled(le, &s, now) })
}

// TooLarge takes in a refusal of the request for its size alone: what it was charged in
// tokens comes back. The lease has to end.
func (le *Lease) TooLarge(s llm.Signal) {
	le.event(func(c *core, now llm.Instant) { c.tooLarge(le, &s, now) })
}

// Puzzled takes in a 429 whose words tell neither that waiting cures it nor that it
// does not. It reports whether there were five in a row by now, spread over 75 seconds,
// without an answer to any request of the model between: then the client is to have
// it. Else Throttled has to follow.
func (le *Lease) Puzzled() (hopeless bool) {
	le.event(func(_ *core, now llm.Instant) { hopeless = le.held.ticket.Puzzled(now) })
	return hopeless
}

// Quote notes what the provider said when it turned the request away. It is quoted to
// those whom that keeps from being served.
func (le *Lease) Quote(said string) {
	le.event(func(_ *core, now llm.Instant) { le.held.ticket.Lane().Quote(now, said) })
}

// Retry takes back a request that the provider answered without processing it,
// for a cause that is cured already. Its charge is returned, it goes back to the
// head of its session, and blocks until it is granted again. Errors are those of
// Throttled.
func (le *Lease) Retry(ctx context.Context) error {
	return le.again(ctx, 1, func(c *core, now llm.Instant) (llm.Instant, bool) {
		c.takeBack(le, now)
		return now, false
	})
}

// Unavailable is Retry for a request that the provider turned away because it is
// overloaded or down, such as with a 503 and a hint: it is granted again after
// that at the soonest, and the provider's others wait when it turns away most.
func (le *Lease) Unavailable(ctx context.Context, after time.Duration) error {
	return le.again(ctx, 1, func(c *core, now llm.Instant) (llm.Instant, bool) { return c.unavailable(le, after, now) })
}

// Unsent is Unavailable for a request that did not reach the provider, such as
// over a refused connection. It does not count as an attempt that was turned
// away: only the time to wait bounds it.
func (le *Lease) Unsent(ctx context.Context, after time.Duration) error {
	return le.again(ctx, 0, func(c *core, now llm.Instant) (llm.Instant, bool) { return c.unavailable(le, after, now) })
}

// Lost ends the lease of a request that did not reach the provider, and is not tried
// again. Its charge is returned. With pause, the provider's others wait as after Unsent.
func (le *Lease) Lost(pause bool) {
	le.event(func(c *core, now llm.Instant) {
		if pause {
			c.unavailable(le, 0, now)
		} else {
			c.takeBack(le, now)
		}
		c.correct(le, le.held.cost, le.held.common)
		c.end(le, now)
		le.ended = true
	})
}

// again takes in a refusal that counts so many attempts, unless it met a probe,
// requeues the request and waits.
func (le *Lease) again(ctx context.Context, attempts int, refuse func(c *core, now llm.Instant) (notBefore llm.Instant, probe bool)) error {
	if le.l == nil || le.ended {
		return ErrEnded
	}
	l := le.l
	l.mu.Lock()
	now := l.now()
	notBefore, probe := refuse(l.core, now)
	if !probe {
		le.refused += attempts
	}
	rejected := l.core.exhausted(le, now)
	if rejected == nil {
		rejected = l.core.requeue(le, le.maxWait-le.waited, notBefore, now)
	}
	if rejected != nil {
		le.ended = true
		l.pump(now)
		l.mu.Unlock()
		return rejected
	}
	return l.await(ctx, le, now)
}
