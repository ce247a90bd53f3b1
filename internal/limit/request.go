package limit

import (
	"fmt"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// Priority is the band a request waits in. Bands are served in order, but each
// waiting lower band is owed a floor, so Low never starves.
type Priority int8

// The bands. The zero value is Normal.
const (
	Low    Priority = -1
	Normal Priority = 0
	High   Priority = 1
)

// band is the number of p's band in a queue; 0 is served first.
func (p Priority) band() int {
	switch {
	case p > Normal:
		return 0
	case p < Normal:
		return 2
	}
	return 1
}

// String gives the word that headers and status pages use.
func (p Priority) String() string {
	switch {
	case p < Normal:
		return "low"
	case p > Normal:
		return "high"
	}
	return "normal"
}

// A Request asks to go.
type Request struct {
	Model        llm.Model // "" for unmetered routes, which weigh one request against the caps over all models only
	Control      bool      // costs nothing, and has no model: goes before all queues; see control
	Client       string    // the level of fairness above the session
	Session      string
	ClientWeight float64 // 0 = 1
	Weight       float64 // the session's weight inside its client; 0 = 1, clamped to 0.1–100
	Priority     Priority
	Demand       llm.Demand
	Bytes        int64 // body bytes held while waiting

	MaxWait time.Duration // total wait over all attempts together, at most Config.MaxWait; 0 = that
	Timeout time.Duration // the client's own limit on wait and answer together; 0 = none. The model's usual service time is taken off.

	RetryKey   uint64 // hash of body and session; 0 = none
	RetryCount int    // > 0 asks for the turn that a request of the same key left a moment ago

	Every  time.Duration // while waiting, call OnWait this often; 0 = never
	OnWait func() error  // runs in the caller's goroutine; its error ends the wait
}

// key names r's session and its rights in a queue.
func (r *Request) key() queue.Key {
	return queue.Key{
		Band: r.Priority.band(), Client: r.Client, Session: r.Session,
		ClientWeight: clampWeight(r.ClientWeight), Weight: clampWeight(r.Weight),
	}
}

// A Reason says why a request was refused.
type Reason uint8

// The reasons.
const (
	QueueFull           Reason = iota + 1 // the queue's bounds are reached and this request is the first to give way
	QueueTimeout                          // it waited as long as it might
	DeadlineUnreachable                   // it cannot be served in time, known before waiting
	AttemptsExhausted                     // the provider refused it MaxAttempts times
	Draining                              // the sidecar is shutting down
	DailyLimit                            // a limit per day is used up
	Unreachable                           // the provider cannot be reached: see RefuseWaiting
)

// String gives the code of the contract.
func (r Reason) String() string {
	switch r {
	case QueueFull:
		return "queue_full"
	case QueueTimeout:
		return "queue_timeout"
	case DeadlineUnreachable:
		return "deadline_unreachable"
	case AttemptsExhausted:
		return "attempts_exhausted"
	case Draining:
		return "shutting_down"
	case DailyLimit:
		return "daily_limit"
	case Unreachable:
		return "upstream_unreachable"
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// Rejected is the error of a request that may not go.
type Rejected struct {
	Reason     Reason
	RetryAfter time.Duration // when another try makes sense; at most 59 s unless Reason is DailyLimit
	Limit      string        // the limit that binds, such as "tokens_per_minute"; "" = none
	Position   int           // requests ahead in the same session; 0 = none, or unknown
	Forecast   time.Duration // expected wait at the time of refusal
	ResetAt    time.Time     // of DailyLimit: when the day's limit opens again
	Said       string        // the provider's last word when it turned requests of this model away; "" = none
}

// dated sets ResetAt, for which the core has no clock.
func (e *Rejected) dated() *Rejected {
	if e.Reason == DailyLimit {
		e.ResetAt = time.Now().Add(e.RetryAfter)
	}
	return e
}

// Error implements error.
func (e *Rejected) Error() string {
	s := "limit: " + e.Reason.String()
	if e.Limit != "" {
		s += " (" + e.Limit + ")"
	}
	if e.Said != "" {
		s += fmt.Sprintf("; the provider said %q", e.Said)
	}
	return s
}

// A Forecast is what a newcomer would meet. It is a fluid approximation, times
// the ratio by which recent waits exceeded it.
type Forecast struct {
	Wait     time.Duration
	Position int    // requests ahead in the same session
	Limit    string // the limit that binds, such as "requests_per_minute"; "" = none
}
