package sidecartest

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Cable is a network of one listener for tests in virtual time. Its
// connections know half-closes and resets, which net.Pipe does not, and can be
// told to break.
type Cable struct {
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
	Damage func() Breakage // of the next connection; nil: none
}

// A Breakage ends a connection, seen from its listener.
type Breakage struct {
	AfterRead, AfterWritten int64 // after so many bytes; 0: never
	RST                     bool  // with RST
}

// NewCable is a cable that does not break.
func NewCable() *Cable { return &Cable{conns: make(chan net.Conn), done: make(chan struct{})} }

// DialContext fits http.Transport.DialContext.
func (c *Cable) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := duplex()
	var accepted net.Conn = far
	if c.Damage != nil {
		if b := c.Damage(); b != (Breakage{}) {
			accepted = &brittle{CableEnd: far, Breakage: b}
		}
	}
	select {
	case c.conns <- accepted:
		return near, nil
	case <-c.done:
		return nil, &net.OpError{Op: "dial", Net: "cable", Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *Cable) Accept() (net.Conn, error) {
	select {
	case conn := <-c.conns:
		return conn, nil
	case <-c.done:
		return nil, net.ErrClosed
	}
}

func (c *Cable) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

func (c *Cable) Addr() net.Addr { return cableAddr{} }

type cableAddr struct{}

func (cableAddr) Network() string { return "cable" }
func (cableAddr) String() string  { return "cable" }

// A CableEnd is one end of a connection: a pipe for each direction.
type CableEnd struct {
	in, out net.Conn
	reset   *atomic.Bool // either end has sent RST
	linger0 atomic.Bool  // this one will
}

func duplex() (a, b *CableEnd) {
	a1, b1 := net.Pipe()
	a2, b2 := net.Pipe()
	reset := &atomic.Bool{}
	return &CableEnd{in: a1, out: a2, reset: reset}, &CableEnd{in: b2, out: b1, reset: reset}
}

func (e *CableEnd) Read(p []byte) (int, error) {
	n, err := e.in.Read(p)
	if err != nil && e.reset.Load() {
		err = syscall.ECONNRESET
	}
	return n, err
}

func (e *CableEnd) Write(p []byte) (int, error) {
	n, err := e.out.Write(p)
	if err != nil && e.reset.Load() {
		err = syscall.ECONNRESET
	}
	return n, err
}

// SetLinger makes Close a reset, as SetLinger(0) does of a TCP connection.
func (e *CableEnd) SetLinger(sec int) error {
	e.linger0.Store(sec == 0)
	return nil
}

// CloseWrite ends this end's sending half.
func (e *CableEnd) CloseWrite() error { return e.out.Close() }

func (e *CableEnd) Close() error {
	if e.linger0.Load() {
		e.reset.Store(true)
	}
	_ = e.out.Close()
	return e.in.Close()
}

func (e *CableEnd) LocalAddr() net.Addr                { return cableAddr{} }
func (e *CableEnd) RemoteAddr() net.Addr               { return cableAddr{} }
func (e *CableEnd) SetReadDeadline(t time.Time) error  { return e.in.SetReadDeadline(t) }
func (e *CableEnd) SetWriteDeadline(t time.Time) error { return e.out.SetWriteDeadline(t) }
func (e *CableEnd) SetDeadline(t time.Time) error {
	_ = e.in.SetDeadline(t)
	return e.out.SetDeadline(t)
}

// brittle is a CableEnd that breaks.
type brittle struct {
	*CableEnd
	Breakage
	mu           sync.Mutex
	got, written int64
}

func (b *brittle) Read(p []byte) (int, error) {
	n, err := b.CableEnd.Read(p)
	b.mu.Lock()
	b.got += int64(n)
	broken := b.AfterRead > 0 && b.got >= b.AfterRead
	b.mu.Unlock()
	if broken {
		b.end()
		return 0, net.ErrClosed
	}
	return n, err
}

func (b *brittle) Write(p []byte) (int, error) {
	b.mu.Lock()
	left := b.Breakage.AfterWritten - b.written
	b.written += int64(len(p))
	b.mu.Unlock()
	if b.Breakage.AfterWritten > 0 && int64(len(p)) > left {
		n, _ := b.CableEnd.Write(p[:max(left, 0)])
		b.end()
		return n, net.ErrClosed
	}
	return b.CableEnd.Write(p)
}

func (b *brittle) end() {
	if b.RST {
		_ = b.SetLinger(0)
	}
	_ = b.Close()
}
