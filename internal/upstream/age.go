package upstream

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// A connection is used for new requests for connectionAge, and up to ageSpread longer;
// then others take its place over ageSpread. Those resolve the provider's name anew: an
// address that has changed is found although traffic never pauses.
const (
	connectionAge = 3 * time.Minute
	ageSpread     = time.Minute
)

// An agingTransport gives its connections up after a while, by making a transport for
// each generation of them. Requests move over one by one, so that the new connections
// are not all made in one moment. What is under way on an old one ends in peace: it
// then closes. It is safe for concurrent use.
type agingTransport struct {
	mu           sync.Mutex
	make         func() *http.Transport
	current, new *generation // new is nil until requests move over to it
}

type generation struct {
	*http.Transport
	until time.Time // then requests begin to move over to the next one
}

func newAgingTransport(build func() *http.Transport) *agingTransport {
	return &agingTransport{make: build}
}

// RoundTrip makes one attempt over a connection that is not too old.
func (a *agingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return a.pick(time.Now()).RoundTrip(r)
}

func (a *agingTransport) pick(now time.Time) *generation {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.current != nil && now.Sub(a.current.until) >= ageSpread {
		a.current.CloseIdleConnections()
		a.current, a.new = a.new, nil
	}
	switch {
	case a.current == nil:
		a.current = a.generation(now)
	case now.After(a.current.until):
		if a.new == nil {
			a.new = a.generation(now)
		}
		if rand.N(ageSpread) < now.Sub(a.current.until) {
			return a.new
		}
	}
	return a.current
}

func (a *agingTransport) generation(now time.Time) *generation {
	return &generation{a.make(), now.Add(connectionAge + rand.N(ageSpread))}
}

// another is a transport of its own.
func (a *agingTransport) another() *http.Transport {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.make()
}

// replace has all requests from now on go over transports that are made so.
func (a *agingTransport) replace(build func() *http.Transport) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closeIdle()
	a.make, a.current, a.new = build, nil, nil
}

// CloseIdleConnections closes what is not in use now.
func (a *agingTransport) CloseIdleConnections() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closeIdle()
}

func (a *agingTransport) closeIdle() {
	for _, g := range []*generation{a.current, a.new} {
		if g != nil {
			g.CloseIdleConnections()
		}
	}
}
