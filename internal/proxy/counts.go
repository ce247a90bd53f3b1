package proxy

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
)

// watch adds the gauges that are read at each scrape.
func (s *Proxy) watch() {
	gauge := func(name, help string, read func() int64) {
		s.metrics.Gauge(name, help, func() float64 { return float64(read()) })
	}
	gauge("budget_waiting", "Requests waiting for what others have reserved of their budget.", func() int64 { return int64(s.budgets.Waiting()) })
	gauge("drains", "Answers read on for their usage, whose clients have left.", s.drains.Load)
	gauge("body_bytes", "Bytes of request bodies held.", s.bodies.used.Load)
}

// count counts an exchange at its end.
func (s *Proxy) count(x *exchange, failure error) {
	m := s.metrics
	status := x.status(failure)
	m.Requests.WithLabelValues(x.endpoint.String(), strconv.Itoa(status)).Inc()
	if status == http.StatusTooManyRequests {
		m.Client429.Inc()
	}
	if errors.Is(failure, httpapi.ErrClientGone) {
		phase := "queued"
		switch {
		case x.headerOut:
			phase = "streaming"
		case x.sent.Load():
			phase = "waiting"
		}
		m.Left.WithLabelValues(phase).Inc()
	}
	if x.row.Attempts == 0 {
		return
	}
	m.QueueWait.Observe(x.row.QueueWait.Seconds())
	m.Operation.WithLabelValues(x.endpoint.String()).Observe((x.row.Total - x.row.QueueWait).Seconds())
	switch {
	case x.row.UsageKnown:
		model := m.ModelLabel(string(x.row.Model))
		m.Usage.WithLabelValues(model, "input").Add(float64(x.row.Usage.Input))
		m.Usage.WithLabelValues(model, "output").Add(float64(x.row.Usage.Output))
	case x.endpoint.TellsUsage():
		m.Unknown.WithLabelValues(x.row.Outcome.String()).Inc()
	}
}
