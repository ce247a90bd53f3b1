package proxy

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// START HERE
//
// handleProxy serves /v1/...: one request, from the client's bytes to the
// ledger's row. Whatever happens after the first attempt, the lease ends and
// one row is written; once a byte of the answer is out, nothing is made up any
// more: the connection is cut instead.
func (s *Proxy) handleProxy(w http.ResponseWriter, r *http.Request, client string) (err error) {
	// 1 Identify.
	who, err := session.From(r, s.settings.Load().SessionHeader)
	if err != nil {
		return err
	}
	if via := strings.Join(r.Header["Via"], ","); strings.Contains(via, s.instance) || strings.Count(via, viaName) > maxHops {
		return errLoop
	}
	if strings.HasPrefix(who.Rest, "v1/") {
		return errDoubleV1
	}
	x := s.begin(w, r, who, client)
	defer func() { x.end(err) }()

	if err := s.Unfit(); err != nil {
		return err
	}

	// 2 Decode: a typed view beside the raw bytes.
	if x.endpoint = wire.EndpointOf(r.Method, who.Rest); x.endpoint.Decoded() {
		held, err := s.readBody(x)
		if err != nil {
			return err
		}
		x.body = held
		if x.req, err = wire.Decode(x.endpoint, held.bytes); err != nil {
			return err
		}
		x.out.Body, x.out.Identity, x.out.Events = s.upstreamBody(x), true, x.req.Stream
	} else {
		x.req = &wire.Request{Endpoint: x.endpoint}
		x.out.Websocket = httpapi.WantsWebsocket(r)
		if err := s.unmeteredBody(x); err != nil {
			return err
		}
	}

	// 3 Estimate.
	if x.endpoint.Decoded() {
		x.estimate = s.estimate(x)
	}

	// 4 Reserve what it may cost in the budgets of its session.
	x.waits = time.Now()
	if x.budget, err = s.reserve(x); err != nil {
		return x.refused(err)
	}
	defer x.budget.Release() // harmless once settled

	// 5 Wait for a place.
	lease, err := s.acquire(x)
	if err != nil {
		return x.refused(err)
	}
	defer lease.Release() // harmless once settled

	// 6 Send; a 429 or a safe fault goes back to 5 with its place kept.
	defer func() { x.depart(err) }() // from here on there is something to record
	resp, err := s.send(x, lease)
	x.closeInterim()
	if err != nil {
		x.row.QueueWait = x.waited()
		lease.Release() // nobody waits for this request's row
		return x.refused(err)
	}
	defer resp.Body.Close()
	x.release() // nothing can be sent again now: the body's bytes are free

	if resp.StatusCode == http.StatusSwitchingProtocols {
		err := s.tunnel(x, resp)
		x.record(nil, err)
		return err
	}

	// 7 Stream the answer, observing its usage; the terminal event is kept back.
	tail, err := s.relay(x, resp)

	// 8 Settle the charge.
	usage := x.usage()
	if usage != nil {
		s.settle(x, lease, usage)
	}

	// 9 Record, before the client has the whole answer; the budgets settle with
	// the row.
	x.record(usage, err)
	if err != nil {
		return err
	}

	// 10 The terminal event leaves with the end of the body, in one write: SDKs
	// stop reading at [DONE], and an unread end costs them the connection.
	return x.finish(tail)
}

// send makes attempts until there is an answer to hand on. An attempt that may
// be repeated returns to the head of its session's queue first.
func (s *Proxy) send(x *exchange, lease *limit.Lease) (*http.Response, error) {
	queue := x.r.Context()
	s.repeats.earn()
	for unsent := 1; ; {
		x.attempt(lease)
		resp, err := s.upstream.Do(x.ctx, x.out)
		if err != nil {
			if !notSent(err) {
				return nil, err
			}
			x.unsent()
			if x.ctx.Err() != nil {
				return nil, err // nobody waits for another try
			}
			s.metrics.Attempts.WithLabelValues("not_sent").Inc()
			s.logger.Warn("upstream unreachable", "request_id", x.id.String(), "unsent", unsent, "error", err.Error())
			if err := lease.Unsent(queue, upstream.Backoff(unsent)); err != nil {
				return nil, err
			}
			unsent++
			continue
		}
		unsent = 1
		x.answered(resp)
		now := time.Now()
		verdict, pause := upstream.Judge(resp, now)
		if verdict == upstream.Pass { // a 429's levels go with its reasons
			lease.Observe(wire.ParseRateLimit(s.upstream.Host(), resp.Header, now))
		}
		if resp.StatusCode < 300 {
			lease.Started() // the model exists: it gets limits of its own
		}

		switch {
		case verdict == upstream.Throttled:
			kind, signal := wire.ParseThrottle(s.upstream.Host(), resp.Header, peek(resp), now)
			s.metrics.Upstream429.WithLabelValues(throttleReason(kind, signal.Dimension)).Inc()
			if kind != wire.Curable {
				resp.Header.Set("X-Should-Retry", "false") // waiting cures neither
				return resp, nil
			}
			if x.streamed() {
				return resp, nil
			}
			if err := x.throttled(lease, resp, signal); err != nil {
				return nil, err
			}
		case verdict == upstream.Unavailable && !x.streamed() && s.repeats.spend(now):
			s.metrics.Attempts.WithLabelValues("unavailable").Inc()
			x.discard(resp)
			if err := lease.Unavailable(queue, pause); err != nil {
				return nil, err
			}
		case resp.StatusCode == http.StatusUnauthorized && !x.rekeyed && !x.streamed() && s.key.replaced(s.upstream.KeyOf(resp)):
			s.metrics.Attempts.WithLabelValues("key_replaced").Inc()
			x.rekeyed = true
			x.discard(resp)
			if err := lease.Retry(queue); err != nil {
				return nil, err
			}
		case x.spliced && wire.RejectsStreamOptions(resp.StatusCode, peek(resp)):
			// Our own splice was refused: this provider is asked without it from now on.
			s.plain.add(x.req.Model)
			x.discard(resp)
			x.out.Body = s.upstreamBody(x)
			if err := lease.Retry(queue); err != nil {
				return nil, err
			}
		default:
			return resp, nil
		}
	}
}

