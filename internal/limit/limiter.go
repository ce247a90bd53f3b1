package limit

import (
	"context"
	"sync"
	"time"
)

// pumpBatch bounds the decisions made in one hold of the lock.
const pumpBatch = 64

// A Limiter grants places to requests. All methods may be called concurrently.
// It owns one timer and no goroutine: whoever changes the state also grants
// what has become possible.
type Limiter struct {
	epoch time.Time

	mu     sync.Mutex
	core   *core
	timer  *time.Timer
	armed  instant // when timer fires; never = not set
	closed bool
	leases *Lease // free list
	spare  []*waiter
}

// New returns a Limiter. A Config that Validate refuses is a programmer's
// fault, and New panics.
func New(cfg Config) *Limiter {
	if err := cfg.Validate(); err != nil {
		panic("limit: " + err.Error())
	}
	cfg = cfg.withDefaults()
	l := &Limiter{epoch: time.Now(), armed: never}
	l.core = newCore(cfg, 0)
	if !l.core.global.bounded() && len(cfg.Models) == 0 {
		cfg.Logger.Info("no limit is configured: everything passes until the upstream names one", "learn_limits", cfg.Learn)
	}
	return l
}

func (l *Limiter) now() instant { return instant(time.Since(l.epoch)) }

// Acquire waits for a place. The error is a *Rejected, the cause of ctx, or
// what r.OnWait returned. The Lease must end by Settle or Release.
func (l *Limiter) Acquire(ctx context.Context, r Request) (*Lease, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	l.mu.Lock()
	now := l.now()
	w := l.newWaiter()
	maxWait := l.core.patience(&r, now)
	if rejected := l.core.arrive(w, &r, maxWait, now); rejected != nil {
		l.free(w)
		l.pump(now) // others may have given way
		l.mu.Unlock()
		return nil, rejected.dated()
	}
	le := l.newLease()
	le.every, le.onWait, le.retryKey, le.bytes, le.maxWait = r.Every, r.OnWait, r.RetryKey, r.Bytes, maxWait
	le.demand = r.Demand
	if w.state == granted {
		le.open(w, now)
		l.free(w)
		l.mu.Unlock()
		return le, nil
	}
	if w.wake == nil {
		w.wake = make(chan struct{}, 1)
	}
	l.pump(now)
	l.mu.Unlock()
	if err := le.await(ctx, w, now); err != nil {
		return nil, err
	}
	return le, nil
}

// await blocks until w is decided, ctx ends, or OnWait fails. Unless it
// returns nil, the lease is over.
func (le *Lease) await(ctx context.Context, w *waiter, since instant) error {
	l := le.l
	var beat <-chan time.Time
	if le.every > 0 && le.onWait != nil {
		t := time.NewTicker(le.every)
		defer t.Stop()
		beat = t.C
	}
	var gone error
	for decided := false; !decided; {
		select {
		case <-w.wake:
			decided = true
		case <-ctx.Done():
			gone = context.Cause(ctx)
			decided = true
		case <-beat:
			if gone = le.onWait(); gone != nil {
				decided = true
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if gone != nil && l.core.cancel(w, le.retryKey, now) {
		le.ended = true
		l.free(w)
		l.pump(now)
		return gone
	}
	if gone != nil { // decided in the same moment: its wake-up is on the way
		<-w.wake
	}
	defer l.free(w)
	if w.state == refused {
		le.ended = true
		return l.core.verdict(w, now).dated()
	}
	le.open(w, now)
	le.waited += now.sub(since)
	if gone != nil {
		le.ended = true
		l.core.release(&le.grant, now)
		l.pump(now)
		return gone
	}
	return nil
}

// pump decides what can be decided, wakes those concerned and sets the timer.
// It is called with the lock held, and gives it up between batches.
func (l *Limiter) pump(now instant) {
	c := l.core
	for {
		if c.waiting == 0 && len(c.done) == 0 {
			return
		}
		more := c.pump(now, pumpBatch)
		for i, w := range c.done {
			w.wake <- struct{}{}
			c.done[i] = nil
		}
		c.done = c.done[:0]
		if !more {
			break
		}
		l.mu.Unlock()
		l.mu.Lock()
		now = l.now()
	}
	l.arm(now)
}

// arm sets the timer. One that fires too early is left alone: it will set itself.
func (l *Limiter) arm(now instant) {
	at := l.core.next()
	if l.core.waiting == 0 || at == never || l.closed || at >= l.armed {
		return
	}
	l.armed = at
	wait := max(0, at.sub(now))
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.tick)
		return
	}
	l.timer.Reset(wait)
}

func (l *Limiter) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = never
	l.pump(l.now())
}

// Reconfigure applies cfg at once. Levels are scaled to the new limits, what
// was learned stays, and the queue is kept. A bad cfg changes nothing.
func (l *Limiter) Reconfigure(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.core.reconfigure(cfg.withDefaults(), now)
	l.pump(now)
	return nil
}

// Drain refuses newcomers from now on; the queue is still served.
func (l *Limiter) Drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.core.draining = true
}

// RejectWaiting refuses all who wait, and all who come back to wait, with
// Draining. It implies Drain.
func (l *Limiter) RejectWaiting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.core.draining, l.core.rejecting = true, true
	l.pump(l.now())
}

// Close is RejectWaiting, and stops the timer. Leases may still end.
func (l *Limiter) Close() {
	l.RejectWaiting()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
}

// Waiting is the number of requests in the queue.
func (l *Limiter) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.core.waiting
}

// InFlight is the number of leases that have not ended.
func (l *Limiter) InFlight() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.core.inflight
}

// Forecast tells what r would meet if it came now. Nothing is reserved.
func (l *Limiter) Forecast(r Request) Forecast {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.core.forecast(&r, l.now())
}

// Recent is what the ledger knows of a model's use: of the last minute, and of
// today.
type Recent struct {
	Model         string
	Requests      int64
	Input, Output int64
	RequestsDay   int64
	TokensDay     int64
}

// Prime tells a Limiter that has just been made what an earlier one has used,
// so that a restart, or a loop of crashes, does not start from a full limit
// each time. It only ever lowers levels.
func (l *Limiter) Prime(recent ...Recent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, r := range recent {
		l.core.prime(r, now)
	}
}

// newWaiter and free keep waiters, with their channels, for the next request.
func (l *Limiter) newWaiter() *waiter {
	if n := len(l.spare); n > 0 {
		w := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return w
	}
	return new(waiter)
}

func (l *Limiter) free(w *waiter) {
	if len(l.spare) < 1024 {
		*w = waiter{wake: w.wake}
		l.spare = append(l.spare, w)
	}
}

func (l *Limiter) newLease() *Lease {
	if le := l.leases; le != nil {
		l.leases = le.next
		*le = Lease{l: l}
		return le
	}
	return &Lease{l: l}
}
