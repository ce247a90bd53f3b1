package wire

import (
	"net/http"
	"time"
)

// Level is what an upstream's headers say of one of its limits.
type Level struct {
	Limit, Remaining                 int64
	Reset                            time.Duration // until the limit is full again
	HasLimit, HasRemaining, HasReset bool
}

// RateLimit is every level found in the headers of an answer.
type RateLimit struct {
	Requests, Tokens          Level // per minute
	InputTokens, OutputTokens Level // per minute
	RequestsDay, TokensDay    Level
	RetryAfter                time.Duration
	HasRetryAfter             bool
}

// Found reports whether any level or retry hint was found.
func (l RateLimit) Found() bool { return l != RateLimit{} }

// ParseRateLimit reads the rate-limit headers of OpenAI, Azure, Anthropic and
// their relatives. Values that make no sense are absent.
func ParseRateLimit(h http.Header, now time.Time) RateLimit { return RateLimit{} }
