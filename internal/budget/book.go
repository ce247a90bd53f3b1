package budget

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrClosed is returned to whoever waits when the Book is closed, and after it.
var ErrClosed = errors.New("budget: closed")

// ErrUnknown says that what was used so far cannot be read; it wraps the reason.
var ErrUnknown = errors.New("budget: use so far unknown")

// An ExceededError refuses a request: the budget is used up.
type ExceededError struct {
	Limit   Limit
	ResetAt time.Time // zero: never
}

func (e *ExceededError) Error() string { return fmt.Sprintf("budget of %s used up", e.Limit.Name) }

// Config says what a Book needs of others. Load is required.
type Config struct {
	// Load returns what was used of a budget since the start of its period.
	Load func(ctx context.Context, l Limit, since time.Time) (Amount, error)

	// Refresh is the age from which a sum is read again, because others write to the same store;
	// 0: nobody else does. Fresh may put off reading again, while the store lacks some of our own use.
	Refresh time.Duration
	Fresh   func() bool // nil: always

	// UsedUp is called once in each period for a budget of Warn that is used up, Passed for each request
	// that passes it then. They must not block. nil: nobody wants to know.
	UsedUp, Passed func(l Limit)

	MaxAccounts int // budgets remembered; 0 = 100,000. The ones used longest ago are loaded again
}

// A Book holds the budgets of one process. It is safe for concurrent use.
type Book struct {
	cfg    Config
	closed chan struct{}
	reject sync.Once

	readings sync.WaitGroup

	mu       sync.Mutex
	accounts map[string]*entry
	recent   *list.List // of *entry, the least recently used at the front
	waiting  int
}

// entry is an account, and who waits for it.
type entry struct {
	account
	scope   string
	place   *list.Element
	loading *reading  // nil: none is under way
	reread  bool      // its sum is out of date, whatever its age
	loaded  time.Time // when the last load began
	since   Amount    // settled since then
	waiting []*waiter // in order of arrival
	warned  time.Time // start of the period in which it was first told
}

// A waiter is a request that waits for room in one or more budgets. It looks again by itself when it
// is woken: only the head of all its queues may take.
type waiter struct {
	wake   chan struct{} // buffered
	queued []*entry
}

// New returns a Book, which must be closed.
func New(cfg Config) *Book {
	if cfg.MaxAccounts == 0 {
		cfg.MaxAccounts = 100_000
	}
	return &Book{cfg: cfg, closed: make(chan struct{}), accounts: map[string]*entry{}, recent: list.New()}
}

// RejectWaiting ends the waiting of all, now and from here on, with ErrClosed.
func (b *Book) RejectWaiting() { b.reject.Do(func() { close(b.closed) }) }

// Close does the same, and waits for readings of the store that are under way. The store must
// outlive it.
func (b *Book) Close() {
	b.RejectWaiting()
	b.readings.Wait()
}

// A Reservation is an amount taken out of its budgets. It must end by Settle or Release; every
// further ending does nothing, and the methods of a nil Reservation do nothing either.
type Reservation struct {
	book    *Book
	at      time.Time
	amount  Amount
	limits  []Limit
	entries []*entry
	starts  []time.Time
	ended   bool
}

// Reserve takes amount out of all budgets, or of none. It waits while others hold what is left, until ctx ends.
// Errors: *ExceededError when one of them is used up, ErrUnknown, ErrClosed, the cause
// of ctx. Limits of Warn refuse and delay nothing.
func (b *Book) Reserve(ctx context.Context, limits []Limit, amount Amount) (*Reservation, error) {
	w := &waiter{wake: make(chan struct{}, 1)}
	defer b.leave(w)
	for {
		now := time.Now()
		for i := range limits {
			if err := b.load(ctx, &limits[i], now); err != nil {
				return nil, err
			}
		}
		r, until, err := b.try(w, limits, amount, now)
		if r != nil || err != nil {
			return r, err
		}
		if err := w.sleep(ctx, b.closed, until); err != nil {
			return nil, err
		}
	}
}

