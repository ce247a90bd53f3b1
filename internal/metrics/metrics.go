// Package metrics holds every series of the program.
//
// A new one is a field of Metrics and a line in New; docs/operations.md says what it is for.
package metrics

import (
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics is every series of the program. Labels come from closed sets only:
// sessions and users are no labels, and models only up to maxModelLabels. It is safe
// for concurrent use.
type Metrics struct {
	registry    *prometheus.Registry
	Requests    *prometheus.CounterVec   // by route and status
	Refused     *prometheus.CounterVec   // by our own error code
	Client429   prometheus.Counter       // the promise: curable ones are never passed on
	Upstream429 *prometheus.CounterVec   // by reason
	Attempts    *prometheus.CounterVec   // repeated attempts by reason
	Unreachable *prometheus.CounterVec   // attempts without a connection, by class of the fault
	QueueWait   prometheus.Histogram     // seconds
	Operation   *prometheus.HistogramVec // gen_ai.client.operation.duration
	Usage       *prometheus.CounterVec   // exact tokens, by model and type
	Unknown     *prometheus.CounterVec   // metered answers without usage, by reason
	Left        *prometheus.CounterVec   // clients that left, by phase

	SessionsIgnored *prometheus.CounterVec // headers that name no session, by reason
	Unrecorded      prometheus.Counter
	Reloaded        prometheus.Gauge // 1 unless the last reload met faults
	ReloadedAt      prometheus.Gauge // Unix seconds

	BudgetPassed *prometheus.CounterVec // requests that passed a used-up budget, by rule of the file

	mu     sync.Mutex
	models map[string]bool // that have a label of their own
}

const maxModelLabels = 100

const namespace = "llm_queue_proxy"

// New makes every series that is counted. Gauge adds those that are read.
func New() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), models: map[string]bool{}}
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
	m.Requests = counters("requests_total", "Requests answered, by route and status.", "route", "code")
	m.Refused = counters("refused_total", "Requests answered with an error of our own, by its code.", "code")
	m.Client429 = counter("client_429_total", "429s passed on to clients: quota, request too large, and large uploads, which cannot be sent again.")
	m.Upstream429 = counters("upstream_429_total", "429s from the provider, by reason.", "reason")
	m.Attempts = counters("attempts_repeated_total", "Attempts that were repeated for a reason other than a 429.", "reason")
	m.Unreachable = counters("upstream_unreachable_total", "Attempts that found no connection to the provider, by class of the fault.", "class")
	m.Usage = counters("tokens_total", "Exact tokens as the provider reported them.", "model", "type")
	m.Unknown = counters("usage_missing_total", "Metered answers whose usage stayed unknown, by outcome.", "outcome")
	m.Left = counters("client_disconnects_total", "Clients that left before their answer ended.", "phase")
	m.SessionsIgnored = counters("session_headers_ignored_total", "Headers that should name a session and do not, by reason.", "reason")
	m.BudgetPassed = counters("budget_passed_total", "Requests that passed a budget that is used up, because it only warns.", "rule")
	m.Unrecorded = counter("records_failed_total", "Records that the ledger did not take; they are in the log.")
	gauge := func(name, help string, value float64) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
		m.registry.MustRegister(g)
		g.Set(value)
		return g
	}
	m.Reloaded = gauge("config_last_reload_successful", "Whether the settings read last were fine: 0 while older ones stay in force.", 1)
	m.ReloadedAt = gauge("config_last_reload_success_timestamp_seconds", "When the settings in force were read.", float64(time.Now().Unix()))
	m.QueueWait = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Name: "queue_wait_seconds", Help: "Time in the queue, of requests that were sent.",
		Buckets: []float64{0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 240},
	})
	m.Operation = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "gen_ai_client_operation_duration_seconds", Help: "Time from the last attempt to the answer's end.",
		Buckets: prometheus.ExponentialBuckets(0.01, 2, 14),
	}, []string{"gen_ai_operation_name"})
	// Memory, goroutines and descriptors, under the names that every Go program has.
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(m.QueueWait, m.Operation)
	return m
}

// ModelLabel bounds the label that clients choose.
func (m *Metrics) ModelLabel(model string) string {
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

// Gauge adds a gauge that is read at each scrape.
func (m *Metrics) Gauge(name, help string, read func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, read))
}

// Counter is Gauge for what only grows.
func (m *Metrics) Counter(name, help string, read func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, read))
}

// GaugeOf is Gauge for one value of a label. The others have the same help.
func (m *Metrics) GaugeOf(name, help, label, value string, read func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: prometheus.Labels{label: value}}, read))
}

// CounterOf is GaugeOf for what only grows.
func (m *Metrics) CounterOf(name, help, label, value string, read func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: prometheus.Labels{label: value}}, read))
}

// Handler writes every series.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
