package proxy

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

const (
	// idleTimeout is how long an answer may pause between two bytes. Reasoning
	// models are silent for minutes; a connection that is silent for longer is
	// taken for dead.
	idleTimeout = 10 * time.Minute
	// endPatience is how long the end of the body may take after the answer
	// said it was complete.
	endPatience = 2 * time.Second
)

var errStalled = errors.New("the answer stalled")

var errEnded = errors.New("the answer is complete, its connection stays open")

// Events are small and their streams long: a slow stream holds a small buffer,
// and takes a large one when it fills that.
var (
	relayBuffers = sync.Pool{New: func() any { b := make([]byte, relayBytes); return &b }}
	eventBuffers = sync.Pool{New: func() any { b := make([]byte, 1<<10); return &b }}
)

const relayBytes = 32 << 10

// relay copies the upstream's answer to the client as it arrives, but for the
// tail, which must wait for the ledger. A read error is the upstream's
// fault and cuts the answer off; a write error is the client's and leaves the
// answer to be read on by DISCONNECT_POLICY.
func (p *Proxy) relay(x *exchange, resp *http.Response) error {
	x.ans.events = isStream(resp)
	x.observe(resp)
	if x.ans.headerOut && !x.ans.events {
		x.readOn(resp) // it is billed all the same
		return httpapi.Abort(errors.New("the answer to a heartbeat's stream is none"))
	}
	held := x.watch != nil && !x.ans.events // nothing is out before the whole answer is recorded
	if !held {
		x.writeHeader(resp)
		_ = http.NewResponseController(x.ans.w).Flush()
	}
	return p.copyAnswer(x, resp)
}

// copyAnswer passes the body on. It is apart from relay because net/http needs
// much stack to write a header: a stream's goroutine stays at 8 KB if the way to
// there is short.
func (p *Proxy) copyAnswer(x *exchange, resp *http.Response) error {
	idle := time.AfterFunc(idleTimeout, func() { x.cancel(errStalled) })
	defer idle.Stop()

	buffers := &relayBuffers
	if x.ans.events || !x.held.buffers.TryGrow(relayBytes) {
		buffers = &eventBuffers
	}
	buffer := buffers.Get().(*[]byte)
	defer func() { buffers.Put(buffer) }()
	afterLeft := 0
	var ended *time.Timer
	for {
		n, readErr := resp.Body.Read(*buffer)
		idle.Reset(idleTimeout)
		forward := (*buffer)[:n]
		if x.watch != nil && n > 0 {
			over := x.watch.Terminal()
			forward = x.watch.Push(forward)
			if over && x.watch.Terminal() && len(forward) > 0 {
				// So much follows the end that it cannot be held: the record comes first.
				x.usage = x.reported()
				x.book(nil)
			}
		}
		if len(forward) > 0 && !x.left.Load() {
			x.writeHeader(resp)
			if err := x.ans.write(forward, true); err != nil {
				x.leave()
			}
		}
		if x.left.Load() {
			if afterLeft += n; afterLeft > drainBytes {
				// The cancel takes a moment to reach the connection: nothing more is read.
				x.cancel(httpapi.ErrClientGone)
				x.truncated = true
				return httpapi.ErrClientGone
			}
		}
		if ended == nil && x.watch != nil && x.watch.Complete() {
			ended = time.AfterFunc(endPatience, func() { x.cancel(errEnded) })
			defer ended.Stop()
		}
		switch {
		case readErr == nil:
			if n == len(*buffer) && buffers == &eventBuffers && x.held.buffers.TryGrow(relayBytes) {
				buffers.Put(buffer)
				buffers = &relayBuffers
				buffer = buffers.Get().(*[]byte)
			}
			continue
		case errors.Is(readErr, io.EOF), ended != nil:
			// Some servers keep the connection open behind the end of the answer.
		default:
			x.truncated = true
			return x.refused(truncation(x.ctx, readErr))
		}
		break
	}
	if x.watch != nil {
		x.truncated = !x.watch.Complete()
		x.ans.tail = x.watch.Close()
	}
	if x.clientGone() {
		return httpapi.ErrClientGone
	}
	x.writeHeader(resp)
	p.upstream.CopyTrailer(x.ans.w.Header(), resp)
	return nil
}

// readOn takes in an answer that nobody gets, for its usage.
func (x *exchange) readOn(resp *http.Response) {
	if x.watch == nil {
		return
	}
	defer hurry(resp).Stop()
	buffer := eventBuffers.Get().(*[]byte)
	defer eventBuffers.Put(buffer)
	for body := io.LimitReader(resp.Body, drainBytes); ; {
		n, err := body.Read(*buffer)
		x.watch.Push((*buffer)[:n])
		if errors.Is(err, io.EOF) {
			x.watch.Close()
		}
		if err != nil {
			return
		}
	}
}

// observe sets a watcher on a successful, readable answer that tells its usage.
func (x *exchange) observe(resp *http.Response) {
	if !x.req.endpoint.TellsUsage() || resp.StatusCode < 200 || resp.StatusCode > 299 || resp.Header.Get("Content-Encoding") != "" {
		return
	}
	x.watch = wire.Watch(x.req.endpoint, wire.WatchOptions{
		Stream: x.ans.events, StripUsage: x.spliced, Length: resp.ContentLength, Memory: &x.held.watch,
	})
}

func isStream(resp *http.Response) bool {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return kind == "text/event-stream"
}

// truncation says why an answer broke off.
func truncation(ctx context.Context, readErr error) error {
	if cause := context.Cause(ctx); cause != nil {
		readErr = cause
	}
	return &httpapi.Error{Status: http.StatusBadGateway, Code: "upstream_truncated", Final: true, Cause: readErr, Message: "the provider's answer broke off; it may have done the work"}
}
