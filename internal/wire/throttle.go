package wire

import (
	"net/http"
	"time"
)

// ThrottleKind says what can be done about a 429.
type ThrottleKind uint8

// The kinds of 429. Unknown is treated as Curable.
const (
	Unknown  ThrottleKind = iota
	Curable               // waiting cures it
	Quota                 // insufficient_quota: money, not time
	TooLarge              // the request alone exceeds the limit
)

// The dimensions of a limit, as Throttle.Dimension names them.
const (
	RequestsPerMinute     = "requests_per_minute"
	TokensPerMinute       = "tokens_per_minute"
	InputTokensPerMinute  = "input_tokens_per_minute"
	OutputTokensPerMinute = "output_tokens_per_minute"
	RequestsPerDay        = "requests_per_day"
	TokensPerDay          = "tokens_per_day"
	Concurrent            = "concurrent"
)

// Throttle is what a 429 says.
type Throttle struct {
	Kind                   ThrottleKind
	Dimension              string // one of the constants above, "" = not said
	Group                  string // the model or group of models the limit is for, as the upstream calls it
	Limit, Used, Requested int64  // 0 = not said
	RetryAfter             time.Duration
	HasRetryAfter          bool
	Code, Type             string // of the error object
}

// ParseThrottle reads the headers and body of a 429, or of another refusal
// that carries a retry hint.
func ParseThrottle(status int, h http.Header, body []byte) Throttle { return Throttle{} }

// RejectsStreamOptions reports whether an answer is a 400 about the
// stream_options member that our splice may have caused.
func RejectsStreamOptions(status int, body []byte) bool { return false }
