package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// statusClientGone is what the log says where the client left (nginx's 499).
const statusClientGone = 499

// An exchange is one request on its way: what was asked, the tries at the provider,
// and the answer. Its methods are called by the handler's goroutine, leave by any.
type exchange struct {
	p   *Proxy
	req request
	try attempt // the last one
	ans answer
	life

	draw    draw             // what it has reserved
	up      upstream.Request // what is sent
	spliced bool             // include_usage was added by us
	rekeyed bool             // sent again with the key that is in the file by now, or in another header
	tries   int              // that may have reached the provider
	fault   *upstream.Error  // of the last attempt, if it found no connection
	said    string           // by the provider when it last turned the request away

	held struct { // what the account counts beside the body
		own     memory.Hold // of the overhead: what a request takes by itself
		header  memory.Hold // long headers of the request
		buffers memory.Hold // that bytes pass through
		watch   memory.Hold // what watch keeps back, until the answer has ended
	}

	watch     *wire.Watcher // nil: the answer is not looked into
	pass      *passage      // of the answer that is handed on
	usage     *llm.Usage    // what the answer said that it cost; nil: nothing
	truncated bool
	booked    bool
	row       ledger.Record // once it is booked
}

func (p *Proxy) begin(w http.ResponseWriter, r *http.Request, who session.Identity, caller httpapi.Caller) *exchange {
	x := &exchange{p: p, req: request{
		r: r, cfg: p.settings.Load(), client: caller.Name, owner: caller.Owner(), who: who, id: ledger.NewID(), started: time.Now(),
	}}
	x.ans.w, x.ans.r, x.ans.id = w, r, x.req.id
	x.held.own = p.overhead.Hold(memory.Requests)
	x.held.header, x.held.buffers, x.held.watch = p.memory.Hold(memory.Requests), p.memory.Hold(memory.Answers), p.memory.Hold(memory.Answers)
	x.up = upstream.Request{Method: r.Method, Path: who.Rest, Origin: who.Origin, RawQuery: r.URL.RawQuery, Header: r.Header, Interim: x.interim}
	if p.azure.Load() {
		x.up.KeyHeader = upstream.AzureKey
	}
	x.ctx, x.cancel = context.WithCancelCause(context.WithoutCancel(r.Context()))
	x.stop = append(x.stop,
		context.AfterFunc(r.Context(), x.leave),
		context.AfterFunc(p.over, func() { x.cancel(httpapi.ErrShuttingDown) }))
	p.exchanges.Add(1)
	return x
}

// forget gives the body's bytes back once no attempt can follow.
func (x *exchange) forget() {
	if x.req.upload != nil {
		x.req.upload.forget()
	}
	if q := &x.req; q.body != nil {
		q.body.release()
		x.up.Body = nil
		*q.decoded = wire.Request{Endpoint: q.endpoint, Model: q.decoded.Model, Stream: q.decoded.Stream} // no span into the body
	}
}

// end frees what the exchange holds and writes its one log line.
func (x *exchange) end(failure error) {
	defer x.p.exchanges.Done()
	for _, stop := range x.stop {
		stop()
	}
	x.cancel(nil)
	x.req.close()
	x.held.own.Release()
	x.held.header.Release()
	x.held.buffers.Release()
	x.watch.Release()
	x.held.watch.Release()
	x.settleDrain()
	if x.sent.Load() {
		x.p.inFlight.Add(-1)
	}
	q := &x.req
	if x.tries == 0 && !q.deadline.since.IsZero() {
		x.try.queued = time.Since(q.deadline.since) // all that it did
	}
	x.p.count(x, failure)
	attributes := []slog.Attr{
		slog.String("request_id", q.id.String()), slog.String("client", q.client), slog.String("session", q.who.Session),
		slog.String("route", q.endpoint.String()), slog.String("model", string(q.model)), slog.Int("status", x.status(failure)),
		slog.Int("attempts", x.tries), slog.Int64("queue_ms", x.try.queued.Milliseconds()),
		slog.Int64("first_byte_ms", x.try.firstByte.Milliseconds()), slog.Int64("total_ms", time.Since(q.started).Milliseconds()),
	}
	if x.booked {
		attributes = append(attributes, slog.String("outcome", x.row.Outcome.String()))
	}
	if x.row.UsageKnown {
		attributes = append(attributes, slog.Int64("prompt_tokens", x.row.Usage.Input), slog.Int64("completion_tokens", x.row.Usage.Output))
	}
	if failure != nil {
		attributes = append(attributes, slog.String("error", failure.Error()))
	}
	if x.said != "" && (failure != nil || x.try.status >= 400) {
		attributes = append(attributes, slog.String("provider_said", x.said))
	}
	x.p.logger.LogAttrs(q.r.Context(), slog.LevelInfo, "request", attributes...)
}

// status is what the client got.
func (x *exchange) status(failure error) int {
	switch {
	case httpapi.Gone(failure):
		return statusClientGone
	case failure == nil || httpapi.Silent(failure):
		return x.try.status
	}
	return httpapi.ErrorOf(told(failure)).Status
}

// refused turns an error before the answer into what the client can still be
// told.
func (x *exchange) refused(err error) error {
	switch {
	case x.clientGone():
		return httpapi.ErrClientGone
	case x.ans.headerOut:
		return httpapi.Abort(err)
	}
	return x.unreachable(err)
}

// interim passes an interim answer on while the client is there.
func (x *exchange) interim(status int, header http.Header) {
	if !x.left.Load() {
		x.ans.interim(status, header)
	}
}

// writeHeader sends the answer's status and headers, once.
func (x *exchange) writeHeader(resp *http.Response) {
	x.ans.writeHeader(resp.StatusCode, func(h http.Header) {
		x.answerHeader(h, resp)
		if x.req.upload != nil && !x.req.upload.over.Load() {
			// net/http would read on in the upload before it sends the answer. What is
			// left of it cannot be told from a next request.
			_ = http.NewResponseController(x.ans.w).EnableFullDuplex()
			h.Set("Connection", "close")
		}
	})
}

// answerHeader puts the answer's headers, and ours, into h.
func (x *exchange) answerHeader(h http.Header, resp *http.Response) {
	httpapi.KeepOrigin(h, func() { x.p.upstream.CopyHeader(h, resp) })
	x.makeOurs(h, resp)
	if resp.StatusCode < 300 && h.Get("X-Should-Retry") == "true" {
		h.Del("X-Should-Retry") // openai-go would send a successful request again
	}
	if x.spliced {
		h.Del("Content-Length") // the usage chunk will be missing
	}
	queued := x.waited()
	h.Set("X-Queue-Wait-Ms", strconv.FormatInt(queued.Milliseconds(), 10))
	h.Add("Server-Timing", fmt.Sprintf("queue;dur=%.1f, upstream;dur=%.1f", httpapi.Milliseconds(queued), httpapi.Milliseconds(time.Since(x.try.sentAt))))
	if h.Get("X-Request-Id") == "" {
		h.Set("X-Request-Id", x.req.id.String())
	}
	if x.ans.events && h.Get(accelBuffering) == "" {
		h.Set(accelBuffering, "no")
	}
}
