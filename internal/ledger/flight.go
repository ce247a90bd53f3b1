package ledger

import (
	"sync"
	"time"
)

// flight is the set of requests between Start and Record. Those that stay longer than
// a moment are noted in the store, so that a crash leaves a trace of them; most are
// over before that, and never cost a write.
type flight struct {
	after time.Duration
	ring  func() // tells the committer that there is a first young request

	mu    sync.Mutex
	open  map[ID]*flown
	young []*flown // not noted yet, in order of start; ended ones are skipped later
}

type flown struct {
	record Record
	since  time.Time
	noted  bool
	ended  bool
}

func (f *flight) init(after time.Duration, ring func()) {
	f.after, f.ring = after, ring
	f.open = map[ID]*flown{}
}

func (f *flight) start(r Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[r.ID] != nil {
		return
	}
	one := &flown{record: r, since: time.Now()}
	f.open[r.ID] = one
	f.young = append(f.young, one)
	if len(f.young) == 1 {
		f.ring()
	}
}

// end forgets id and tells whether a note of it may be in the store. The committer takes notes
// under the same lock, and writes them before any record that ends later: so a
// note is never written behind its record.
func (f *flight) end(id ID) (noted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	one := f.open[id]
	if one == nil {
		return false
	}
	delete(f.open, id)
	one.ended = true
	return one.noted
}

// due takes up to n requests that have been in flight for long enough, and tells when to ask
// again; a zero wait means that nothing is young.
func (f *flight) due(now time.Time, n int) (notes []Record, wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := 0
	for ; i < len(f.young) && len(notes) < n; i++ {
		one := f.young[i]
		if one.ended {
			continue
		}
		if left := f.after - now.Sub(one.since); left > 0 {
			wait = left
			break
		}
		one.noted = true
		notes = append(notes, one.record)
	}
	clear(f.young[:i])
	f.young = f.young[i:]
	if len(f.young) == 0 {
		f.young = nil
	} else if wait == 0 {
		wait = time.Nanosecond
	}
	return notes, wait
}

// count is the number of requests in flight.
func (f *flight) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.open)
}
