package budget

import (
	"context"
	"fmt"
	"time"
)

// loadTimeout bounds one reading of the store.
const loadTimeout = 5 * time.Second

// A reading of the store is under way until done is closed; then err is set.
type reading struct {
	done chan struct{}
	err  error
}

// Reread has the sums of these scopes, or of all without any, read again when their budgets are next drawn on: call
// it when what a use costs has changed, or when something was used without a Reservation.
func (b *Book) Reread(scopes ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, scope := range scopes {
		if e := b.accounts[scope]; e != nil {
			e.reread = true
		}
	}
	if len(scopes) > 0 {
		return
	}
	for _, e := range b.accounts {
		e.reread = true
	}
}

// load makes sure that the budget's account is that of the present period, and no older than
// Config.Refresh. A first load is waited for; a refresh runs beside the requests.
func (b *Book) load(ctx context.Context, l *Limit, now time.Time) error {
	for {
		b.mu.Lock()
		e := b.accounts[l.Scope]
		if e == nil {
			e = &entry{scope: l.Scope}
			e.place = b.recent.PushBack(e)
			b.accounts[l.Scope] = e
			b.forget(e)
		}
		start := l.Per.Start(now)
		current := e.start.Equal(start)
		fresh := b.cfg.Fresh == nil || b.cfg.Fresh()
		stale := fresh && (e.reread || b.cfg.Refresh > 0 && now.Sub(e.loaded) >= b.cfg.Refresh)
		if current && (!stale || e.loading != nil) {
			b.mu.Unlock()
			return nil
		}
		one := e.loading
		if one == nil {
			one = &reading{done: make(chan struct{})}
			e.loading, e.loaded, e.since, e.reread = one, now, Amount{}, !fresh
			// The reading goes on for the others when this client leaves.
			b.readings.Go(func() { b.read(context.WithoutCancel(ctx), e, one, *l, start) })
		}
		b.mu.Unlock()
		if current {
			return nil
		}
		select {
		case <-one.done:
			if one.err != nil {
				return one.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// read loads an account. What was settled while it read may be in what it read or not, and is
// counted on top: until the next reading, which is due at once, the sum may be too large, never too small.
func (b *Book) read(ctx context.Context, e *entry, one *reading, l Limit, start time.Time) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	used, err := b.cfg.Load(ctx, l, start)
	b.mu.Lock()
	defer b.mu.Unlock()
	e.loading = nil
	defer close(one.done)
	if err != nil {
		one.err = fmt.Errorf("%w: %w", ErrUnknown, err) // a refresh that failed is tried again when it is due
		return
	}
	if !e.start.Equal(start) { // a new period owes nothing to the one before
		e.account = account{start: start}
		e.since = Amount{}
	}
	if e.since != (Amount{}) {
		e.reread = true
	}
	e.used = used.Plus(e.since)
	e.ring()
}

// forget drops the accounts used longest ago, but none that is in use, nor the one just made.
func (b *Book) forget(made *entry) {
	place := b.recent.Front()
	for len(b.accounts) > b.cfg.MaxAccounts && place != nil {
		next := place.Next()
		if e := place.Value.(*entry); e.held == 0 && len(e.waiting) == 0 && e.loading == nil && e != made {
			b.recent.Remove(place)
			delete(b.accounts, e.scope)
		}
		place = next
	}
}
