package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/budget"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// The bounds of reading an answer on after its client has left (contract,
// DISCONNECT_POLICY).
const (
	drainTime  = 10 * time.Second
	drainBytes = 1 << 20
	drainShare = 10 // one in so many answers under way
)

// statusClientGone is what the log says where the client left (nginx's 499).
const statusClientGone = 499

// An exchange is one request on its way, and what is known of it so far.
// Its methods are called by the handler's goroutine, leave by any.
type exchange struct {
	s       *Proxy
	cfg     *config.Config // as it was when the request came, for all of its way
	w       http.ResponseWriter
	r       *http.Request
	who     session.Identity
	client  string
	id      ledger.ID
	started time.Time

	endpoint wire.Endpoint
	req      *wire.Request
	body     *heldBody
	upload   *patientBody // where the body streams through
	out      upstream.Request
	spliced  bool // include_usage was added by us
	rekeyed  bool // sent again with the key that is in the file by now
	estimate tokens.Estimate

	ctx    context.Context // of the attempts: outlives the client by DISCONNECT_POLICY
	cancel context.CancelCauseFunc
	stop   []func() bool // of leave and of the end of the grace

	budget     *budget.Reservation // nil: it draws on none
	waits      time.Time           // since when it waits, for whatever
	budgetWait time.Duration       // before the queue, for others' reservations

	lease     *limit.Lease
	sentAt    time.Time // of the last attempt
	events    bool      // the answer is a stream of events
	watch     *wire.Watcher
	headerOut bool // a status line is out: only a cut can still say that something failed
	truncated bool
	recorded  bool
	row       ledger.Record

	sent atomic.Bool // an attempt has been made
	left atomic.Bool // the client has gone
	live bool        // counted in s.inFlight

	interims  sync.Mutex // interim answers come from another goroutine
	answering bool       // no interim answer may follow

	mu      sync.Mutex  // leave may run beside end
	ended   bool        // nothing may be taken any more
	reading *time.Timer // an answer is read on, counted in s.drains
}

func (s *Proxy) begin(w http.ResponseWriter, r *http.Request, who session.Identity, client string) *exchange {
	x := &exchange{s: s, cfg: s.settings.Load(), w: w, r: r, who: who, client: client, id: ledger.NewID(), started: time.Now()}
	x.out = upstream.Request{Method: r.Method, Path: who.Rest, RawQuery: r.URL.RawQuery, Header: r.Header, Interim: x.interim}
	x.ctx, x.cancel = context.WithCancelCause(context.WithoutCancel(r.Context()))
	x.stop = append(x.stop,
		context.AfterFunc(r.Context(), x.leave),
		context.AfterFunc(s.over, func() { x.cancel(httpapi.ErrShuttingDown) }))
	s.exchanges.Add(1)
	return x
}

// leave is called once the client has gone. An answer under way is read on for
// a while to learn what it cost, within the bounds above.
func (x *exchange) leave() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.left.Swap(true) || x.ended {
		return
	}
	places := max(1, x.s.inFlight.Load()/drainShare)
	switch {
	case x.cfg.DisconnectPolicy == "cancel", !x.sent.Load(), !x.endpoint.TellsUsage():
		x.cancel(httpapi.ErrClientGone)
	case x.s.drains.Add(1) > places:
		x.s.drains.Add(-1)
		x.cancel(httpapi.ErrClientGone)
	default:
		x.reading = time.AfterFunc(drainTime, func() { x.cancel(httpapi.ErrClientGone) })
	}
}

// settleDrain gives back what leave took, and lets it take no more.
func (x *exchange) settleDrain() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
	if x.reading != nil {
		x.reading.Stop()
		x.s.drains.Add(-1)
	}
}

func (x *exchange) clientGone() bool { return x.left.Load() || x.r.Context().Err() != nil }

// attempt notes that the request is about to be sent.
func (x *exchange) attempt(lease *limit.Lease) {
	x.lease, x.sentAt = lease, time.Now()
	x.row.Attempts++
	x.row.QueueWait = x.waited()
	if !x.live {
		x.live = true
		x.s.inFlight.Add(1)
		x.sent.Store(true)
		x.fillRow()
		x.s.ledger.Start(x.row)
	}
	lease.Sent()
}

// waited is the time before the last attempt that the request was kept here.
func (x *exchange) waited() time.Duration { return x.budgetWait + x.lease.Waited() }

// unsent takes the last attempt back: nothing of it has left.
func (x *exchange) unsent() { x.row.Attempts-- }

func (x *exchange) fillRow() {
	x.row.ID, x.row.StartedAt = x.id, x.started
	x.row.Session, x.row.Parent, x.row.Client = x.who.Session, x.who.Parent, x.client
	x.row.Route, x.row.Metered, x.row.Stream = x.endpoint.String(), x.endpoint.Billed(), x.req.Stream
	x.row.Model = ledger.CleanName(x.req.Model)
	x.row.EstimatedPrompt, x.row.EstimatedOutput = x.estimate.Input, x.estimate.Output
}

// answered notes an answer's headers.
func (x *exchange) answered(resp *http.Response) {
	x.row.Status, x.row.FirstByte = resp.StatusCode, time.Since(x.started)
}

// requeued forgets an answer that is not handed on: the row tells of the last.
func (x *exchange) requeued() { x.row.Status, x.row.FirstByte = 0, 0 }

// release gives back the body's bytes once no attempt can follow.
func (x *exchange) release() {
	if x.body != nil {
		x.body.release()
		x.out.Body = nil
		*x.req = wire.Request{Endpoint: x.endpoint, Model: x.req.Model, Stream: x.req.Stream} // no span into the body
	}
}

// streamed reports whether the body has passed through and is gone.
func (x *exchange) streamed() bool { return x.out.Stream != nil && x.out.Length != 0 }

