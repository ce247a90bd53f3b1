package proxy

import (
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
)

// An answer is what the client gets. Heartbeats and interim answers may come from
// other goroutines than the handler's, until close.
type answer struct {
	w  http.ResponseWriter
	r  *http.Request // that it answers
	id ledger.ID

	mu        sync.Mutex // of what other goroutines write
	closed    bool       // what follows is the handler's
	headerOut bool       // a status line is out: only a cut can still say that something failed
	kind      string     // media type and coding that are out
	length    bool       // and a length

	events bool   // it is a stream of events
	tail   []byte // what is kept back until the row is written
}

// accelBuffering is a word to nginx, which takes it out: "no" lets events pass
// one by one.
const accelBuffering = "X-Accel-Buffering"

// beat keeps a waiting stream's connection alive: a line of one space is the
// only sign of life that no SDK stumbles over.
func (a *answer) beat() error {
	a.mu.Lock() // the last attempt's connection may still bring an interim answer
	defer a.mu.Unlock()
	if !a.headerOut {
		h := a.w.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set(accelBuffering, "no")
		h.Set("X-Request-Id", a.id.String())
		a.w.WriteHeader(http.StatusOK)
		a.headerOut, a.kind = true, kindOf(h)
	}
	if _, err := a.w.Write([]byte(" \n")); err != nil {
		return httpapi.ErrClientGone
	}
	return http.NewResponseController(a.w).Flush()
}

// writeHeader sends the status and the headers that fill sets, once.
func (a *answer) writeHeader(status int, fill func(h http.Header)) {
	if a.headerOut {
		return
	}
	a.headerOut = true
	h := a.w.Header()
	fill(h)
	a.kind, a.length = kindOf(h), h.Get("Content-Length") != ""
	a.w.WriteHeader(status)
}

// kindOf is what must be the same of two answers, if one is to follow the other's
// headers.
func kindOf(h http.Header) string { return mediaType(h) + " " + h.Get("Content-Encoding") }

const eventKind = "text/event-stream "

// replaceable reports whether another answer may come in the place of one of which
// no more than blanks has left.
func (a *answer) replaceable() bool { return !a.headerOut || !a.length }

// fits reports whether resp may follow the headers that are out: heartbeats', or
// those of an answer that turned out to be a rate limit. Under those of a stream a
// stream may come, whatever its label.
func (a *answer) fits(resp *http.Response, stream bool) bool {
	kind := kindOf(resp.Header)
	return resp.StatusCode >= 200 && resp.StatusCode < 300 && (kind == a.kind || stream && a.kind == eventKind && resp.Header.Get("Content-Encoding") == "")
}

// write sends bytes of the answer to the client, within SlowReader.
func (a *answer) write(p []byte, flush bool) error {
	rc := http.NewResponseController(a.w)
	_ = rc.SetWriteDeadline(time.Now().Add(httpapi.SlowReader))
	if _, err := a.w.Write(p); err != nil {
		return err
	}
	if flush {
		return rc.Flush()
	}
	return nil
}

// finish sends what was held back. It is not flushed: it leaves in one write
// with the end of the body.
func (a *answer) finish() error {
	if len(a.tail) == 0 {
		return nil
	}
	if err := a.write(a.tail, false); err != nil {
		return httpapi.ErrClientGone
	}
	return nil
}

// interim passes an interim answer (102, 103) on to a client that can read it.
func (a *answer) interim(status int, header http.Header) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.headerOut || !a.r.ProtoAtLeast(1, 1) {
		return
	}
	if a.r.Header.Get("Expect") != "" {
		return // net/http may be writing its 100 from the goroutine that reads the body
	}
	_ = http.NewResponseController(a.w).SetWriteDeadline(time.Now().Add(httpapi.SlowReader))
	h := a.w.Header()
	ours := maps.Clone(h) // these are the final answer's
	clear(h)
	maps.Copy(h, header)
	a.w.WriteHeader(status)
	clear(h)
	maps.Copy(h, ours)
}

// close lets no interim answer through any more: what follows is final, unless it
// is taken back.
func (a *answer) close() { a.setClosed(true) }

func (a *answer) setClosed(closed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = closed
}
