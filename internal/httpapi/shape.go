package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// A shapedConn gives the errors that net/http answers by itself, in plain text, the
// shape of all others: too many headers, and requests that cannot be parsed.
// They never reach a handler, so there is no other place for it.
type shapedConn struct {
	*net.TCPConn
	handled atomic.Bool // a handler has the say: what is written is its answer
}

// plainEnd is how net/http ends the head of such an answer. A handler's answer has
// a Date.
var plainEnd = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")

// Write writes p, or the shaped error that stands for it.
func (c *shapedConn) Write(p []byte) (int, error) {
	if !c.handled.Load() {
		if shaped := shapedError(p); shaped != nil {
			if _, err := c.TCPConn.Write(shaped); err != nil {
				return 0, err
			}
			return len(p), nil
		}
	}
	return c.TCPConn.Write(p)
}

// shapedError returns what to write in place of an answer of net/http's own; nil if
// p is none.
func shapedError(p []byte) []byte {
	const version = "HTTP/1.1 "
	line, text, found := bytes.Cut(p, plainEnd)
	if !found || !bytes.HasPrefix(line, []byte(version)) || len(line) < len(version)+3 {
		return nil
	}
	status, err := strconv.Atoi(string(line[len(version) : len(version)+3]))
	if err != nil || status < 400 {
		return nil
	}
	e := &Error{Code: "bad_request", Message: fmt.Sprintf("the request cannot be read: %s", text)}
	if status == http.StatusRequestHeaderFieldsTooLarge {
		e = &Error{Code: "headers_too_large", Message: "the request's headers are larger than 32 KiB"}
	}
	body := wire.ErrorBody(e.Message, "invalid_request_error", "", e.Code)
	head := fmt.Sprintf("%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX-Should-Retry: false\r\nConnection: close\r\n\r\n", line, len(body))
	return append([]byte(head), body...)
}

type shapedKey struct{}

// Shaped returns l with connections whose errors have one shape. A server that
// serves it needs ShapedContext as its ConnContext.
func Shaped(l net.Listener) net.Listener { return shapedListener{l} }

type shapedListener struct{ net.Listener }

func (l shapedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &shapedConn{TCPConn: tcp}, err
	}
	return conn, err
}

// ShapedContext is an http.Server's ConnContext. By it, handlers find their
// connection.
func ShapedContext(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*shapedConn); ok {
		return context.WithValue(ctx, shapedKey{}, c)
	}
	return ctx
}

// handled notes that a handler answers r, until the function that it returns is
// called.
func handled(r *http.Request) (done func()) {
	c, ok := r.Context().Value(shapedKey{}).(*shapedConn)
	if !ok {
		return func() {}
	}
	c.handled.Store(true)
	return func() { c.handled.Store(false) }
}
