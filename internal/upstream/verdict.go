package upstream

import (
	"math/rand/v2"
	"net/http"
	"time"
)

// A Verdict says what may follow an answer.
type Verdict uint8

// The verdicts of the package's table.
const (
	Pass Verdict = iota
	Throttled
	Unavailable
)

// Judge reads status and headers of an answer. hinted tells that they say when to come
// back, as the provider's dialect is read.
func Judge(resp *http.Response, hinted bool) Verdict {
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		return Throttled
	case http.StatusServiceUnavailable, 529: // 529: overloaded, as Anthropic says it
		if hinted && resp.Header.Get("X-Should-Retry") != "false" {
			return Unavailable
		}
	}
	return Pass
}

// Backoff is the pause before attempt n+1 after n attempts that were not sent:
// 100 ms doubling to 5 s, with full jitter so that waiters do not return as a
// herd.
func Backoff(n int) time.Duration {
	ceiling := min(5*time.Second, 100*time.Millisecond<<min(max(n-1, 0), 10))
	return ceiling/10 + rand.N(ceiling)
}