// throttled returns to the queue with all that the refusal says.
func (x *exchange) throttled(lease *limit.Lease, resp *http.Response, s llm.Signal) error {
	x.discard(resp)
	return lease.Throttled(x.r.Context(), s)
}

// upstreamBody is the client's body, byte for byte, but for include_usage
// where the client's stream did not ask for its usage.
func (s *Proxy) upstreamBody(x *exchange) []byte {
	x.spliced = false
	if s.plain.has(x.req.Model) {
		return x.req.Raw
	}
	body, spliced := x.req.Upstream()
	x.spliced = spliced
	return body
}

// peekLimit bounds what is read of a refusal to find its reason.
const peekLimit = 64 << 10

// peek reads the beginning of a refusal's body and puts it back.
func peek(resp *http.Response) []byte {
	if resp.StatusCode < 400 {
		return nil
	}
	defer hurry(resp).Stop()
	head, _ := io.ReadAll(io.LimitReader(resp.Body, peekLimit))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	if resp.Header.Get("Content-Encoding") == "gzip" { // as the client of an unmetered route may ask
		if unzip, err := gzip.NewReader(bytes.NewReader(head)); err == nil {
			head, _ = io.ReadAll(io.LimitReader(unzip, peekLimit))
		}
	}
	return head
}

// hurry gives a body ten seconds: a refusal that stalls would hold its place.
func hurry(resp *http.Response) *time.Timer {
	return time.AfterFunc(10*time.Second, func() { resp.Body.Close() })
}

// discard reads the rest of an answer that nobody gets, so that its connection
// can be used again, and closes it.
func (x *exchange) discard(resp *http.Response) {
	defer hurry(resp).Stop()
	x.requeued()
	_, _ = io.CopyN(io.Discard, resp.Body, peekLimit)
	resp.Body.Close()
}

// ledgerPause is how long LEDGER_ON_FAILURE=refuse turns requests away after a
// record was lost; the next one through tries the ledger again.
const ledgerPause = 5 * time.Second

// Unfit says why requests are refused while the ledger fails; nil: they are not.
func (s *Proxy) Unfit() error {
	lost := s.lostAt.Load()
	if s.settings.Load().LedgerOnFailure == "refuse" && lost != 0 && time.Since(time.Unix(0, lost)) < ledgerPause {
		return errLedger
	}
	return nil
}

// recordTimeout bounds how long a client waits for the ledger: past it the
// answer, which is already billed, is delivered all the same.
const recordTimeout = 10 * time.Second

// record writes the exchange's one row. It must not inherit the client's
// cancellation: who leaves early has used tokens all the same. Usage is nil
// where it is not known.
func (x *exchange) record(usage *llm.Usage, failure error) {
	if x.recorded {
		return
	}
	x.recorded = true
	x.complete(usage, failure)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), recordTimeout)
	defer cancel()
	if err := x.s.ledger.Record(ctx, x.row); err != nil {
		if !errors.Is(err, ledger.ErrInvalid) { // the others' records are not concerned
			x.s.lostAt.Store(time.Now().UnixNano())
		}
		x.s.metrics.Unrecorded.Inc()
		x.s.logger.Error("usage not recorded", "error", err.Error(), "record", ledgerRow(x.row))
	}
	x.settleBudget()
}

// depart records an exchange that ended before its answer was relayed. One
// that was never sent has no row.
func (x *exchange) depart(failure error) {
	switch {
	case x.row.Attempts > 0:
		// Without a failure it has a row by now, or it panicked.
		x.truncated = x.truncated || failure == nil && !x.recorded
		x.record(nil, failure)
	case x.live:
		x.s.ledger.Forget(x.id)
	}
}

// outcome says how an exchange ended.
func (x *exchange) outcome(failure error) ledger.Outcome {
	switch {
	case x.clientGone():
		return ledger.ClientGone
	case x.row.Status != http.StatusSwitchingProtocols && (x.row.Status < 200 || x.row.Status > 299), x.watch != nil && x.watch.Failed():
		return ledger.UpstreamError
	case failure != nil || x.truncated:
		return ledger.Truncated
	}
	return ledger.Complete
}
