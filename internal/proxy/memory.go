package proxy

import (
	"net/http"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/metrics"
)

// What a request takes by itself: its goroutines' stacks, its connections with their
// buffers, its entries in the queue. Measured on 7,000 that wait and 4,000 at the
// provider (.ci/resources streams has a stream's part).
const (
	waitingBytes = 24 << 10
	sentBytes    = 48 << 10
)

// shortHeader is what a request's headers take without being counted: the bound of
// connections bounds those.
const shortHeader = 4 << 10

// longHeader is how many bytes of headers a request has beyond that.
func longHeader(r *http.Request) int64 {
	n := int64(len(r.RequestURI))
	for name, values := range r.Header {
		for _, v := range values {
			n += int64(len(name) + len(v))
		}
	}
	return max(0, n-shortHeader)
}

// enter counts what a request takes, or says why it is refused.
func (x *exchange) enter() error {
	switch {
	case !x.held.own.TryGrow(waitingBytes):
		return errCrowd
	case !x.held.header.TryGrow(longHeader(x.req.r)):
		return errMemory
	}
	return nil
}

// Memory is the account of what requests and answers keep.
func (p *Proxy) Memory() *memory.Account { return p.memory }

// Overhead is the account of what requests take beside that.
func (p *Proxy) Overhead() *memory.Account { return p.overhead }

// watchMemory adds the series of the accounts.
func watchMemory(m *metrics.Metrics, account, overhead *memory.Account) {
	held := account.Held
	m.Gauge("overhead_bytes", "Bytes that requests take beside those held: stacks, buffers of connections. An estimate.", func() float64 { return float64(overhead.Held().All) })
	m.Gauge("overhead_bytes_max", "Bound of overhead_bytes: half of the memory limit.", func() float64 { return float64(overhead.Most()) })
	m.Gauge("body_bytes", "Bytes of requests held: bodies and long headers.", func() float64 { return float64(held().Of[memory.Requests]) })
	m.Gauge("held_bytes_max", "Bound of held_bytes over all kinds: QUEUE_MAX_BYTES.", func() float64 { return float64(held().Most) })
	for _, k := range memory.Kinds() {
		m.GaugeOf("held_bytes", "Bytes held, by what they are of.", "kind", k.String(), func() float64 { return float64(held().Of[k]) })
		m.CounterOf("held_bytes_short_total", "Times that there was no room for more: requests are refused then, answers flow, views are not made.", "kind", k.String(), func() float64 { return held().Refused[k] })
	}
}
