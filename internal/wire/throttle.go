package wire

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// ThrottleKind says what can be done about a 429.
type ThrottleKind uint8

// The kinds of 429.
const (
	Curable  ThrottleKind = iota // waiting cures it, or nothing says that it does not
	Quota                        // insufficient_quota: a matter of money, not of time
	TooLarge                     // the request alone exceeds the limit
)

// ParseThrottle reads the headers and body of a 429, or of another refusal with
// a retry hint, that came from host at now. The wait is, in this order:
// retry-after-ms, retry-after, the time named in the message, the time that the
// numbers in the message give, and the dimension's x-ratelimit-reset. The body
// may be cut short: of a long one only the first kilobytes are looked at.
//
// Of the signal's numbers, Limit−Used is the upstream's own level, and Requested
// its own estimate.
func ParseThrottle(host string, h http.Header, body []byte, now time.Time) (ThrottleKind, llm.Signal) {
	e, s := parseError(body), ParseRateLimit(host, h, now)
	s.Group = groupOf(e.message)
	s.Dimension = dimensionOf(e.message, e.typ)
	s.Limit = number(limitPattern, e.message)
	if s.Limit == 0 {
		s.Limit = number(sentencePattern, e.message)
	}
	s.Used, s.Requested = number(usedPattern, e.message), number(requestedPattern, e.message)
	for _, hint := range []func() (time.Duration, bool){
		func() (time.Duration, bool) { return waitNamed(e.message) },
		func() (time.Duration, bool) { return waitNamed(e.retryDelay) },
		func() (time.Duration, bool) { return waitComputed(&s) },
		func() (time.Duration, bool) { return resetOf(&s) },
	} {
		if !s.HasRetryAfter {
			s.RetryAfter, s.HasRetryAfter = hint()
		}
	}
	return kindOf429(&e, &s), s
}

// kindOf429 looks for money, by a code or, without a hint to wait, by its
// sentence, and then for a request that is too large, by the sentence or the
// numbers.
func kindOf429(e *errorObject, s *llm.Signal) ThrottleKind {
	switch {
	case quotaCode(e.code), quotaCode(e.typ),
		!s.HasRetryAfter && containsFold(e.message, "check your plan and billing"),
		containsFold(e.message, "credit balance is too low"):
		return Quota
	case containsFold(e.message, "request too large"), s.Limit > 0 && s.Requested > s.Limit:
		return TooLarge
	}
	return Curable
}

// quotaCode knows the codes of OpenAI and its relatives for an empty purse.
func quotaCode(s string) bool {
	switch s {
	case "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance", "insufficient_credits":
		return true
	}
	return false
}

// waitComputed applies the continuous bucket that OpenAI's published messages
// fit to the millisecond: what is missing, divided by the refill per second.
func waitComputed(s *llm.Signal) (time.Duration, bool) {
	missing := s.Used + s.Requested - s.Limit
	if s.Limit <= 0 || s.Used <= 0 || s.Requested <= 0 || missing <= 0 {
		return 0, false
	}
	window := time.Minute
	switch {
	case s.Dimension.Daily():
		window = 24 * time.Hour
	case s.Dimension == llm.None, s.Dimension == llm.Concurrent:
		return 0, false
	}
	return seconds(float64(missing) / float64(s.Limit) * window.Seconds())
}

// resetOf returns the reset of the dimension that s is about; where it names
// none, the longest of the levels that are empty.
func resetOf(s *llm.Signal) (d time.Duration, ok bool) {
	for i := range s.Levels {
		level := &s.Levels[i]
		asked := llm.Dimension(i) == s.Dimension
		if s.Dimension == llm.None {
			asked = !level.HasRemaining || level.Remaining <= 0
		}
		if asked && level.HasReset && level.Reset >= d {
			d, ok = level.Reset, true
		}
	}
	return d, ok
}

const maxErrorBody = 16 << 10

