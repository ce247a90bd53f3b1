package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// knock is how long a newcomer waits for its one try at a provider that is given up. The
// pauses of the limiter's breaker are longer: meanwhile newcomers are told at once.
const knock = time.Second

// watchReach has all who wait told when the provider is given up, and logs outages.
func (p *Proxy) watchReach() {
	p.upstream.Watch(
		func() time.Duration { return p.settings.Load().UpstreamPatience },
		func(o upstream.Outage) {
			p.logger.Error("upstream given up", "class", string(o.Class), "since", o.Since.UTC(), "waiting", p.limits.Waiting())
			p.limits.RefuseWaiting()
		},
		func(o upstream.Outage) {
			p.logger.Info("upstream reachable again", "class", string(o.Class), "outage_ms", time.Since(o.Since).Milliseconds())
		},
	)
	for _, class := range upstream.Classes() {
		p.metrics.Unreachable.WithLabelValues(string(class))
	}
	p.metrics.Gauge("upstream_reachable", "0 while no connection to the provider can be made.", func() float64 {
		if _, lasts := p.upstream.Outage(); lasts {
			return 0
		}
		return 1
	})
}

// Away is the class of the fault that keeps us from the provider; "" = none is known.
func (p *Proxy) Away() string {
	o, lasts := p.upstream.Outage()
	if !lasts {
		return ""
	}
	return string(o.Class)
}

// unreached takes in an attempt that has not been sent, the nth in a row. It reports
// whether that was the last one: trying again cures nothing, or the provider is given up.
func (x *exchange) unreached(err error, n int) (over bool) {
	log := []any{"request_id", x.req.id.String(), "unsent", n, "error", err.Error()}
	fault := (*upstream.Error)(nil)
	if errors.As(err, &fault) && fault.Kind == upstream.Unreachable {
		x.fault = fault
		x.p.metrics.Unreachable.WithLabelValues(string(fault.Class)).Inc()
		log = append(log, "class", string(fault.Class))
		outage, lasts := x.p.upstream.Outage()
		over = fault.Final || lasts && outage.GivenUp
	}
	x.p.logger.Warn("upstream unreachable", log...)
	if over {
		x.try.lease.Lost(!fault.Final)
	}
	return over
}

// unreachable names the provider's absence where that is what a request has waited for:
// a refusal of the queue would be taken for a limit's.
func (x *exchange) unreachable(err error) error {
	var r *limit.Rejected
	if !errors.As(err, &r) {
		return err
	}
	outage, lasts := x.p.upstream.Outage()
	switch {
	case r.Reason == limit.Unreachable:
	case r.Reason != limit.QueueTimeout && r.Reason != limit.DeadlineUnreachable:
		return err
	case !lasts && x.fault == nil:
		return err
	}
	class := upstream.Other
	if lasts {
		class = outage.Class
	} else if x.fault != nil {
		class = x.fault.Class
	}
	return noConnection(class, false, err)
}

// noConnection says that the provider cannot be reached, and why.
func noConnection(class upstream.Class, final bool, cause error) *httpapi.Error {
	e := &httpapi.Error{
		Status: http.StatusBadGateway, Code: "upstream_unreachable", Final: final, Cause: cause,
		Message: fmt.Sprintf("the provider cannot be reached (%s): %s", class, classWords[class]),
	}
	if name := (*net.DNSError)(nil); errors.As(cause, &name) && !name.IsNotFound {
		e.Message += " at the moment: the name service does not answer, or fails"
	}
	if final {
		e.Message += "; trying again does not help, the sidecar's log has the details"
	} else {
		e.RetryAfter = time.Second
		if r := (*limit.Rejected)(nil); errors.As(cause, &r) {
			e.RetryAfter = min(r.RetryAfter, 5*time.Second) // the breaker's longest pause
		}
	}
	return e
}

// classWords says each class in words; no address is among them.
var classWords = map[upstream.Class]string{
	upstream.DNS:     "its name does not resolve",
	upstream.Refused: "nobody listens at its address",
	upstream.NoRoute: "no route leads to its address",
	upstream.Silent:  "it does not answer the attempt to connect",
	upstream.TLS:     "its certificate is not trusted, or it does not speak TLS as OPENAI_BASE_URL says",
	upstream.Proxy:   "the proxy on the way to it cannot be reached, or refuses",
	upstream.Closed:  "the connection ended before it could be used",
	upstream.Other:   "no connection can be made",
}
