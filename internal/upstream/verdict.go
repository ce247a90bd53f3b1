package upstream

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
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

// Judge reads status and headers of an answer. pause is how long an
// Unavailable provider asked to be left alone.
func Judge(resp *http.Response, now time.Time) (v Verdict, pause time.Duration) {
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		return Throttled, 0
	case http.StatusServiceUnavailable, 529: // 529: overloaded, as Anthropic says it
		if pause, ok := retryAfter(resp.Header, now); ok && resp.Header.Get("X-Should-Retry") != "false" {
			return Unavailable, pause
		}
	}
	return Pass, 0
}

func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms >= 0 && ms < 1e9 {
		return time.Duration(ms * float64(time.Millisecond)), true
	}
	text := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.ParseFloat(text, 64); err == nil && s >= 0 && s < 1e6 {
		return time.Duration(s * float64(time.Second)), true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now)), true
	}
	return 0, false
}

// Backoff is the pause before attempt n+1 after n attempts that were not sent:
// 100 ms doubling to 5 s, with full jitter so that waiters do not return as a
// herd.
func Backoff(n int) time.Duration {
	ceiling := min(5*time.Second, 100*time.Millisecond<<min(max(n-1, 0), 10))
	return ceiling/10 + rand.N(ceiling)
}
