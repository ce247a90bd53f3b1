package httpapi

import (
	"container/list"
	"math"
	"net"
	"net/http"
	"sync"
	"time"
)

// Connections knows the clients' connections, and bounds their number. It is safe
// for concurrent use.
type Connections struct {
	most int // of them; 0 = no bound

	mu      sync.Mutex
	states  map[net.Conn]http.ConnState
	fresh   int        // that have not sent a request yet
	quiet   *list.List // of lull: new and idle ones, the longest first
	lulls   map[net.Conn]*list.Element
	changed chan struct{} // holds one token: something has changed
	freed   chan struct{} // the same for room
}

// A lull is a connection with no request under way.
type lull struct {
	conn  net.Conn
	since time.Time
}

// NewConnections makes the books of at most so many connections; 0 = no bound.
func NewConnections(most int) *Connections {
	return &Connections{
		most: most, states: map[net.Conn]http.ConnState{}, quiet: list.New(), lulls: map[net.Conn]*list.Element{},
		changed: make(chan struct{}, 1), freed: make(chan struct{}, 1),
	}
}

// Note is an http.Server's ConnState.
func (c *Connections) Note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(conn)
	switch state {
	case http.StateClosed, http.StateHijacked:
	case http.StateNew:
		c.fresh++
		fallthrough
	case http.StateIdle:
		c.lulls[conn] = c.quiet.PushBack(lull{conn, time.Now()})
		fallthrough
	default:
		c.states[conn] = state
	}
	tell(c.changed)
	tell(c.freed)
}

// forget takes conn out of the books. The lock is held.
func (c *Connections) forget(conn net.Conn) {
	if before, known := c.states[conn]; known && before == http.StateNew {
		c.fresh--
	}
	delete(c.states, conn)
	if e := c.lulls[conn]; e != nil {
		c.quiet.Remove(e)
		delete(c.lulls, conn)
	}
}

func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// None reports whether there is no connection.
func (c *Connections) None() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.states) == 0
}

// NoneNew reports whether every connection has sent a request.
func (c *Connections) NoneNew() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fresh == 0
}

// Await waits until ok, for d at the longest. One goroutine at a time may wait.
func (c *Connections) Await(d time.Duration, ok func() bool) {
	over := time.NewTimer(d)
	defer over.Stop()
	for !ok() {
		select {
		case <-over.C:
			return
		case <-c.changed:
		}
	}
}

// lullLeast is how long a connection is without a request before it gives way:
// the request of a new one is on its heels.
const lullLeast = 250 * time.Millisecond

// room waits until another connection may be taken, or done is closed. A
// connection without a request gives way, the one that is longest so first: half
// a header must not keep others out.
func (c *Connections) room(done <-chan struct{}) {
	for {
		c.mu.Lock()
		if c.most <= 0 || len(c.states) < c.most {
			c.mu.Unlock()
			return
		}
		wait := time.Duration(-1)
		if e := c.quiet.Front(); e != nil {
			l := e.Value.(lull)
			if wait = lullLeast - time.Since(l.since); wait <= 0 {
				c.forget(l.conn)
				c.mu.Unlock()
				l.conn.Close()
				return
			}
		}
		c.mu.Unlock()
		var older <-chan time.Time
		if wait > 0 {
			older = time.After(wait)
		}
		select {
		case <-older:
		case <-c.freed:
		case <-done:
			return
		}
	}
}

// A roomListener takes a connection when there is room for it: the others wait in
// the system's backlog.
type roomListener struct {
	net.Listener
	clients *Connections
	closed  chan struct{}
	close   func() error
}

// Listener takes connections from l as long as there is room for them.
func (c *Connections) Listener(l net.Listener) net.Listener {
	r := &roomListener{Listener: l, clients: c, closed: make(chan struct{})}
	r.close = sync.OnceValue(func() error { close(r.closed); return l.Close() })
	return r
}

func (l *roomListener) Accept() (net.Conn, error) {
	l.clients.room(l.closed)
	return l.Listener.Accept()
}

func (l *roomListener) Close() error { return l.close() }

// ConnectionsFor is how many clients a process may have that may open so many
// files: each may need a second one, toward the provider, and the store, the
// admin listener and health need some. They may take so many bytes of memory.
// 0 = not known, or no bound.
func ConnectionsFor(files int, bytes int64) int {
	const (
		others  = 64
		idle    = 16 << 10 // bytes that one takes
		nowhere = math.MaxInt
	)
	most := nowhere
	if files > 0 {
		most = max((files-others)/2, files/4, 1)
	}
	if bytes > 0 {
		most = min(most, max(int(bytes/idle), 64))
	}
	if most == nowhere {
		return 0
	}
	return most
}
