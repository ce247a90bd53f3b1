package proxy

import (
	"hash/maphash"
	"strconv"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// acquire waits for a place.
func (p *Proxy) acquire(x *exchange) (*limit.Lease, error) {
	r := p.limitRequest(x)
	if o, lasts := p.upstream.Outage(); lasts && o.GivenUp {
		r.MaxWait = min(r.MaxWait, knock)
	}
	return p.limits.Acquire(x.req.r.Context(), r)
}

// limitRequest says what the queue has to know of a request.
func (p *Proxy) limitRequest(x *exchange) limit.Request {
	rule := x.req.cfg.File.Clients[x.req.client]
	r := limit.Request{
		Model:        x.req.decoded.Model,
		Control:      !x.req.endpoint.Decoded() && !x.up.Websocket && wire.IsControl(x.up.Method, x.up.Path),
		Client:       x.req.client,
		Session:      x.req.who.Session,
		ClientWeight: rule.Weight,
		Weight:       x.req.who.Weight,
		Priority:     priority(rule.Priority, x.req.who.Priority),
		Demand:       x.req.estimate.Demand,
		MaxWait:      left(x.req.deadline.until),
	}
	if answer := x.req.deadline.answer; !answer.IsZero() {
		r.Timeout = left(answer)
	}
	if x.req.body != nil {
		r.Bytes = int64(len(x.req.body.bytes))
	}
	if r.Weight == 0 {
		if rule := x.req.cfg.File.RuleOf(x.req.who.Session); rule != nil {
			r.Weight = rule.Weight
		}
	}
	r.RetryKey, r.RetryCount = retryHint(x)
	if x.req.cfg.QueueHeartbeat > 0 && x.req.decoded.Stream {
		r.Every, r.OnWait = x.req.cfg.QueueHeartbeat, x.ans.beat
	}
	return r
}

// priority gives what the file grants, or less if the request asks for less.
func priority(granted, asked string) limit.Priority {
	rank := map[string]limit.Priority{"low": limit.Low, "normal": limit.Normal, "high": limit.High}
	p := rank[granted] // "" is normal, the zero value
	if asked != "" {
		p = min(p, rank[asked])
	}
	return p
}

// retryHint recognises an SDK's second try of a request that it gave up
// waiting for: same session, same body, and a retry count.
func retryHint(x *exchange) (key uint64, count int) {
	text := x.req.r.Header.Get("X-Stainless-Retry-Count")
	if text == "" || !x.req.endpoint.Decoded() {
		return 0, 0
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 0 {
		return 0, 0
	}
	var h maphash.Hash
	h.SetSeed(x.p.seed)
	_, _ = h.WriteString(x.req.client)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(x.req.who.Session)
	_ = h.WriteByte(0)
	_, _ = h.Write(x.req.decoded.Raw)
	return h.Sum64(), count
}
