package limit

import (
	"fmt"
	"time"
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

// A Demand is what a request is expected to use, in tokens. The profile of its
// group turns it into what the provider will charge.
type Demand struct {
	Input     int64 // estimated prompt tokens
	Output    int64 // expected completion tokens, over all choices
	MaxOutput int64 // the client's own cap times choices; 0 = none
	Chars     int64 // prompt characters, for providers that charge by them; 0 = unknown
}

// Usage is what the provider says a request used, in tokens. Cached is the part
// of Input that was served from the provider's prompt cache.
type Usage struct{ Input, Cached, Output int64 }

// A Request asks for a place.
type Request struct {
	Model        string // limit group; "" for unmetered routes, which weigh one request against the global caps only
	Client       string // the level of fairness above the session
	Session      string
	ClientWeight float64 // 0 = 1
	Weight       float64 // the session's weight inside its client; 0 = 1, clamped to 0.1–100
	Priority     Priority
	Demand       Demand
	Bytes        int64 // body bytes held while waiting

	MaxWait time.Duration // total wait over all attempts together, at most Config.MaxWait; 0 = that
	Timeout time.Duration // the client's own limit on wait and answer together; 0 = none. The model's usual service time is taken off.

	RetryKey   uint64 // hash of body and session; 0 = none
	RetryCount int    // > 0 asks for the place that a request of the same key left a moment ago

	Every  time.Duration // while waiting, call OnWait this often; 0 = never
	OnWait func() error  // runs in the caller's goroutine; its error ends the wait
}

// A Level is one limit as an answer's headers describe it.
type Level struct {
	Limit, Remaining int64
	Reset            time.Duration // until the limit is full again
	HasLimit         bool
	HasRemaining     bool
	HasReset         bool
}

// A Signal is what an answer says about the provider's limits: headers of any
// answer, and of a 429 also the numbers in its text. Absent fields stay zero.
type Signal struct {
	Requests, Tokens, Input, Output Level // per minute
	RequestsDay, TokensDay          Level

	RetryAfter    time.Duration
	HasRetryAfter bool

	Dimension              string // of a 429: "requests", "tokens", "input_tokens", "output_tokens", "requests_day", "tokens_day"; "" = unknown
	Group                  string // the model name in a 429's text: aliases of one limit share it
	Limit, Used, Requested int64  // the numbers in a 429's text; 0 = absent
	Profile                string // "openai", "azure" or "anthropic" where the dialect of the headers shows it
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
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// Rejected is the error of a request that was refused a place.
type Rejected struct {
	Reason     Reason
	RetryAfter time.Duration // when another try makes sense; at most 59 s unless Reason is DailyLimit
	Limit      string        // the limit that binds, such as "tokens_per_minute"; "" = none
	Position   int           // requests ahead in the same session; 0 = none, or unknown
	Forecast   time.Duration // expected wait at the time of refusal
	ResetAt    time.Time     // of DailyLimit: when the day's limit opens again
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
	return s
}

// A Forecast is what a newcomer would meet. It is a fluid approximation, times
// the ratio by which recent waits exceeded it.
type Forecast struct {
	Wait     time.Duration
	Position int    // requests ahead in the same session
	Limit    string // the limit that binds, such as "requests_per_minute"; "" = none
}