// usage returns what the answer said of its cost, nil if it said nothing; a
// count beyond what the ledger can hold is none.
func (x *exchange) usage() *llm.Usage {
	if x.watch == nil {
		return nil
	}
	u, known := x.watch.Usage()
	if !known || max(u.Input, u.Output, u.Cached, u.Reasoning) > ledger.MaxTokens {
		return nil
	}
	return &u
}

// complete fills in the row's end.
func (x *exchange) complete(u *llm.Usage, failure error) {
	if x.row.UsageKnown = u != nil; u != nil {
		x.row.Usage = *u
	}
	x.row.Total = time.Since(x.started)
	if x.watch != nil {
		x.row.AnsweredModel = ledger.CleanName(x.watch.Model())
	}
	x.row.Outcome = x.outcome(failure)
}

// end frees what the exchange holds and writes its one log line.
func (x *exchange) end(failure error) {
	defer x.s.exchanges.Done()
	for _, stop := range x.stop {
		stop()
	}
	x.cancel(nil)
	if x.body != nil {
		x.body.release()
	}
	if x.upload != nil {
		x.upload.close()
	}
	x.settleDrain()
	if x.live {
		x.s.inFlight.Add(-1)
	}
	if x.row.Attempts == 0 && !x.waits.IsZero() {
		x.row.QueueWait = time.Since(x.waits) // all that it did
	}
	x.s.count(x, failure)
	model := x.row.Model
	if model == "" && x.req != nil { // nothing was sent, so there is no row
		model = ledger.CleanName(x.req.Model)
	}
	attributes := []slog.Attr{
		slog.String("request_id", x.id.String()), slog.String("client", x.client), slog.String("session", x.who.Session),
		slog.String("route", x.endpoint.String()), slog.String("model", string(model)), slog.Int("status", x.status(failure)),
		slog.Int("attempts", x.row.Attempts), slog.Int64("queue_ms", x.row.QueueWait.Milliseconds()),
		slog.Int64("first_byte_ms", x.row.FirstByte.Milliseconds()), slog.Int64("total_ms", time.Since(x.started).Milliseconds()),
	}
	if x.recorded {
		attributes = append(attributes, slog.String("outcome", x.row.Outcome.String()))
	}
	if x.row.UsageKnown {
		attributes = append(attributes, slog.Int64("prompt_tokens", x.row.Usage.Input), slog.Int64("completion_tokens", x.row.Usage.Output))
	}
	if failure != nil {
		attributes = append(attributes, slog.String("error", failure.Error()))
	}
	x.s.logger.LogAttrs(x.r.Context(), slog.LevelInfo, "request", attributes...)
}

// status is what the client got.
func (x *exchange) status(failure error) int {
	switch {
	case httpapi.Gone(failure):
		return statusClientGone
	case failure == nil || httpapi.Silent(failure):
		return x.row.Status
	}
	return httpapi.ErrorOf(told(failure)).Status
}

// refused turns an error before the answer into what the client can still be
// told.
func (x *exchange) refused(err error) error {
	switch {
	case x.clientGone():
		return httpapi.ErrClientGone
	case x.headerOut:
		return httpapi.Abort(err)
	}
	return err
}

// beat keeps a waiting stream's connection alive: a line of one space is the
// only sign of life that no SDK stumbles over.
func (x *exchange) beat() error {
	x.interims.Lock() // the last attempt's connection may still bring an interim answer
	defer x.interims.Unlock()
	if !x.headerOut {
		h := x.w.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set(accelBuffering, "no")
		h.Set("X-Request-Id", x.id.String())
		x.w.WriteHeader(http.StatusOK)
		x.headerOut = true
	}
	if _, err := x.w.Write([]byte(" \n")); err != nil {
		return httpapi.ErrClientGone
	}
	return http.NewResponseController(x.w).Flush()
}

// writeHeader sends the answer's status and headers, once.
func (x *exchange) writeHeader(resp *http.Response) {
	if x.headerOut {
		return
	}
	x.headerOut = true
	x.answerHeader(x.w.Header(), resp)
	if x.upload != nil && !x.upload.over.Load() {
		// net/http would read on in the upload before it sends the answer. What is
		// left of it cannot be told from a next request.
		_ = http.NewResponseController(x.w).EnableFullDuplex()
		x.w.Header().Set("Connection", "close")
	}
	x.w.WriteHeader(resp.StatusCode)
}

// answerHeader puts the answer's headers, and ours, into h.
func (x *exchange) answerHeader(h http.Header, resp *http.Response) {
	x.s.upstream.CopyHeader(h, resp)
	if resp.StatusCode < 300 && h.Get("X-Should-Retry") == "true" {
		h.Del("X-Should-Retry") // openai-go would send a successful request again
	}
	if x.spliced {
		h.Del("Content-Length") // the usage chunk will be missing
	}
	queued := x.waited()
	h.Set("X-Queue-Wait-Ms", strconv.FormatInt(queued.Milliseconds(), 10))
	h.Add("Server-Timing", fmt.Sprintf("queue;dur=%.1f, upstream;dur=%.1f", httpapi.Milliseconds(queued), httpapi.Milliseconds(time.Since(x.sentAt))))
	if h.Get("X-Request-Id") == "" {
		h.Set("X-Request-Id", x.id.String())
	}
	if x.events && h.Get(accelBuffering) == "" {
		h.Set(accelBuffering, "no")
	}
}

// accelBuffering is a word to nginx, which takes it out: "no" lets events pass
// one by one.
const accelBuffering = "X-Accel-Buffering"

func notSent(err error) bool {
	var e *upstream.Error
	return errors.As(err, &e) && e.Kind == upstream.NotSent
}
