package main

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
)

// watch adds the gauges that are read from their owners at each scrape.
func (s *server) watch() {
	gauge, limits, store := s.metrics.Gauge, s.limits, s.ledger
	gauge("queue_depth", "Requests waiting.", func() float64 { return float64(limits.Waiting()) })
	gauge("budget_waiting", "Requests waiting for what others have reserved of their budget.", func() float64 { return float64(s.budgets.Waiting()) })
	gauge("in_flight", "Places granted: requests on their way upstream and answers under way.", func() float64 { return float64(limits.InFlight()) })
	gauge("drains", "Answers read on for their usage, whose clients have left.", func() float64 { return float64(s.drains.Load()) })
	gauge("body_bytes", "Bytes of request bodies held.", func() float64 { return float64(s.bodies.used.Load()) })
	gauge("ledger_pending", "Records waiting to be committed.", func() float64 { return float64(store.Stats().Pending) })
	gauge("ledger_journaled", "Records in the journal, waiting for the store.", func() float64 { return float64(store.Stats().Journaled) })
	gauge("ledger_degraded", "1 while the store cannot be written.", func() float64 {
		if store.Stats().Degraded {
			return 1
		}
		return 0
	})
}

// count counts an exchange at its end.
func (s *server) count(x *exchange, failure error) {
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
