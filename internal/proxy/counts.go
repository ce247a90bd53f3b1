package proxy

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
)

// watch adds the gauges that are read at each scrape.
func (p *Proxy) watch() {
	gauge := p.metrics.Gauge
	gauge("budget_waiting", "Requests waiting for what others have reserved of their budget.", func() float64 { return float64(p.budgets.Waiting()) })
	gauge("drains", "Answers read on for their usage, whose clients have left.", func() float64 { return float64(p.Load().Drains) })
	watchMemory(p.metrics, p.memory, p.overhead)
}

// count counts an exchange at its end.
func (p *Proxy) count(x *exchange, failure error) {
	m := p.metrics
	status := x.status(failure)
	m.Requests.WithLabelValues(x.req.endpoint.String(), strconv.Itoa(status)).Inc()
	if status == http.StatusTooManyRequests {
		m.Client429.Inc()
	}
	if errors.Is(failure, httpapi.ErrClientGone) {
		phase := "queued"
		switch {
		case x.ans.headerOut:
			phase = "streaming"
		case x.sent.Load():
			phase = "waiting"
		}
		m.Left.WithLabelValues(phase).Inc()
	}
	if x.tries == 0 {
		return
	}
	m.QueueWait.Observe(x.row.QueueWait.Seconds())
	m.Operation.WithLabelValues(x.req.endpoint.String()).Observe((x.row.Total - x.row.QueueWait).Seconds())
	switch {
	case x.row.UsageKnown:
		model := m.ModelLabel(string(x.row.Model))
		m.Usage.WithLabelValues(model, "input").Add(float64(x.row.Usage.Input))
		m.Usage.WithLabelValues(model, "output").Add(float64(x.row.Usage.Output))
	case x.req.endpoint.TellsUsage():
		m.Unknown.WithLabelValues(x.row.Outcome.String()).Inc()
	}
}
