package proxy

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// START HERE
//
// handleProxy serves /v1/...: one request, from the client's bytes to the
// ledger's row. Whatever happens after the first attempt, the lease ends and
// one row is written; once a byte of the answer is out, nothing is made up any
// more: the connection is cut instead.
func (p *Proxy) handleProxy(w http.ResponseWriter, r *http.Request, caller httpapi.Caller) (err error) {
	// 1 Identify.
	who, err := session.From(r, p.settings.Load().SessionHeader)
	if err != nil {
		return err
	}
	if via := strings.Join(r.Header["Via"], ","); strings.Contains(via, p.instance) || strings.Count(via, viaName) > maxHops {
		return errLoop
	}
	if err := p.checkTarget(who); err != nil {
		return err
	}
	x := p.begin(w, r, who, caller)
	defer func() { x.end(err) }()

	if err := p.Unfit(); err != nil {
		return err
	}
	if err := x.enter(); err != nil {
		return err
	}

	// 2 Decode: a typed view beside the raw bytes.
	if x.req.endpoint = wire.EndpointOf(r.Method, who.Rest); x.req.endpoint.Decoded() {
		held, err := p.readBody(x)
		if err != nil {
			return err
		}
		x.req.body = held
		if x.req.decoded, err = wire.Decode(x.req.endpoint, held.bytes); err != nil {
			return err
		}
		x.req.decoded.Model = cmp.Or(x.req.decoded.Model, llm.Model(who.Deployment))
		x.req.model = ledger.CleanName(x.req.decoded.Model)
		p.setBody(x)
		x.up.Identity, x.up.Events = true, x.req.decoded.Stream
	} else {
		x.req.decoded = &wire.Request{Endpoint: x.req.endpoint}
		x.up.Websocket = httpapi.WantsWebsocket(r)
		if err := p.unmeteredBody(x); err != nil {
			return err
		}
	}

	// 3 Estimate.
	if x.req.endpoint.Decoded() {
		x.req.estimate = p.estimate(x)
	}

	// 4 Reserve what it may cost in the budgets of its session.
	x.req.await()
	if err := p.reserve(x); err != nil {
		return x.refused(err)
	}
	defer x.draw.reservation.Release() // harmless once settled

	// 5 Wait for a place.
	lease, err := p.acquire(x)
	if err != nil {
		return x.refused(err)
	}
	defer lease.Release() // harmless once settled

	// 6 Send; a 429 or a safe fault goes back to 5 with its place kept.
	defer func() { x.depart(err) }() // from here on there is something to record
	resp, err := p.send(x, lease)
	x.ans.close()
	if x.refusedHandshake(resp) {
		lease.Return() // it was no use of the provider
	}
	if err != nil {
		x.try.queued = x.waited()
		if x.usage = x.reported(); x.usage != nil { // of an answer that nobody can get
			p.settle(x, lease, x.usage)
		}
		lease.Release() // nobody waits for this request's row
		return x.refused(err)
	}
	defer resp.Body.Close()
	x.forget() // nothing can be sent again now: the body's bytes are free

	// 7 Stream the answer, observing its usage; the terminal event is kept back.
	if resp.StatusCode == http.StatusSwitchingProtocols {
		err = p.tunnel(x, resp)
	} else {
		err = p.relay(x, resp)
	}

	// 8 Settle the charge.
	if x.usage = x.reported(); x.usage != nil {
		p.settle(x, lease, x.usage)
	}

	// 9 Record, before the client has the whole answer; the budgets settle with
	// the row.
	x.book(err)
	if err != nil {
		return err
	}

	// 10 The terminal event leaves with the end of the body, in one write: SDKs
	// stop reading at [DONE], and an unread end costs them the connection.
	return x.ans.finish()
}
