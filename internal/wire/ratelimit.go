package wire

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// window returns the time in which the whole limit refills, where the three
// numbers tell it, else 0. With continuous refill, Reset is the part of the
// window that Limit−Remaining takes; OpenAI's own numbers fit this.
func window(l *llm.Level) time.Duration {
	used := l.Limit - l.Remaining
	if !l.HasLimit || !l.HasRemaining || !l.HasReset || used <= 0 || l.Reset <= 0 {
		return 0
	}
	w := float64(l.Reset) * float64(l.Limit) / float64(used)
	if w > float64(maxReset) {
		return 0
	}
	return time.Duration(w)
}

const (
	// maxReset is the longest wait that is believed: monthly limits are the
	// longest known, everything beyond is a mistake or an overflow.
	maxReset = 31 * 24 * time.Hour
	// maxCount is the largest limit that is believed.
	maxCount = 1 << 50
	// dayWindow separates limits per day from limits per minute if the header does
	// not say: OpenAI's lower tiers and Groq put a daily limit into
	// x-ratelimit-limit-requests.
	dayWindow = 30 * time.Minute
)

// ParseRateLimit reads the rate-limit headers of OpenAI, Azure, Anthropic, Groq,
// Cerebras, Mistral, Fireworks, Together and their relatives. All of them spell
// one idea with the same few words in different order. It fills in the levels,
// the retry hint and the profile.
//
// host is the upstream's, without a port. now is the time at which the headers
// came: a reset that is a point in time is counted from it. A limit whose window
// no header names is one per minute. Values that make no sense (−1, overflow,
// years) are absent.
func ParseRateLimit(host string, h http.Header, now time.Time) llm.Signal {
	s := llm.Signal{Profile: dialectOf(host, h)}
	for name, values := range h {
		if len(values) == 0 || !strings.Contains(name, "imit") && !strings.Contains(name, "IMIT") {
			continue
		}
		if d, what := levelOf(strings.ToLower(name)); d != llm.None {
			setLevel(&s.Levels[d], what, values[0], now)
		}
	}
	requests, day := &s.Levels[llm.Requests], &s.Levels[llm.RequestsDay]
	if window(requests) > dayWindow {
		if *day == (llm.Level{}) {
			*day = *requests
		}
		*requests = llm.Level{}
	}
	s.RetryAfter, s.HasRetryAfter = parseRetryAfter(h, now)
	return s
}

// levelOf finds the limit that a header is about and which of its three numbers
// it holds; None if the header is not of this kind, or about a limit we don't
// keep (images, audio, hours, projects).
func levelOf(name string) (d llm.Dimension, what string) {
	var requests, tokens, input, output, day bool
	for word := range strings.SplitSeq(name, "-") {
		switch word {
		case "x", "anthropic", "rate", "ratelimit", "minute":
		case "limit", "remaining", "reset":
			if what == "" || what == "limit" { // x-rate-limit-reset-tokens
				what = word
			}
		case "requests", "request", "req":
			requests = true
		case "tokens", "token":
			tokens = true
		case "tokenlimit":
			tokens = true
		case "input", "prompt":
			input = true
		case "output", "generated":
			output = true
		case "day":
			day = true
		default:
			return llm.None, ""
		}
	}
	if !strings.Contains(name, "ratelimit") && !strings.Contains(name, "rate-limit") && !strings.HasPrefix(name, "x-tokenlimit") {
		return llm.None, ""
	}
	switch {
	case what == "" || requests && (tokens || input || output) || input && output:
		return llm.None, ""
	case day && (input || output):
		return llm.None, ""
	case input:
		return llm.InputTokens, what
	case output:
		return llm.OutputTokens, what
	case tokens && day:
		return llm.TokensDay, what
	case tokens:
		return llm.Tokens, what
	case day:
		return llm.RequestsDay, what
	default: // without a dimension: requests
		return llm.Requests, what
	}
}

// setLevel takes the tighter value where two headers name one number: headers
// have no order that could decide.
func setLevel(l *llm.Level, what, value string, now time.Time) {
	switch what {
	case "limit":
		if n, ok := parseCount(value); ok && n > 0 && (!l.HasLimit || n < l.Limit) {
			l.Limit, l.HasLimit = n, true
		}
	case "remaining":
		if n, ok := parseCount(value); ok && (!l.HasRemaining || n < l.Remaining) {
			l.Remaining, l.HasRemaining = n, true
		}
	case "reset":
		if d, ok := parseReset(value, now); ok && (!l.HasReset || d > l.Reset) {
			l.Reset, l.HasReset = d, true
		}
	}
}

// parseCount reads a count, also of the draft standard's form "100, 100;w=60".
func parseCount(s string) (n int64, ok bool) {
	s, _, _ = strings.Cut(s, ",")
	s, _, _ = strings.Cut(s, ";")
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || !(f >= 0 && f <= maxCount) { // also refuses NaN
		return 0, false
	}
	return int64(f), true
}

// parseReset reads a duration ("6m0s", "1ms"), seconds, a Unix time in seconds
// or milliseconds, or an RFC 3339 or HTTP date.
func parseReset(s string, now time.Time) (d time.Duration, ok bool) {
	s = strings.TrimSpace(s)
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		switch { // no wait is as long as 1e8 s, no time of ours as small
		case f > 1e11:
			f = f/1e3 - float64(now.UnixMilli())/1e3
		case f > 1e8:
			f -= float64(now.UnixMilli()) / 1e3
		}
		return seconds(f)
	}
	if d, err := time.ParseDuration(s); err == nil {
		return believed(d)
	}
	return parseDate(s, now)
}

func parseDate(s string, now time.Time) (d time.Duration, ok bool) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		if t, err = http.ParseTime(s); err != nil {
			return 0, false
		}
	}
	return believed(max(0, t.Sub(now))) // a date just past means now
}

// believed returns d if it can be meant, else zero.
func believed(d time.Duration) (time.Duration, bool) {
	if d < 0 || d > maxReset {
		return 0, false
	}
	return d, true
}

func seconds(f float64) (d time.Duration, ok bool) {
	if !(f >= 0 && f <= maxReset.Seconds()) {
		return 0, false
	}
	return time.Duration(math.Round(f * float64(time.Second))), true
}

// parseRetryAfter reads retry-after-ms, which is the more exact, else
// Retry-After in seconds or as an HTTP date.
func parseRetryAfter(h http.Header, now time.Time) (d time.Duration, ok bool) {
	if f, err := strconv.ParseFloat(strings.TrimSpace(h.Get("Retry-After-Ms")), 64); err == nil {
		if d, ok = seconds(f / 1e3); ok {
			return d, true
		}
	}
	s := strings.TrimSpace(h.Get("Retry-After"))
	if s == "" {
		return 0, false
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return seconds(f)
	}
	if d, err := time.ParseDuration(s); err == nil {
		return believed(d)
	}
	return parseDate(s, now)
}
