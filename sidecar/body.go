package main

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// bodyPatience is how long a client may leave a gap in its body: a body that
// trickles for ever would hold its bytes for ever.
const bodyPatience = 30 * time.Second

// A byteBudget bounds the bytes of bodies held at once, so that a full queue
// cannot fill the memory. It is safe for concurrent use.
type byteBudget struct {
	max  int64
	used atomic.Int64
}

// reserve takes n bytes, or none and reports false.
func (b *byteBudget) reserve(n int64) bool {
	if b.used.Add(n) > b.max {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *byteBudget) release(n int64) { b.used.Add(-n) }

// A heldBody is the body of a metered request, kept until no attempt can
// follow any more.
type heldBody struct {
	bytes    []byte
	reserved int64
	budget   *byteBudget
	once     sync.Once
}

// release gives the bytes back. Calling it again does nothing.
func (h *heldBody) release() {
	h.once.Do(func() {
		h.budget.release(h.reserved)
		h.bytes = nil
	})
}

// readBody takes in a metered body. Its bytes are reserved before they are
// read, where a length was declared, and in steps where not.
func (s *server) readBody(w http.ResponseWriter, r *http.Request) (*heldBody, error) {
	h := &heldBody{budget: s.bodies}
	if r.ContentLength > s.cfg.MaxBodyBytes {
		w.Header().Set("Connection", "close") // or the server would read on to the end
		return nil, errBodySize
	}
	capacity := max(r.ContentLength, 0)
	if r.ContentLength < 0 {
		capacity = 4 << 10
	}
	if !s.bodies.reserve(capacity) {
		w.Header().Set("Connection", "close")
		return nil, errBodies
	}
	h.reserved = capacity
	rc := http.NewResponseController(w)
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	buf := make([]byte, 0, capacity)
	for r.ContentLength < 0 || int64(len(buf)) < r.ContentLength {
		if len(buf) == cap(buf) { // only where no length was declared
			more := min(int64(cap(buf)), s.cfg.MaxBodyBytes+1-int64(cap(buf)))
			if more <= 0 {
				h.release()
				w.Header().Set("Connection", "close")
				return nil, errBodySize
			}
			if !s.bodies.reserve(more) {
				h.release()
				w.Header().Set("Connection", "close")
				return nil, errBodies
			}
			h.reserved += more
			buf = append(make([]byte, 0, int64(cap(buf))+more), buf...)
		}
		_ = rc.SetReadDeadline(time.Now().Add(bodyPatience))
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			h.release()
			if r.Context().Err() != nil {
				return nil, errClientGone
			}
			return nil, &apiError{status: http.StatusBadRequest, code: "body_unreadable", cause: err, message: "the body ended early or came too slowly"}
		}
	}
	if int64(len(buf)) > s.cfg.MaxBodyBytes {
		h.release()
		return nil, errBodySize
	}
	if r.ContentLength >= 0 {
		// The end has to be read for the server to notice that a client leaves.
		_, _ = r.Body.Read(make([]byte, 1))
	}
	h.bytes = buf
	return h, nil
}
