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

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// An attempt is one try at the provider. The last one is the row's.
type attempt struct {
	lease     *limit.Lease
	sentAt    time.Time
	queued    time.Duration // how long the request was kept here before it
	status    int           // of the answer; 0: none, or one that is not handed on
	firstByte time.Duration // since the request came; likewise
	refused   bool          // the answer was a refusal, and is not handed on
}

// send makes attempts until there is an answer to hand on. An attempt that may
// be repeated returns to the head of its session's queue first.
func (p *Proxy) send(x *exchange, lease *limit.Lease) (*http.Response, error) {
	p.repeats.earn()
	for unsent := 0; ; {
		x.attempt(lease)
		resp, err := p.upstream.Do(x.ctx, x.up)
		switch {
		case err == nil:
			unsent, x.fault = 0, nil
		case notSent(err):
			unsent++
			if err := x.unsent(err, unsent); err != nil {
				return nil, err
			}
			continue
		default:
			return nil, err
		}
		x.answered(resp)
		patience := refusalPatience
		back := p.judge(x, resp)
		if back == nil {
			if err := x.checkRedirect(resp); err != nil {
				return resp, err
			}
			patience = insidePatience
			if back, err = p.open(x, resp); err != nil {
				resp.Body.Close()
				return nil, err
			}
		}
		if back == nil {
			return resp, nil
		}
		x.discard(resp, patience)
		if err := back(x.req.r.Context()); err != nil {
			return nil, err
		}
	}
}

// unsent takes the last attempt back, of which nothing has left, and returns to the
// queue. It was the nth in a row.
func (x *exchange) unsent(err error, n int) error {
	x.tries--
	if x.ctx.Err() != nil {
		return err // nobody waits for another try
	}
	if x.unreached(err, n) {
		return err
	}
	x.p.metrics.Attempts.WithLabelValues("not_sent").Inc()
	return x.try.lease.Unsent(x.req.r.Context(), upstream.Backoff(n))
}

// judge tells the limiter what an answer's head says, and returns the way back to the
// queue; nil: the answer is handed on.
func (p *Proxy) judge(x *exchange, resp *http.Response) (back func(context.Context) error) {
	lease, now := x.try.lease, time.Now()
	pause, hinted := wire.RetryAfter(resp.Header, now)
	verdict := upstream.Judge(resp, hinted)
	if verdict == upstream.Pass { // a 429's levels go with its reasons
		lease.Observe(wire.ParseRateLimit(p.upstream.Host(), resp.Header, now))
	}
	if resp.StatusCode < 300 && x.up.KeyHeader != "" {
		p.azure.Store(true)
	}
	switch {
	case verdict == upstream.Throttled:
		kind, signal := wire.ParseThrottle(p.upstream.Host(), resp.Header, peek(resp), now)
		back, curable := p.throttled(x, kind, signal, p.upstream.KeyOf(resp), x.repeatable)
		if !curable {
			resp.Header.Set("X-Should-Retry", "false")
		}
		return back
	case verdict == upstream.Unavailable && x.repeatable() && p.repeats.spend(now):
		x.quote(wire.SaidOf(peek(resp)), p.upstream.KeyOf(resp))
		p.metrics.Attempts.WithLabelValues("unavailable").Inc()
		return func(ctx context.Context) error { return lease.Unavailable(ctx, pause) }
	case resp.StatusCode == http.StatusUnauthorized && !x.rekeyed && p.key.replaced(p.upstream.KeyOf(resp)) && x.repeatable():
		p.metrics.Attempts.WithLabelValues("key_replaced").Inc()
		x.rekeyed = true
		return lease.Retry
	case x.azureGateway(resp):
		p.metrics.Attempts.WithLabelValues("key_header").Inc()
		x.rekeyed, x.up.KeyHeader = true, upstream.AzureKey
		return lease.Retry
	case x.spliced && wire.RejectsStreamOptions(resp.StatusCode, peek(resp)):
		// Our own splice was refused: this provider is asked without it from now on.
		p.plain.add(x.req.decoded.Model)
		p.setBody(x)
		return lease.Retry
	}
	return nil
}

