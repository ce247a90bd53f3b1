package ledger

import (
	"fmt"
	"sync"
	"time"
)

// health is what Ready knows without asking the store.
type health struct {
	mu    sync.Mutex
	cause error     // nil: the last write went well
	since time.Time // when the present write began; zero: none is under way

	done   string    // what had to be done to bring the store back; "" = nothing of late
	doneAt time.Time // when
}

// newsAge is how long Ready's reader is told of it.
const newsAge = time.Hour

func (h *health) restored(done string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done, h.doneAt = done, time.Now()
}

// news is what was done to bring the store back within the last hour, and when.
func (h *health) news() (done string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done == "" || time.Since(h.doneAt) > newsAge {
		return "", time.Time{}
	}
	return h.done, h.doneAt
}

// stuckAfter is how long one transaction may take before Ready says so.
const stuckAfter = 5 * time.Second

func (h *health) fault() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause != nil {
		return h.cause
	}
	if !h.since.IsZero() && time.Since(h.since) > stuckAfter {
		return fmt.Errorf("%w: a write has taken more than %s", ErrUnavailable, stuckAfter)
	}
	return nil
}

func (h *health) begin() {
	h.mu.Lock()
	h.since = time.Now()
	h.mu.Unlock()
}

func (h *health) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cause, h.since = err, time.Time{}
}
