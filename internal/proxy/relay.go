package proxy

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// errEndedEarly is an answer that ended cleanly before its own end.
var errEndedEarly = errors.New("the answer ended before its last event")

// open reads an answer up to the first bytes that are of the answer itself: blanks
// and comments before them are signs of life. If the provider says there that this
// was a rate limit, back is the way back to the queue, as after a 429.
func (p *Proxy) open(x *exchange, resp *http.Response) (back func(context.Context) error, err error) {
	x.ans.close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		x.try.lease.Started()
		return nil, nil
	}
	x.observe(resp)
	bound := x.ans.headerOut
	x.pass = newPassage(x, resp) // from here on its timers may write
	if x.watch != nil && (!bound || x.ans.fits(resp, true)) {
		back, err = x.pass.open()
	}
	switch {
	case err != nil:
	case back != nil:
		x.ans.setClosed(false)
	case bound && !x.ans.fits(resp, x.watch != nil && x.watch.Events()):
		x.readOn(resp) // it is billed all the same
		err = httpapi.Abort(errors.New("the answer does not fit the headers that are out"))
	default:
		if resp.StatusCode < 300 {
			x.try.lease.Started() // the model exists: it gets limits of its own
		}
		return nil, nil
	}
	x.pass.close()
	return back, err
}

// relay hands the rest of an answer on as it arrives, but for the tail, which must
// wait for the ledger. A read error is the upstream's fault and cuts the answer
// off; a write error is the client's and leaves the answer to be read on by
// DISCONNECT_POLICY.
func (p *Proxy) relay(x *exchange, resp *http.Response) error {
	defer x.pass.close()
	if x.watch == nil {
		x.writeHeader(resp)
		_ = http.NewResponseController(x.ans.w).Flush()
	}
	// The loop is not in relay's callees because net/http needs much stack to write
	// a header: a stream's goroutine stays at 8 KB if the way to there is short.
	for !x.pass.over {
		if err := x.pass.step(); err != nil {
			return err
		}
	}
	if x.watch != nil {
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
	x.watch.Release() // of an answer before
	x.watch, x.ans.events = nil, isStream(resp)
	coding := strings.Join(resp.Header.Values("Content-Encoding"), ",")
	if !x.req.endpoint.TellsUsage() || resp.StatusCode < 200 || resp.StatusCode > 299 || !wire.Legible(coding) {
		return
	}
	x.watch = wire.Watch(x.req.endpoint, wire.WatchOptions{
		Stream: x.ans.events, Asked: x.req.decoded.Stream, Choices: int(x.req.decoded.Choices), StripUsage: x.spliced,
		Coding: coding, Length: resp.ContentLength, Memory: &x.held.watch,
	})
	// Who asked for a stream gets one, whatever its label says.
	x.ans.events = x.ans.events || x.req.decoded.Stream
}

func isStream(resp *http.Response) bool { return mediaType(resp.Header) == "text/event-stream" }

func mediaType(h http.Header) string {
	kind, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	return kind
}

// unframed reports whether an answer's end is that of its connection: then a clean
// end says nothing.
func unframed(resp *http.Response) bool {
	return resp.ProtoMajor < 2 && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0
}

// truncation says why an answer broke off.
func truncation(ctx context.Context, readErr error) error {
	if cause := context.Cause(ctx); cause != nil {
		readErr = cause
	}
	return &httpapi.Error{Status: http.StatusBadGateway, Code: "upstream_truncated", Final: true, Cause: readErr, Message: "the provider's answer broke off; it may have done the work"}
}

// A pause of the answer that means something.
const (
	// headPatience is how long the headers of a stream wait for its first event,
	// which may yet be a rate limit.
	headPatience = time.Second
	// restPatience is how long a JSON value waits for the end of its connection,
	// which says that it is the whole answer.
	restPatience = 100 * time.Millisecond
)
