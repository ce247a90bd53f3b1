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
	places *place // free list
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
	l.core.wake = l.wake
	if !l.core.global.bounded() && len(cfg.Models) == 0 {
		cfg.Logger.Info("no limit is configured: everything passes until the upstream names one", "learn_limits", cfg.Learn)
	}
	return l
}

func (l *Limiter) now() instant { return instant(time.Since(l.epoch)) }

// Acquire waits for a place. The error is a *Rejected, the cause of ctx, or
// what r.OnWait returned. The Lease must end by Settle or Release.
func (l *Limiter) Acquire(ctx context.Context, r Request) (*Lease, error) {
	// Small enough to be inlined, so that a Lease which stays in its function
	// stays on its stack.
	le, err := l.acquire(ctx, &r)
	if err != nil {
		return nil, err
	}
	return &le, nil
}

func (l *Limiter) acquire(ctx context.Context, r *Request) (Lease, error) {
	if ctx.Err() != nil {
		return Lease{}, context.Cause(ctx)
	}
	l.mu.Lock()
	now := l.now() // with the lock held: the core's time must not go back
	p := l.newPlace()
	if l.core.seat(&p.grant, r, now) {
		le := l.lease(p, r, l.core.patience(r, now))
		l.mu.Unlock()
		return le, nil
	}
	p.next, l.places = l.places, p // a waiter has none: most of the memory of a full queue would be these
	since, maxWait := now, l.core.patience(r, now)
	w := l.newWaiter()
	if rejected := l.core.arrive(w, r, maxWait, now); rejected != nil {
		l.free(w)
		l.pump(now) // others may have given way
		l.mu.Unlock()
		return Lease{}, rejected.dated()
	}
	l.pump(now)
	l.mu.Unlock()
	now, err := l.await(ctx, w, &stay{maxWait: maxWait, every: r.Every, onWait: r.OnWait, retryKey: r.RetryKey})
	if err != nil {
		l.mu.Unlock()
		return Lease{}, err
	}
	p = l.newPlace()
	w.open(&p.grant, r.Demand, now)
	l.free(w)
	le := l.lease(p, r, maxWait)
	le.waited = now.sub(since)
	l.mu.Unlock()
	return le, nil
}

// lease hands p out.
func (l *Limiter) lease(p *place, r *Request, maxWait time.Duration) Lease {
	p.stay.maxWait, p.stay.every, p.stay.retryKey, p.stay.bytes = maxWait, r.Every, r.RetryKey, r.Bytes
	if r.OnWait != nil {
		p.stay.onWait = r.OnWait
	}
	return Lease{place: p, number: p.tenant, attempt: 1}
}

// await blocks until w is decided, ctx ends, or OnWait fails. It returns with
// the lock held; after an error the request has left the limiter, and w with it.
func (l *Limiter) await(ctx context.Context, w *waiter, s *stay) (now instant, err error) {
	var beat <-chan time.Time
	if s.every > 0 && s.onWait != nil {
		t := time.NewTicker(s.every)
		defer t.Stop()
		beat = t.C
	}
	for decided := false; !decided; {
		select {
		case <-w.wake:
			decided = true
		case <-ctx.Done():
			err = context.Cause(ctx)
			decided = true
		case <-beat:
			err = s.onWait()
			decided = err != nil
		}
	}
	l.mu.Lock()
	now = l.now()
	switch {
	case err == nil && w.state.admitted():
		return now, nil
	case err == nil:
		err = l.core.verdict(w, now).dated()
	case !l.core.cancel(w, s.retryKey, now):
		<-w.wake // decided in the same moment: its wake-up is sent already
		if w.state.admitted() {
			var gr grant
			w.open(&gr, w.demand.unpack(), now)
			l.core.release(&gr, now)
		}
	}
	l.free(w)
	l.pump(now)
	return now, err
}

// pump decides what can be decided, wakes those concerned and sets the timer.
// It is called with the lock held, and gives it up between batches.
func (l *Limiter) pump(now instant) {
	if l.core.waiting > 0 || len(l.core.done) > 0 {
		l.pumpAll(now)
	}
}

func (l *Limiter) pumpAll(now instant) {
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

// wake is called by a Budget that has more to give.
func (l *Limiter) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.pump(l.now())
	}
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
	cfg.Shared = l.core.cfg.Shared
	l.core.reconfigure(cfg.withDefaults(), now)
	l.pump(now)
	return nil
}

// RejectWaiting refuses all who wait, and all who come to wait from now on,
// with Draining.
func (l *Limiter) RejectWaiting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.core.rejecting = true
	l.pump(l.now())
}

// Close is RejectWaiting, closes every Budget and stops the timer. Leases may
// still end.
func (l *Limiter) Close() {
	l.RejectWaiting()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.core.closeShared()
	}
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
	return &waiter{wake: make(chan struct{}, 1)}
}

func (l *Limiter) free(w *waiter) {
	if len(l.spare) < 1024 {
		*w = waiter{wake: w.wake}
		l.spare = append(l.spare, w)
	}
}

func (l *Limiter) newPlace() *place {
	p := l.places
	if p == nil {
		return &place{l: l}
	}
	l.places = p.next
	return p
}
