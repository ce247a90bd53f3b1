package proxy

import (
	"cmp"
	"hash/maphash"
	"net/http"
	"strconv"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
)

// acquire waits for a place.
func (s *Proxy) acquire(x *exchange) (*limit.Lease, error) {
	return s.limits.Acquire(x.r.Context(), s.limitRequest(x))
}

// limitRequest says what the queue has to know of a request.
func (s *Proxy) limitRequest(x *exchange) limit.Request {
	rule := x.cfg.File.Clients[x.client]
	r := limit.Request{
		Model:        x.req.Model,
		Client:       x.client,
		Session:      x.who.Session,
		ClientWeight: rule.Weight,
		Weight:       x.who.Weight,
		Priority:     priority(rule.Priority, x.who.Priority),
		Demand:       x.estimate.Demand,
		MaxWait:      x.who.MaxWait, // the limiter caps it by QUEUE_MAX_WAIT
		Timeout:      patience(x.r.Header),
	}
	if x.budgetWait > 0 { // one patience for both waits
		r.MaxWait = max(min(cmp.Or(r.MaxWait, x.cfg.QueueMaxWait), x.cfg.QueueMaxWait)-x.budgetWait, time.Millisecond)
		if r.Timeout > 0 {
			r.Timeout = max(r.Timeout-x.budgetWait, time.Millisecond)
		}
	}
	if x.body != nil {
		r.Bytes = int64(len(x.body.bytes))
	}
	if r.Weight == 0 {
		if rule := x.cfg.File.RuleOf(x.who.Session); rule != nil {
			r.Weight = rule.Weight
		}
	}
	r.RetryKey, r.RetryCount = retryHint(x)
	if x.cfg.QueueHeartbeat > 0 && x.req.Stream {
		r.Every, r.OnWait = x.cfg.QueueHeartbeat, x.beat
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

// patience is how long the client's SDK waits for an answer, queue included;
// 0 = it does not say.
func patience(h http.Header) time.Duration {
	least := time.Duration(0)
	for _, header := range []string{"X-Stainless-Read-Timeout", "X-Stainless-Timeout"} {
		seconds, err := strconv.ParseFloat(h.Get(header), 64)
		if err != nil || !(seconds > 0 && seconds < 1e6) {
			continue
		}
		if d := time.Duration(seconds * float64(time.Second)); least == 0 || d < least {
			least = d
		}
	}
	return least
}

// retryHint recognises an SDK's second try of a request that it gave up
// waiting for: same session, same body, and a retry count.
func retryHint(x *exchange) (key uint64, count int) {
	text := x.r.Header.Get("X-Stainless-Retry-Count")
	if text == "" || !x.endpoint.Decoded() {
		return 0, 0
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 0 {
		return 0, 0
	}
	var h maphash.Hash
	h.SetSeed(x.s.seed)
	_, _ = h.WriteString(x.client)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(x.who.Session)
	_ = h.WriteByte(0)
	_, _ = h.Write(x.req.Raw)
	return h.Sum64(), count
}
