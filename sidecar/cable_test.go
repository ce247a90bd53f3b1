package main

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A cable is a network of one listener for tests in virtual time. Its
// connections know half-closes and resets, which net.Pipe does not, and can be
// told to break.
type cable struct {
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
	damage func() breakage // of the next connection; nil: none
}

// A breakage ends a connection, seen from its listener.
type breakage struct {
	read, written int64 // after so many bytes; 0: never
	rst           bool  // with RST
}

func newCable() *cable { return &cable{conns: make(chan net.Conn), done: make(chan struct{})} }

// DialContext fits http.Transport.DialContext.
func (c *cable) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := duplex()
	var accepted net.Conn = far
	if c.damage != nil {
		if b := c.damage(); b != (breakage{}) {
			accepted = &brittle{cableEnd: far, breakage: b}
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

func (c *cable) Accept() (net.Conn, error) {
	select {
	case conn := <-c.conns:
		return conn, nil
	case <-c.done:
		return nil, net.ErrClosed
	}
}

func (c *cable) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

func (c *cable) Addr() net.Addr { return cableAddr{} }

type cableAddr struct{}

func (cableAddr) Network() string { return "cable" }
func (cableAddr) String() string  { return "cable" }

// A cableEnd is one end of a connection: a pipe for each direction.
type cableEnd struct {
	in, out net.Conn
	reset   *atomic.Bool // either end has sent RST
	linger0 atomic.Bool  // this one will
}

func duplex() (a, b *cableEnd) {
	a1, b1 := net.Pipe()
	a2, b2 := net.Pipe()
	reset := &atomic.Bool{}
	return &cableEnd{in: a1, out: a2, reset: reset}, &cableEnd{in: b2, out: b1, reset: reset}
}

func (e *cableEnd) Read(p []byte) (int, error) {
	n, err := e.in.Read(p)
	if err != nil && e.reset.Load() {
		err = syscall.ECONNRESET
	}
	return n, err
}

func (e *cableEnd) Write(p []byte) (int, error) {
	n, err := e.out.Write(p)
	if err != nil && e.reset.Load() {
		err = syscall.ECONNRESET
	}
	return n, err
}

// SetLinger makes Close a reset, as SetLinger(0) does of a TCP connection.
func (e *cableEnd) SetLinger(sec int) error {
	e.linger0.Store(sec == 0)
	return nil
}

// CloseWrite ends this end's sending half.
func (e *cableEnd) CloseWrite() error { return e.out.Close() }

func (e *cableEnd) Close() error {
	if e.linger0.Load() {
		e.reset.Store(true)
	}
	_ = e.out.Close()
	return e.in.Close()
}

func (e *cableEnd) LocalAddr() net.Addr                { return cableAddr{} }
func (e *cableEnd) RemoteAddr() net.Addr               { return cableAddr{} }
func (e *cableEnd) SetReadDeadline(t time.Time) error  { return e.in.SetReadDeadline(t) }
func (e *cableEnd) SetWriteDeadline(t time.Time) error { return e.out.SetWriteDeadline(t) }
func (e *cableEnd) SetDeadline(t time.Time) error {
	_ = e.in.SetDeadline(t)
	return e.out.SetDeadline(t)
}

// brittle is a cableEnd that breaks.
type brittle struct {
	*cableEnd
	breakage
	mu           sync.Mutex
	got, written int64
}

func (b *brittle) Read(p []byte) (int, error) {
	n, err := b.cableEnd.Read(p)
	b.mu.Lock()
	b.got += int64(n)
	broken := b.read > 0 && b.got >= b.read
	b.mu.Unlock()
	if broken {
		b.end()
		return 0, net.ErrClosed
	}
	return n, err
}

func (b *brittle) Write(p []byte) (int, error) {
	b.mu.Lock()
	left := b.breakage.written - b.written
	b.written += int64(len(p))
	b.mu.Unlock()
	if b.breakage.written > 0 && int64(len(p)) > left {
		n, _ := b.cableEnd.Write(p[:max(left, 0)])
		b.end()
		return n, net.ErrClosed
	}
	return b.cableEnd.Write(p)
}

func (b *brittle) end() {
	if b.rst {
		_ = b.SetLinger(0)
	}
	_ = b.Close()
}
