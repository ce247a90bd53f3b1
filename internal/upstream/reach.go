package upstream

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	patienceAtFirst  = 15 * time.Second // with an address that has never answered, which may be wrong
	patienceAnswered = time.Minute      // with one that has, which probably restarts

	connectTime = 10 * time.Second // the longest that a connection may take to be made
	knockTime   = 3 * time.Second  // likewise, while the provider is given up

	// outageMemory is how long after the last failure the provider is still held to be
	// away. Later the next request begins to wait anew.
	outageMemory = time.Minute
)

// A Reach knows whether the provider can be reached, once for all requests. An outage
// begins with the attempt that first finds no connection, and ends with any connection.
// While it is younger than the patience, requests wait for its end. Then the provider is
// given up: who waits is told so, and who comes is told so after one try of its own. It
// is safe for concurrent use; its zero value has the default patience.
type Reach struct {
	patience func() time.Duration // below 0: the default
	giveUp   func(Outage)
	back     func(Outage)

	down     atomic.Bool // there is an outage: all below is of it
	answered atomic.Bool // the provider has ever answered

	mu    sync.Mutex
	since time.Time   // when the first attempt of it began
	last  time.Time   // when the last one failed
	until time.Time   // when the provider is given up
	class Class       // of the last failure
	timer *time.Timer // of until
}

// Watch sets how long an unreachable provider is waited for, below 0 for the default,
// and who is told that it is given up, and that an outage is over. It may be called
// once, before any attempt.
func (r *Reach) Watch(patience func() time.Duration, giveUp, back func(Outage)) {
	r.patience, r.giveUp, r.back = patience, giveUp, back
}

// An Outage is what is known of a provider that cannot be reached.
type Outage struct {
	Class   Class
	Since   time.Time
	GivenUp bool // nobody waits for its end any more
}

// Outage tells of the outage that lasts; false: there is none that is known.
func (r *Reach) Outage() (Outage, bool) {
	if !r.down.Load() {
		return Outage{}, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if !r.known(now) {
		return Outage{}, false
	}
	return r.outage(now), true
}

func (r *Reach) outage(now time.Time) Outage {
	return Outage{r.class, r.since, !now.Before(r.until)}
}

// known reports whether the last failure is fresh enough to tell of now.
func (r *Reach) known(now time.Time) bool {
	return r.down.Load() && now.Sub(r.last) <= max(outageMemory, r.until.Sub(r.since))
}

// failed notes that an attempt that began then got no connection.
func (r *Reach) failed(began time.Time, class Class) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if !r.known(now) {
		r.since, r.until = began, began.Add(r.time())
		r.stop()
		r.timer = time.AfterFunc(r.until.Sub(now), r.end)
	}
	r.down.Store(true)
	r.last, r.class = now, class
}

// time is the patience of an outage that begins now.
func (r *Reach) time() time.Duration {
	if r.patience != nil {
		if d := r.patience(); d >= 0 {
			return d
		}
	}
	if r.answered.Load() {
		return patienceAnswered
	}
	return patienceAtFirst
}

// end gives the provider up, unless it has been reached meanwhile.
func (r *Reach) end() {
	r.mu.Lock()
	o, lasts := r.outage(time.Now()), r.down.Load()
	r.mu.Unlock()
	if lasts && o.GivenUp && r.giveUp != nil {
		r.giveUp(o)
	}
}

// connected notes a connection: no outage.
func (r *Reach) connected() {
	if !r.down.Load() {
		return
	}
	r.mu.Lock()
	o, lasted := r.outage(time.Now()), r.down.Swap(false)
	r.stop()
	r.mu.Unlock()
	if lasted && r.back != nil {
		r.back(o)
	}
}

func (r *Reach) stop() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
}

// errConnectTime ends an attempt that has found no connection in its time.
var errConnectTime = errors.New("no connection in time")

// bound is how long an attempt that begins now may take to find a connection; 0: as
// long as the transport allows.
func (r *Reach) bound() time.Duration {
	left := r.time()
	if r.down.Load() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if now := time.Now(); r.known(now) {
			left = r.until.Sub(now)
		}
	}
	if left >= connectTime {
		return 0
	}
	return max(left, knockTime)
}
