package proxy

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
)

// A body has BodyPatience plus the time of its bytes at bodyRate: one that
// trickles would hold its reservation for ever.
const bodyRate = 32 << 10 // bytes a second

// smallBody is up to where the body of an unmetered request is held like a
// metered one, which lets the request be sent again and lets the server notice
// that a waiting client has left. One without a declared length streams, because its
// client may wait for an answer before it sends on, and is held beside that.
const smallBody = 256 << 10

func bodyDeadline(started time.Time, read int) time.Time {
	return started.Add(httpapi.BodyPatience + time.Duration(read)*time.Second/bodyRate)
}

// A heldBody is the body of a metered request, kept until no attempt can
// follow any more.
type heldBody struct {
	bytes  []byte
	memory memory.Hold
}

// release gives the bytes back. Calling it again does nothing.
func (h *heldBody) release() {
	h.bytes = nil
	h.memory.Release()
}

// readBody takes in a metered body. Its bytes are reserved before they are
// read, where a length was declared, and in steps where not.
func (p *Proxy) readBody(x *exchange) (*heldBody, error) {
	w, r, most := x.ans.w, x.req.r, x.req.cfg.MaxBodyBytes
	h := &heldBody{memory: p.memory.Hold(memory.Requests)}
	if r.ContentLength > min(most, p.memory.Most()) {
		w.Header().Set("Connection", "close") // or the server would read on to the end
		return nil, errBodySize
	}
	capacity := max(r.ContentLength, 0)
	if r.ContentLength < 0 {
		capacity = 4 << 10
	}
	if !h.memory.TryGrow(capacity) {
		w.Header().Set("Connection", "close")
		return nil, errMemory
	}
	rc, started := http.NewResponseController(w), time.Now()
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	buf := make([]byte, 0, capacity)
	for r.ContentLength < 0 || int64(len(buf)) < r.ContentLength {
		if len(buf) == cap(buf) { // only where no length was declared
			more := min(int64(cap(buf)), most+1-int64(cap(buf)))
			if more <= 0 {
				h.release()
				w.Header().Set("Connection", "close")
				return nil, errBodySize
			}
			if !h.memory.TryGrow(more) {
				h.release()
				w.Header().Set("Connection", "close")
				return nil, errMemory
			}
			buf = append(make([]byte, 0, int64(cap(buf))+more), buf...)
		}
		_ = rc.SetReadDeadline(bodyDeadline(started, len(buf)))
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			h.release()
			if r.Context().Err() != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return nil, httpapi.ErrClientGone
			}
			return nil, &httpapi.Error{Status: http.StatusBadRequest, Code: "body_unreadable", Cause: err, Message: "the body ended early or came too slowly"}
		}
	}
	if int64(len(buf)) > most {
		h.release()
		return nil, errBodySize
	}
	if r.ContentLength >= 0 {
		// The end has to be read for the server to notice that a client leaves.
		_, _ = r.Body.Read(make([]byte, 1))
	}
	_ = r.Body.Close() // or the server would look for more of it before it answers
	h.bytes = buf
	return h, nil
}

// unmeteredBody holds a small body, and lets any other stream through.
func (p *Proxy) unmeteredBody(x *exchange) error {
	switch n := x.req.r.ContentLength; {
	case n == 0:
		return nil
	case n > 0 && n <= min(smallBody, x.req.cfg.MaxBodyBytes):
		held, err := p.readBody(x)
		if err != nil {
			return err
		}
		x.req.body, x.up.Body = held, held.bytes
		return nil
	}
	x.req.upload = newPatientBody(http.NewResponseController(x.ans.w), x.req.r.Body)
	if x.req.r.ContentLength < 0 {
		x.req.upload.keep(min(smallBody, x.req.cfg.MaxBodyBytes), p.memory.Hold(memory.Requests))
	}
	x.up.Stream, x.up.Length = x.req.upload, x.req.r.ContentLength
	return nil
}