// The sentences providers use, as seen in public reports. Numbers may have
// thousands separators (Anthropic) or a tilde (Groq).
var (
	limitPattern     = regexp.MustCompile(`(?i)\blimit:? ~?(\d[\d,]*)`)
	usedPattern      = regexp.MustCompile(`(?i)\b(?:used|current):? ~?(\d[\d,]*)`)
	requestedPattern = regexp.MustCompile(`(?i)\brequested:? ~?(\d[\d,]*)`)
	sentencePattern  = regexp.MustCompile(`(?i)\bof (\d[\d,]*) (?:input |output )?(?:tokens|requests) per`)

	waitPattern = regexp.MustCompile(`(?i)\b(?:again|retry) (?:in|after):? ~?((?:\d+(?:\.\d+)?\s*` + unit + `\s*)+)|^(\d+(?:\.\d+)?s)$`)
	partPattern = regexp.MustCompile(`(?i)(\d+(?:\.\d+)?)\s*(` + unit + `)`)

	shortPattern = regexp.MustCompile(`\((RPM|TPM|RPD|TPD|ITPM|OTPM)\)`)
	longPattern  = regexp.MustCompile(`(?i)\b(input |output )?(token|request)s per (min|day)`)

	limitGroupPattern = regexp.MustCompile(`(?i)\(for limit ([\w./:@-]+)\)`)
	groupPattern      = regexp.MustCompile("(?i)\\bfor (?:model )?[`'\"]?([\\w./:@-]+)[`'\"]?(?: \\([^)]*\\))? (?:in|on) ")
	modelPattern      = regexp.MustCompile(`(?i)\bmodel: ([\w./:@-]+)`)
)

// unit is longest first where one is the other's beginning.
const unit = `(?:milliseconds?|ms|minutes?|mins?|m|seconds?|secs?|s|hours?|h|days?|d)`

// number returns the first match's number, 0 if there is none or it is absurd.
func number(p *regexp.Regexp, s string) int64 {
	m := p.FindStringSubmatch(s)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(m[1], ",", ""), 10, 64)
	if err != nil || n > maxCount {
		return 0
	}
	return n
}

// waitNamed finds "Please try again in 1m2.5s" and its relatives.
func waitNamed(s string) (d time.Duration, ok bool) {
	m := waitPattern.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	var sum float64
	for _, part := range partPattern.FindAllStringSubmatch(m[1]+m[2], -1) {
		n, err := strconv.ParseFloat(part[1], 64)
		if err != nil {
			return 0, false
		}
		sum += n * unitSeconds(strings.ToLower(part[2]))
	}
	return seconds(sum)
}

func unitSeconds(u string) float64 {
	switch {
	case strings.HasPrefix(u, "ms"), strings.HasPrefix(u, "milli"):
		return 1e-3
	case u[0] == 'm':
		return 60
	case u[0] == 'h':
		return 3600
	case u[0] == 'd':
		return 86400
	default:
		return 1
	}
}

// abbreviations are those that messages use.
var abbreviations = map[string]llm.Dimension{
	"RPM": llm.Requests, "TPM": llm.Tokens, "RPD": llm.RequestsDay, "TPD": llm.TokensDay,
	"ITPM": llm.InputTokens, "OTPM": llm.OutputTokens,
}

// dimensionOf reads the abbreviation, else the words, else the vaguer hints of
// Azure's messages and of the error's type.
func dimensionOf(message, typ string) llm.Dimension {
	if m := shortPattern.FindStringSubmatch(message); m != nil {
		return abbreviations[m[1]]
	}
	if m := longPattern.FindStringSubmatch(message); m != nil {
		side, what, day := strings.ToLower(m[1]), strings.ToLower(m[2]), strings.EqualFold(m[3], "day")
		switch {
		case what == "request" && day:
			return llm.RequestsDay
		case what == "request":
			return llm.Requests
		case day:
			return llm.TokensDay
		case side == "input ":
			return llm.InputTokens
		case side == "output ":
			return llm.OutputTokens
		default:
			return llm.Tokens
		}
	}
	switch {
	case containsFold(message, "token rate limit"), typ == "tokens":
		return llm.Tokens
	case containsFold(message, "call rate limit"), containsFold(message, "request rate limit"), typ == "requests":
		return llm.Requests
	case containsFold(message, "concurren"):
		return llm.Concurrent
	}
	return llm.None
}

// groupOf prefers the name of a shared limit to that of the model asked for.
func groupOf(message string) llm.Model {
	for _, p := range []*regexp.Regexp{limitGroupPattern, groupPattern, modelPattern} {
		if m := p.FindStringSubmatch(message); m != nil {
			return llm.Model(m[1])
		}
	}
	return ""
}

func containsFold(s, lower string) bool { return strings.Contains(strings.ToLower(s), lower) }
