// Package memory bounds what requests and answers keep in memory. One Account
// counts all of it; whoever keeps bytes asks for a Hold first.
//
// # Who gives way
//
// Nobody waits for memory, so nobody can wait for somebody who waits. A request
// that finds none is refused before its body is read. An answer that finds none is
// passed on without being kept back, and a view is not made. So whoever holds
// memory can always go on, and gives it back at its end.
//
// Requests may fill the whole account, the others a part of it. A request that is
// refused has failed; an answer that flows has not.
package memory

import "sync"

// A Kind says what bytes are held for.
type Kind uint8

const (
	// Requests are the bodies and long headers of requests, until nothing can be
	// sent again.
	Requests Kind = iota
	// Answers are what is kept back of answers, and the buffers they pass through.
	Answers
	// Views are copies that are made to be read, such as unpacked bodies.
	Views
	kinds
)

// String names the kind, as metrics and statuses have it.
func (k Kind) String() string { return [kinds]string{"requests", "answers", "views"}[k] }

// Kinds lists them all.
func Kinds() []Kind { return []Kind{Requests, Answers, Views} }

// quarters is how much of an account each kind may fill.
var quarters = [kinds]int64{Requests: 4, Answers: 2, Views: 1}

// An Account counts the bytes that are held, and bounds them. It is safe for
// concurrent use. Its Holds are not.
type Account struct {
	most int64

	mu      sync.Mutex
	all     int64
	of      [kinds]int64
	refused [kinds]int64
	peak    int64
}

// NewAccount returns an account of so many bytes.
func NewAccount(most int64) *Account { return &Account{most: most} }

// Most is the bound, in bytes.
func (a *Account) Most() int64 { return a.most }

// Hold begins to hold bytes of a kind, none at first. The Hold must end by Release.
func (a *Account) Hold(k Kind) Hold { return Hold{account: a, kind: k} }

// A Held is the state of an account, in bytes.
type Held struct {
	Most    int64
	All     int64
	Peak    int64            // the most that was held at once
	Of      map[Kind]int64   // by kind
	Refused map[Kind]float64 // how often there was no room
}

// Held tells what is held now.
func (a *Account) Held() Held {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := Held{Most: a.most, All: a.all, Peak: a.peak, Of: map[Kind]int64{}, Refused: map[Kind]float64{}}
	for _, k := range Kinds() {
		h.Of[k], h.Refused[k] = a.of[k], float64(a.refused[k])
	}
	return h
}

// change adds n bytes, which may be negative. If it must fit and does not, nothing
// changes.
func (a *Account) change(k Kind, n int64, mustFit bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n > 0 && mustFit && (n > a.most-a.all || n > a.most/4*quarters[k]-a.of[k]) {
		a.refused[k]++
		return false
	}
	a.all += n
	a.of[k] += n
	a.peak = max(a.peak, a.all)
	return true
}

// A Hold is what one holder has of an account. The zero Hold, and nil, are of no
// account: they get whatever they ask for.
type Hold struct {
	account *Account
	kind    Kind
	bytes   int64
}

// Bytes is how much is held.
func (h *Hold) Bytes() int64 {
	if h == nil {
		return 0
	}
	return h.bytes
}

// TryGrow takes n bytes more, or none and reports false. It never waits.
func (h *Hold) TryGrow(n int64) bool { return h.TryResize(h.Bytes() + n) }

// TryResize makes the hold so many bytes, or leaves it as it is and reports false.
// To become smaller always succeeds.
func (h *Hold) TryResize(bytes int64) bool { return h.resize(bytes, true) }

// Resize makes the hold so many bytes even if the account is full. It is for the
// little that a promise rests on, and for what is held already.
func (h *Hold) Resize(bytes int64) { h.resize(bytes, false) }

// Release gives everything back. Calling it again does nothing.
func (h *Hold) Release() { h.Resize(0) }

func (h *Hold) resize(bytes int64, mustFit bool) bool {
	if h == nil || bytes == h.bytes {
		return true
	}
	if h.account != nil && !h.account.change(h.kind, bytes-h.bytes, mustFit) {
		return false
	}
	h.bytes = bytes
	return true
}
