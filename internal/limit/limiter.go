package limit

import (
	"context"
	"sync"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// pumpBatch bounds the decisions made in one hold of the lock.
const pumpBatch = 64

// A Limiter lets requests go, one by one. All methods may be called concurrently.
// It owns one timer and no goroutine: whoever changes the state also grants
// what has become possible.
type Limiter struct {
	epoch time.Time

	mu     sync.Mutex
	core   *core
	timer  *time.Timer
	armed  llm.Instant // when timer fires; Never = not set
	closed bool
}

// New returns a Limiter. A Config that Validate refuses is a programmer's
// fault, and New panics.
func New(cfg Config) *Limiter {
	if err := cfg.Validate(); err != nil {
		panic("limit: " + err.Error())
	}
	cfg = cfg.withDefaults()
	l := &Limiter{epoch: time.Now(), armed: llm.Never}
	l.core = newCore(cfg, 0)
	l.core.wake = l.wake
	if !l.core.caps.Bounded() && len(cfg.Models) == 0 {
		cfg.Logger.Info("no limit is configured: everything passes until the upstream names one", "learn_limits", cfg.Learn)
	}
	return l
}

func (l *Limiter) now() llm.Instant { return llm.Instant(time.Since(l.epoch)) }

// Acquire waits until r may go. The error is a *Rejected, the cause of ctx, or
// what r.OnWait returned. The Lease must end by Settle or Release.
func (l *Limiter) Acquire(ctx context.Context, r Request) (*Lease, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	le := &Lease{l: l, every: r.Every, onWait: r.OnWait, retryKey: r.RetryKey}
	l.mu.Lock()
	now := l.now() // with the lock held: the core's time must not go back
	le.maxWait = l.core.patience(&r, now)
	if rejected := l.core.enter(le, &r, now); rejected != nil {
		l.pump(now) // others may have given way
		l.mu.Unlock()
		return nil, rejected.dated()
	}
	if err := l.await(ctx, le, now); err != nil {
		return nil, err
	}
	return le, nil
}

// await blocks until le is decided, ctx ends, or OnWait fails. It is called with the
// lock held, and gives it up. After an error the request has left the limiter.
func (l *Limiter) await(ctx context.Context, le *Lease, since llm.Instant) error {
	var err error
	if le.state == waiting {
		le.wake = make(chan struct{}, 1)
	}
	l.pump(since)
	now := since
	if le.wake != nil {
		l.mu.Unlock()
		err = le.sleep(ctx)
		l.mu.Lock()
		now = l.now()
	}
	le.waited += now.Sub(since)
	le.wake = nil
	switch {
	case err == nil && le.state == granted:
		le.attempt++
	case err == nil:
		le.ended = true
		err = l.core.verdict(le, now).dated()
	default:
		le.ended = true
		if !l.core.cancel(le, now) && le.state == granted { // decided in the same moment
			l.core.release(le, now)
		}
	}
	if err != nil {
		l.pump(now)
	}
	l.mu.Unlock()
	return err
}

// pump decides what can be decided, wakes those concerned and sets the timer.
// It is called with the lock held, and gives it up between batches.
func (l *Limiter) pump(now llm.Instant) {
	if l.core.pending() || len(l.core.done) > 0 {
		l.pumpAll(now)
	}
}

func (l *Limiter) pumpAll(now llm.Instant) {
	c := l.core
	for {
		if !c.pending() && len(c.done) == 0 {
			return
		}
		more := c.pump(now, pumpBatch)
		for i, le := range c.done {
			if le.wake != nil { // else it is looked at without
				le.wake <- struct{}{}
			}
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
func (l *Limiter) arm(now llm.Instant) {
	at := l.core.next()
	if !l.core.pending() || at == llm.Never || l.closed || at >= l.armed {
		return
	}
	l.armed = at
	wait := max(0, at.Sub(now))
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.tick)
		return
	}
	l.timer.Reset(wait)
}

// wake is called by a Source that has more to give.
func (l *Limiter) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.core.roster.ReleaseClients()
		l.pump(l.now())
	}
}

func (l *Limiter) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = llm.Never
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
	cfg.Source = l.core.cfg.Source
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

// RefuseWaiting refuses all who wait now, with Unreachable: nobody waits any longer for
// a provider that cannot be reached. Who comes later is served as ever.
func (l *Limiter) RefuseWaiting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.core.away = l.core.waiting > 0
	l.pump(l.now())
}

// Close is RejectWaiting, closes every Source and stops the timer. Leases may
// still end.
func (l *Limiter) Close() {
	l.RejectWaiting()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.core.closeLanes()
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
	Model         llm.Model
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
