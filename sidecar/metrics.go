package main

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
)

// metrics is every series of the program. Labels come from closed sets only:
// sessions and users are no labels, and models only up to maxModelLabels.
type metrics struct {
	registry    *prometheus.Registry
	requests    *prometheus.CounterVec   // by route and status
	refused     *prometheus.CounterVec   // by our own error code
	client429   prometheus.Counter       // the promise: curable ones are never passed on
	upstream429 *prometheus.CounterVec   // by reason
	attempts    *prometheus.CounterVec   // repeated attempts by reason
	queueWait   prometheus.Histogram     // seconds
	operation   *prometheus.HistogramVec // gen_ai.client.operation.duration
	usage       *prometheus.CounterVec   // exact tokens, by model and type
	unknown     *prometheus.CounterVec   // metered answers without usage, by reason
	left        *prometheus.CounterVec   // clients that left, by phase
	unrecorded  prometheus.Counter
	reloaded    prometheus.Gauge // 1 unless the last reload met faults
	reloadedAt  prometheus.Gauge // Unix seconds

	budgetPassed *prometheus.CounterVec // requests that passed a used-up budget, by rule of the file

	mu     sync.Mutex
	models map[string]bool // that have a label of their own
}

const maxModelLabels = 100

const namespace = "llm_queue_proxy"

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), models: map[string]bool{}}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	m.requests = counters("requests_total", "Requests answered, by route and status.", "route", "code")
	m.refused = counters("refused_total", "Requests answered with an error of our own, by its code.", "code")
	m.client429 = counter("client_429_total", "429s passed on to clients: quota, request too large, and large uploads, which cannot be sent again.")
	m.upstream429 = counters("upstream_429_total", "429s from the provider, by reason.", "reason")
	m.attempts = counters("attempts_repeated_total", "Attempts that were repeated for a reason other than a 429.", "reason")
	m.usage = counters("tokens_total", "Exact tokens as the provider reported them.", "model", "type")
	m.unknown = counters("usage_missing_total", "Metered answers whose usage stayed unknown, by outcome.", "outcome")
	m.left = counters("client_disconnects_total", "Clients that left before their answer ended.", "phase")
	m.budgetPassed = counters("budget_passed_total", "Requests that passed a budget that is used up, because it only warns.", "rule")
	m.unrecorded = counter("records_failed_total", "Records that the ledger did not take; they are in the log.")
	gauge := func(name, help string, value float64) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
		m.registry.MustRegister(g)
		g.Set(value)
		return g
	}
	m.reloaded = gauge("config_last_reload_successful", "Whether the settings read last were fine: 0 while older ones stay in force.", 1)
	m.reloadedAt = gauge("config_last_reload_success_timestamp_seconds", "When the settings in force were read.", float64(time.Now().Unix()))
	m.queueWait = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Name: "queue_wait_seconds", Help: "Time in the queue, of requests that were sent.",
		Buckets: []float64{0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 240},
	})
	m.operation = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "gen_ai_client_operation_duration_seconds", Help: "Time from the last attempt to the answer's end.",
		Buckets: prometheus.ExponentialBuckets(0.01, 2, 14),
	}, []string{"gen_ai_operation_name"})
	// Memory, goroutines and descriptors, under the names that every Go program has.
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(m.queueWait, m.operation)
	return m
}

// watch adds the gauges that are read from their owners at each scrape.
func (m *metrics) watch(limits *limit.Limiter, store *ledger.Store, s *server) {
	gauge := func(name, help string, read func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, read))
	}
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

// modelLabel bounds the label that clients choose.
func (m *metrics) modelLabel(model string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.models[model] {
		if len(m.models) >= maxModelLabels {
			return "other"
		}
		m.models[model] = true
	}
	return model
}

// observe counts an exchange at its end.
func (m *metrics) observe(x *exchange, failure error) {
	status := x.status(failure)
	m.requests.WithLabelValues(x.endpoint.String(), strconv.Itoa(status)).Inc()
	if status == http.StatusTooManyRequests {
		m.client429.Inc()
	}
	if errors.Is(failure, httpapi.ErrClientGone) {
		phase := "queued"
		switch {
		case x.headerOut:
			phase = "streaming"
		case x.sent.Load():
			phase = "waiting"
		}
		m.left.WithLabelValues(phase).Inc()
	}
	if x.row.Attempts == 0 {
		return
	}
	m.queueWait.Observe(x.row.QueueWait.Seconds())
	m.operation.WithLabelValues(x.endpoint.String()).Observe((x.row.Total - x.row.QueueWait).Seconds())
	switch {
	case x.row.UsageKnown:
		model := m.modelLabel(string(x.row.Model))
		m.usage.WithLabelValues(model, "input").Add(float64(x.row.Usage.Input))
		m.usage.WithLabelValues(model, "output").Add(float64(x.row.Usage.Output))
	case x.endpoint.TellsUsage():
		m.unknown.WithLabelValues(x.row.Outcome.String()).Inc()
	}
}

func (s *server) handleMetrics(w http.ResponseWriter, r *http.Request, _ string) error {
	promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	return nil
}
