package provider

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

// Entry is one request as the provider saw it. Entries are copies; their Header
// is shared and must not be changed.
type Entry struct {
	ID       int       // order of arrival, from 1
	Time     time.Time // of arrival
	Duration time.Duration

	Method, Path, Query string // Path is the escaped path
	Proto, Host         string
	Header              http.Header
	BodyHash            string // SHA-256 of the bytes received, in hex
	BodyBytes           int64
	Model               string
	Stream              bool

	Status   int  // sent; 0 when the connection was given up before one
	Accepted bool // admitted by the account: what follows was billed
	// Exact usage. When the client left early, the tokens generated until then.
	PromptTokens, CachedTokens, CompletionTokens int64
	// Delivered: the whole undamaged answer was handed to the kernel and the client
	// was still there. The last packet's fate is beyond a server's knowledge.
	Delivered bool
	Left      bool   // the client went away before the answer was complete
	Fault     string // the injected fault, "" for none
	Done      bool   // false while in flight
}

// Totals sums up the ledger. Dropped entries (Config.MaxEntries) stay in it.
type Totals struct {
	Requests  int64
	Accepted  int64 // admitted, of which
	Delivered int64 // arrived complete
	Throttled int64 // answered 429
	Failed    int64 // answered 5xx or broken off by a fault
	Left      int64 // given up by the client

	PromptTokens, CachedTokens, CompletionTokens int64 // billed

	InFlight, PeakInFlight int64
}

// book is the provider's ledger. It is safe for concurrent use.
type book struct {
	mu      sync.Mutex
	idle    sync.Cond // InFlight fell to 0
	entries []*Entry
	limit   int // entries kept; 0: all
	totals  Totals
}

// open adds a request in flight and numbers it.
func (b *book) open(e *Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.totals.Requests++
	b.totals.InFlight++
	b.totals.PeakInFlight = max(b.totals.PeakInFlight, b.totals.InFlight)
	e.ID = int(b.totals.Requests)
	stored := *e
	b.entries = append(b.entries, &stored)
	// Drop in large steps, so that the slice is not copied for each request.
	if b.limit > 0 && len(b.entries) >= 2*b.limit {
		b.entries = slices.Clone(b.entries[len(b.entries)-b.limit:])
	}
}

// put replaces what is known of a request, and with it its part of the totals.
// before is what was put last. It may be called often: the state that a client could
// have seen must be in the book before the bytes that show it leave.
func (b *book) put(before, e Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.totals.count(before, -1)
	b.totals.count(e, 1)
	if e.Done && !before.Done {
		b.totals.InFlight--
		if b.totals.InFlight == 0 {
			b.idle.Broadcast()
		}
	}
	first := int(b.totals.Requests) - len(b.entries) + 1
	if i := e.ID - first; i >= 0 {
		*b.entries[i] = e
	}
}

// count adds e's part to the totals, or with sign -1 takes it out.
func (t *Totals) count(e Entry, sign int64) {
	add := func(n *int64, when bool) {
		if when {
			*n += sign
		}
	}
	add(&t.Accepted, e.Accepted)
	add(&t.Delivered, e.Accepted && e.Delivered)
	add(&t.Throttled, e.Status == http.StatusTooManyRequests)
	add(&t.Failed, e.Status >= 500 || (e.Done && e.Fault != "" && !e.Delivered && e.Status < 300))
	add(&t.Left, e.Left)
	t.PromptTokens += sign * e.PromptTokens
	t.CachedTokens += sign * e.CachedTokens
	t.CompletionTokens += sign * e.CompletionTokens
}

// Wait blocks until no request is in flight. What an answer said is in the ledger
// before its last byte leaves; how the delivery ended (Done, Duration, Left) only after.
func (s *Server) Wait() {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	for s.book.totals.InFlight > 0 {
		s.book.idle.Wait()
	}
}

// Ledger returns every request seen, in order of arrival.
func (s *Server) Ledger() []Entry {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	all := make([]Entry, len(s.book.entries))
	for i, e := range s.book.entries {
		all[i] = *e
	}
	return all
}

// Totals returns the sums over all requests seen.
func (s *Server) Totals() Totals {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	return s.book.totals
}