// throttled tells the limiter of a refusal for want of some limit, and returns the way
// back to the queue. Without one the client has to have it: because waiting does not
// cure it, or because it cannot be sent again. key is what it was sent with.
func (p *Proxy) throttled(x *exchange, kind wire.ThrottleKind, s llm.Signal, key string, again func() bool) (back func(context.Context) error, curable bool) {
	lease := x.try.lease
	p.metrics.Upstream429.WithLabelValues(throttleReason(kind, s.Dimension)).Inc()
	s.Said = x.quote(s.Said, key)
	if kind == wire.TooLarge {
		lease.TooLarge(s)
	}
	switch {
	case kind == wire.Quota, kind == wire.TooLarge, kind == wire.Unclear && lease.Puzzled():
		lease.Observe(llm.Signal{}) // an answer: others need not wait for it
		return nil, false
	case !again():
		lease.Limited(s)
		return nil, true
	}
	return func(ctx context.Context) error { return lease.Throttled(ctx, s) }, true
}

// quote notes what the provider said when it turned the request away, without the key.
func (x *exchange) quote(said, key string) string {
	if key != "" {
		said = strings.ReplaceAll(said, key, "[…]")
	}
	x.said = said
	x.try.lease.Quote(said)
	return said
}

// setBody sends the client's body, byte for byte, but for include_usage where the
// client's stream did not ask for its usage.
func (p *Proxy) setBody(x *exchange) {
	x.up.Body, x.up.Edit, x.spliced = x.req.decoded.Raw, upstream.Edit{}, false
	if p.plain.has(x.req.decoded.Model) {
		return
	}
	if from, to, text, spliced := x.req.decoded.Splice(); spliced {
		x.up.Edit, x.spliced = upstream.Edit{From: from, To: to, Text: text}, true
	}
}

// attempt notes that the request is about to be sent.
func (x *exchange) attempt(lease *limit.Lease) {
	x.try = attempt{lease: lease, sentAt: time.Now()}
	x.try.queued = x.waited()
	x.tries++
	if !x.sent.Load() {
		x.p.inFlight.Add(1)
		x.held.own.Resize(sentBytes) // what is sent is never refused: newcomers are
		x.sent.Store(true)
		x.p.ledger.Start(x.record())
	}
	lease.Sent()
}

// waited is the time before the last attempt that the request was kept here.
func (x *exchange) waited() time.Duration { return x.draw.waited + x.try.lease.Waited() }

// answered notes an answer's headers.
func (x *exchange) answered(resp *http.Response) {
	x.try.status, x.try.firstByte = resp.StatusCode, time.Since(x.req.started)
}

// repeatable reports whether the request can be sent again. Its body may have passed
// through, and be gone; a small one was kept on its way.
func (x *exchange) repeatable() bool {
	if x.up.Stream == nil || x.up.Length == 0 {
		return true
	}
	held := x.req.upload.take()
	if held == nil {
		return false
	}
	x.req.body, x.up.Body, x.up.Stream, x.up.Length = held, held.bytes, nil, 0
	return true
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

const (
	// refusalPatience is what a refusal's body gets: one that stalls would hold its
	// place.
	refusalPatience = 10 * time.Second
	// insidePatience is what the rest of a stream gets that was refused inside.
	insidePatience = 100 * time.Millisecond
)

func hurry(resp *http.Response) *time.Timer { return closeAfter(refusalPatience, resp) }

func closeAfter(d time.Duration, resp *http.Response) *time.Timer {
	return time.AfterFunc(d, func() { resp.Body.Close() })
}

// discard reads the rest of an answer that nobody gets, so that its connection
// can be used again, and closes it.
func (x *exchange) discard(resp *http.Response, patience time.Duration) {
	defer closeAfter(patience, resp).Stop()
	x.watch.Release()
	x.watch = nil
	x.held.watch.Release()
	x.try.status, x.try.firstByte, x.try.refused = 0, 0, true
	_, _ = io.CopyN(io.Discard, resp.Body, peekLimit)
	resp.Body.Close()
}

func notSent(err error) bool {
	var e *upstream.Error
	return errors.As(err, &e) && (e.Kind == upstream.NotSent || e.Kind == upstream.Unreachable)
}
