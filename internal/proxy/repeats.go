package proxy

import (
	"sync"
	"time"
)

// The bounds of repeats after a 503 or 529 that asks to come back: a fifth of
// the requests, and for small traffic so many a second, of which so many can be
// saved. Without a bound a provider that fails would get its load tenfold.
// 429s are the limiter's, and what was not sent costs the provider nothing.
const (
	repeatShare     = 0.2
	repeatPerSecond = 10.0
	repeatsSaved    = 100
)

// A repeatBudget is a bucket of repeats that requests fill. Its zero value is
// full. It is safe for concurrent use.
type repeatBudget struct {
	mu   sync.Mutex
	used float64 // of repeatsSaved
	at   time.Time
}

// earn is called once for each request.
func (b *repeatBudget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = max(0, b.used-repeatShare)
}

// spend takes one repeat, or reports that there is none.
func (b *repeatBudget) spend(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if since := now.Sub(b.at); since > 0 {
		b.used = max(0, b.used-repeatPerSecond*since.Seconds())
		b.at = now
	}
	if b.used > repeatsSaved-1 {
		return false
	}
	b.used++
	return true
}
