package limit

import (
	"context"
	"time"
)

// A Lease is a granted place. It must end by Settle or Release.
type Lease struct {
	l       *Limiter
	attempt int
	ended   bool
}

func (le *Lease) Waited() time.Duration { return 0 }
func (le *Lease) Attempt() int          { return le.attempt }
func (le *Lease) Sent()                 {}
func (le *Lease) Observe(s Signal)      {}
func (le *Lease) Started()              {}
func (le *Lease) Throttled(ctx context.Context, s Signal) error {
	le.attempt++
	return context.Cause(ctx)
}
func (le *Lease) Retry(ctx context.Context, after time.Duration) error {
	le.attempt++
	return context.Cause(ctx)
}
func (le *Lease) Settle(u Usage) { le.Release() }
func (le *Lease) Release() {
	le.l.mu.Lock()
	defer le.l.mu.Unlock()
	if !le.ended {
		le.ended = true
		le.l.inflight--
	}
}
