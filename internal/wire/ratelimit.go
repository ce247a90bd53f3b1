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
// Cerebras, Mistral, Fireworks, Together and their relatives, and of the IETF's draft.
// All of them spell one idea with the same few words in different order. It fills in the
// levels, the retry hint and the profile.
//
// host is the upstream's, without a port. now is the time at which the headers
// came: a reset that is a point in time is counted from it. A level has a Period where a
// name says it, or a parameter does; of several for one dimension that of the minute
// is taken, or else the shortest. Without one it may be any: what the resets of several answers show is
// the limiter's to see. Values that make no sense (−1, overflow, years) are absent.
func ParseRateLimit(host string, h http.Header, now time.Time) llm.Signal {
	s := llm.Signal{Profile: dialectOf(host, h)}
	var r readings
	for name, values := range h {
		if len(values) == 0 || !strings.Contains(name, "imit") && !strings.Contains(name, "IMIT") {
			continue
		}
		if d, period, what := levelOf(strings.ToLower(name)); d != llm.None {
			setLevel(r.of(d, period), what, values[0], now)
		}
	}
	r.policies(h, now)
	r.shareReset()
	for i := range r.all[:r.n] {
		one := &r.all[i]
		d := one.dimension
		if one.period == 0 && d == llm.Requests && isDay(&one.level) {
			one.period = day
		}
		switch {
		case one.period > mostDay:
			continue
		case daily(one.period) && d == llm.Requests:
			d = llm.RequestsDay
		case daily(one.period) && d == llm.Tokens:
			d = llm.TokensDay
		case daily(one.period):
			continue
		default:
			one.level.Period = one.period
		}
		if have := &s.Levels[d]; *have == (llm.Level{}) || before(&one.level.Level, have) {
			*have = one.level.Level
		}
	}
	s.RetryAfter, s.HasRetryAfter = RetryAfter(h, now)
	return s
}

// isDay reports whether a level that names no period is of a limit per day: its reset is
// farther off than any other's, or what is used takes a day's part to come back.
func isDay(l *level) bool {
	if l.HasReset && l.Reset > dayWindow {
		return true
	}
	w := window(&l.Level)
	return w > day-day/50 && w < day+day/50
}

// levelOf finds the limit that a header is about, the period that its name says, and
// which of its three numbers it holds; None if the header is not of this kind, or about
// a limit we don't keep (images, audio, projects).
func levelOf(name string) (d llm.Dimension, period time.Duration, what string) {
	var requests, tokens, input, output bool
	for word := range strings.SplitSeq(name, "-") {
		switch word {
		case "x", "anthropic", "rate", "ratelimit", "per":
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
		case "second", "sec":
			period = time.Second
		case "minute", "min", "1m":
			period = time.Minute
		case "hour", "1h":
			period = time.Hour
		case "day", "daily", "1d":
			period = day
		default:
			return llm.None, 0, ""
		}
	}
	if !strings.Contains(name, "ratelimit") && !strings.Contains(name, "rate-limit") && !strings.HasPrefix(name, "x-tokenlimit") {
		return llm.None, 0, ""
	}
	switch {
	case what == "" || requests && (tokens || input || output) || input && output:
		return llm.None, 0, ""
	case input:
		return llm.InputTokens, period, what
	case output:
		return llm.OutputTokens, period, what
	case tokens:
		return llm.Tokens, period, what
	default: // without a dimension: requests
		return llm.Requests, period, what
	}
}

// setLevel takes the tighter value where two headers name one number: headers
// have no order that could decide.
func setLevel(l *level, what, value string, now time.Time) {
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

// RetryAfter reads retry-after-ms, which is the more exact, else
// Retry-After in seconds, as a duration or as a date.
func RetryAfter(h http.Header, now time.Time) (d time.Duration, ok bool) {
	if f, err := strconv.ParseFloat(strings.TrimSpace(h.Get("Retry-After-Ms")), 64); err == nil {
		if d, ok = seconds(f / 1e3); ok {
			return d, true
		}
	}
	s := strings.TrimSpace(h.Get("Retry-After"))
	if s == "" {
		return 0, false
	}
	return parseReset(s, now)
}
