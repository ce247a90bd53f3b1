package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// A countedConn counts what was written to it, below TLS: an attempt whose
// connection broke before the count moved was not sent. It knows who has ended it.
type countedConn struct {
	net.Conn
	count  atomic.Int64
	closed atomic.Bool               // by us
	gone   atomic.Bool               // by the peer
	stream atomic.Pointer[streamEnd] // since the last answer on it
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.unread()
	}
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.count.Add(int64(n))
	return n, err
}

// Close ends the connection.
func (c *countedConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// CloseWrite ends the sending half, as a tunnel needs it.
func (c *countedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func dialCounted(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &countedConn{Conn: conn}, nil
}

// writes remembers where an attempt's connection stood when the attempt got it.
// Hooks may run in another goroutine than the attempt's.
type writes struct{ at atomic.Pointer[mark] }

type mark struct {
	conn  *countedConn // nil: a connection that is not counted
	start int64
}

func (w *writes) begin(info httptrace.GotConnInfo) {
	conn := info.Conn
	for secured, ok := conn.(*tls.Conn); ok; secured, ok = conn.(*tls.Conn) { // one in another, behind a proxy that speaks TLS
		conn = secured.NetConn()
	}
	m := &mark{}
	if counted, ok := conn.(*countedConn); ok {
		m.conn, m.start = counted, counted.count.Load()
	}
	w.at.Store(m)
}

// connection is the one that the attempt got; nil: none, or one that is not counted.
func (w *writes) connection() *countedConn {
	if m := w.at.Load(); m != nil {
		return m.conn
	}
	return nil
}

// begun reports that the attempt got a connection: from then on a write may be under way.
func (w *writes) begun() bool { return w.at.Load() != nil }

// none reports that nothing was written: no connection was got, or nothing left
// on it. Where several requests share a connection (HTTP/2), the writes of
// others hide it, which errs on the safe side.
func (w *writes) none() bool {
	m := w.at.Load()
	return m == nil || m.conn != nil && m.conn.count.Load() == m.start
}

// tracked tells whether a read of a body that streams through was begun: the
// transport may still be in one when it has given the connection up, and what
// that brings is gone.
type tracked struct {
	io.Reader
	read *atomic.Bool
}

func (t *tracked) Read(p []byte) (int, error) {
	t.read.Store(true)
	return t.Reader.Read(p)
}
