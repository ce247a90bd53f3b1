package limit

import (
	"context"
	"sync"
	"time"
)

// A Limiter grants places to requests. All methods may be called concurrently.
type Limiter struct {
	mu       sync.Mutex
	cfg      Config
	inflight int
	draining bool
}

// Recent is what the ledger says a model used lately: in the last minute, and today.
type Recent struct {
	Model                 string
	Requests              int64
	Input, Output         int64
	RequestsDay, TokensDay int64
}

// New returns a Limiter. A Config that Validate refuses is a programmer's
// fault, and New panics.
func New(cfg Config) *Limiter {
	if err := cfg.Validate(); err != nil {
		panic("limit: " + err.Error())
	}
	return &Limiter{cfg: cfg.withDefaults()}
}

// Acquire waits for a place. The error is a *Rejected, the cause of ctx, or what OnWait returned.
func (l *Limiter) Acquire(ctx context.Context, r Request) (*Lease, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		return nil, &Rejected{Reason: Draining, RetryAfter: time.Second}
	}
	l.inflight++
	return &Lease{l: l, attempt: 1}, nil
}

func (l *Limiter) Reconfigure(cfg Config) error { return cfg.Validate() }
func (l *Limiter) Drain()                       { l.mu.Lock(); l.draining = true; l.mu.Unlock() }
func (l *Limiter) RejectWaiting()               { l.Drain() }
func (l *Limiter) Waiting() int                 { return 0 }
func (l *Limiter) InFlight() int                { l.mu.Lock(); defer l.mu.Unlock(); return l.inflight }
func (l *Limiter) Snapshot() Snapshot           { return Snapshot{InFlight: l.InFlight()} }
func (l *Limiter) Forecast(r Request) Forecast  { return Forecast{} }
func (l *Limiter) Prime(recent ...Recent)       {}
func (l *Limiter) Close()                       { l.Drain() }