// sleep waits until there may be room: at the end of a reservation, or of a period.
func (w *waiter) sleep(ctx context.Context, closed <-chan struct{}, until time.Time) error {
	var reset <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		reset = timer.C
	}
	select {
	case <-w.wake:
		return nil
	case <-reset:
		return nil
	case <-closed:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// try reserves if every budget has room and nobody came before. Else it queues w, and tells when to look again
// at the latest.
func (b *Book) try(w *waiter, limits []Limit, amount Amount, now time.Time) (*Reservation, time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	entries := make([]*entry, len(limits))
	wait, until := false, time.Time{}
	for i := range limits {
		l := &limits[i]
		e := b.accounts[l.Scope]
		if e == nil || !e.start.Equal(l.Per.Start(now)) {
			return nil, now, nil // forgotten, or the period ended a moment ago: load again
		}
		entries[i] = e
		switch v := e.judge(l, amount); {
		case v == usedUp:
			return nil, until, &ExceededError{*l, l.Per.End(e.start)}
		case v == waits, !l.Warn && l.of(amount).limits() && len(e.waiting) > 0 && e.waiting[0] != w:
			wait = true
			if end := l.Per.End(e.start); until.IsZero() || end.Before(until) && !end.IsZero() {
				until = end
			}
		}
	}
	if wait {
		if w.queued == nil {
			b.waiting++
			for i, e := range entries {
				if !limits[i].Warn {
					e.waiting = append(e.waiting, w)
					w.queued = append(w.queued, e)
				}
			}
		}
		return nil, until, nil
	}
	r := &Reservation{book: b, at: now, amount: amount, limits: limits, entries: entries}
	for i, e := range entries {
		e.reserve(amount)
		r.starts = append(r.starts, e.start)
		b.recent.MoveToBack(e.place)
		b.tell(e, limits[i].of(amount), true)
	}
	return r, until, nil
}

// tell reports a budget of Warn that is used up: at each request that passes, and when it comes about.
func (b *Book) tell(e *entry, l *Limit, passing bool) {
	if !l.Warn || !l.reached(e.used) {
		return
	}
	if !e.warned.Equal(e.start) && b.cfg.UsedUp != nil {
		b.cfg.UsedUp(*l)
	}
	e.warned = e.start
	if passing && b.cfg.Passed != nil {
		b.cfg.Passed(*l)
	}
}

// leave takes w out of its queues, and wakes whoever is at their heads now.
func (b *Book) leave(w *waiter) {
	if w.queued == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting--
	for _, e := range w.queued {
		for i, other := range e.waiting {
			if other == w {
				e.waiting = append(e.waiting[:i:i], e.waiting[i+1:]...)
				break
			}
		}
		e.ring()
	}
	w.queued = nil
}

// Waiting is the number of requests that wait for room.
func (b *Book) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting
}

// ring has the head of the queue look again.
func (e *entry) ring() {
	if len(e.waiting) == 0 {
		return
	}
	select {
	case e.waiting[0].wake <- struct{}{}:
	default:
	}
}

// At is when the reservation was made: the instant that decides its period.
func (r *Reservation) At() time.Time { return r.at }

// Settle puts what was used in the place of the reservation. Call it when the ledger has the
// record, so that a sum that is loaded anew lacks nothing.
func (r *Reservation) Settle(used Amount) {
	if r == nil {
		return
	}
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = true
	for i, e := range r.entries {
		if !e.start.Equal(r.starts[i]) { // the period is over, and with it all that was reserved
			e.reread = true // or it was another length of period that ended, at a change of the limit
			continue
		}
		e.settle(r.amount, used)
		e.since = e.since.Plus(used)
		r.book.tell(e, &r.limits[i], false)
		e.ring()
	}
}

// Release gives the reservation back: nothing was used.
func (r *Reservation) Release() { r.Settle(Amount{}) }
