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
	Curable  ThrottleKind = iota // waiting cures it
	Quota                        // a matter of money, of an account, or of a month: not of time
	TooLarge                     // the request alone exceeds the limit
	Unclear                      // it says something that tells neither: tries have to show
)

// ParseThrottle reads the headers and body of a 429, or of another refusal with
// a retry hint, that came from host at now. The wait is, in this order:
// retry-after-ms, retry-after, the time named in the message, the time named by other
// members of the body, the time that the numbers in the message give, and the
// dimension's x-ratelimit-reset, be it in a header or in the body. The body
// may be cut short: of a long one only the first kilobytes are looked at.
//
// Of the signal's numbers, Limit−Used is the upstream's own level, and Requested
// its own estimate.
func ParseThrottle(host string, h http.Header, body []byte, now time.Time) (ThrottleKind, llm.Signal) {
	e := parseError(body)
	return throttleOf(host, h, &e, now)
}

// ParseThrottleInside is ParseThrottle for an error that came inside an answer which is
// none: an event of a stream, or a JSON body under status 200. object is the JSON that
// holds it. ok is false where the error does not tell of a limit: then it is the
// client's, as it is.
func ParseThrottleInside(host string, h http.Header, object []byte, now time.Time) (kind ThrottleKind, s llm.Signal, ok bool) {
	e := parseError(object)
	kind, s = throttleOf(host, nil, &e, now)
	s.Profile = dialectOf(host, h)
	codes := strings.Join(append([]string{e.code, e.typ}, e.codes...), "\n")
	words := plainWords(codes)
	switch {
	case kind == Quota, kind == TooLarge:
	case limitCode.MatchString(words), ratePattern.MatchString(words):
	case kind == Curable && ratePattern.MatchString(plainWords(e.text())):
	default:
		return 0, llm.Signal{}, false
	}
	return kind, s, true
}

// limitCode are the codes that tell of a limit by the status that they stand for.
var limitCode = regexp.MustCompile(`(?m)^(?:\w+ )*429(?: \w+)*$|\btoo many requests\b|\bresource exhausted\b|\brate limit`)

func throttleOf(host string, h http.Header, e *errorObject, now time.Time) (ThrottleKind, llm.Signal) {
	s := ParseRateLimit(host, h, now)
	carried := ParseRateLimit(host, e.header, now)
	for d := range s.Levels {
		if s.Levels[d] == (llm.Level{}) {
			s.Levels[d] = carried.Levels[d]
		}
	}
	if !s.HasRetryAfter {
		s.RetryAfter, s.HasRetryAfter = carried.RetryAfter, carried.HasRetryAfter
	}
	text := e.text()
	s.Said = e.said()
	s.Group = groupOf(text)
	s.Limit = number(limitPattern, text)
	if s.Limit == 0 {
		s.Limit = number(sentencePattern, text)
	}
	s.Used, s.Requested = number(usedPattern, text), number(requestedPattern, text)
	s.Dimension, s.Period = dimensionOf(text, e.typ)
	byID := false
	if d, period, limit, ok := quotaOf(e.quotas); ok && (s.Period == 0 || period > s.Period) {
		s.Dimension, s.Period, byID = d, period, true
		if s.Limit == 0 {
			s.Limit = limit
		}
	}
	if s.Dimension == llm.None && s.Period == 0 {
		s.Dimension, s.Period = emptyDay(&s)
	}
	if s.Period == 0 && s.Dimension == llm.None {
		s.Period = periodOf(plainWords(strings.Join(append([]string{e.code, e.typ}, e.codes...), "\n")))
	}
	if byID && daily(s.Period) {
		// The hint beside a day's quota is that of its client library, and not of the day.
		s.RetryAfter, s.HasRetryAfter = midnight(now), true
	}
	for _, hint := range []func() (time.Duration, bool){
		func() (time.Duration, bool) { return waitNamed(text) },
		func() (time.Duration, bool) { return dateNamed(text, now) },
		func() (time.Duration, bool) { return waitTold(e, now) },
		func() (time.Duration, bool) { return waitComputed(&s) },
		func() (time.Duration, bool) { return resetOf(&s) },
	} {
		if !s.HasRetryAfter {
			s.RetryAfter, s.HasRetryAfter = hint()
		}
	}
	kind := kindOf429(e, &s, s.HasRetryAfter)
	if daily(s.Period) && !s.Dimension.Daily() {
		s.Dimension = llm.RequestsDay
	}
	return kind, s
}

// emptyDay finds the day's limit that levels show to be used up, where no text names one.
func emptyDay(s *llm.Signal) (llm.Dimension, time.Duration) {
	for d := range s.Levels {
		if v := &s.Levels[d]; d > int(llm.None) && d < int(llm.RequestsDay) && v.HasRemaining && v.Remaining == 0 {
			return llm.None, 0 // the minute's is used up as well, and is over first
		}
	}
	for _, d := range []llm.Dimension{llm.RequestsDay, llm.TokensDay} {
		if v := &s.Levels[d]; v.HasRemaining && v.Remaining == 0 {
			return d, day
		}
	}
	return llm.None, 0
}

// waitTold reads the members that are named after a wait, or after its end.
func waitTold(e *errorObject, now time.Time) (d time.Duration, ok bool) {
	for _, text := range e.waits {
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			d, ok = seconds(f)
		} else if d, ok = waitNamed(text); !ok {
			if parsed, err := time.ParseDuration(text); err == nil {
				d, ok = believed(parsed)
			}
		}
		if ok {
			return d, ok
		}
	}
	for _, text := range e.until {
		if d, ok = parseReset(text, now); ok {
			return d, ok
		}
	}
	return 0, false
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

// The sentences providers use, as seen in public reports. Numbers may have
// thousands separators (Anthropic) or a tilde (Groq).
var (
	limitPattern     = regexp.MustCompile(`(?i)\blimit:? ~?(\d[\d,]*)`)
	usedPattern      = regexp.MustCompile(`(?i)\b(?:used|current):? ~?(\d[\d,]*)`)
	requestedPattern = regexp.MustCompile(`(?i)\brequested:? ~?(\d[\d,]*)`)
	sentencePattern  = regexp.MustCompile(`(?i)\bof (\d[\d,]*) (?:input |output )?(?:tokens|requests) per`)

	waitPattern = regexp.MustCompile(`(?i)\b(?:(?:again|retry|retrying|resets?|reset|replenished|available|wait|lifted|resume[sd]?) (?:again )?(?:in|after|for)|please wait|wait(?: at least)?):? (?:about |~)?((?:\d+(?:\.\d+)?\s*` + unit + `(?:,| and)?\s*)+)|^(\d+(?:\.\d+)?s)$`)
	spanPattern = regexp.MustCompile(`(?i)\b(?:again|retry|resets?|replenished|available|wait) (?:in|after|for) (?:(\d+)\.)?(\d{1,2}):(\d\d):(\d\d)\b`) // Azure's API Management
	datePattern = regexp.MustCompile(`(?i)\b(?:again|retry|resets?|replenished|available|until|after|access|at|on)[ :]+(?:at |on |after |until |by )?(\d{4}-\d\d-\d\d)(?:[T ]| at )(\d\d:\d\d)(:\d\d)?(?:\.\d+)? ?(Z|UTC|GMT|[+-]\d\d:?\d\d)`)
	partPattern = regexp.MustCompile(`(?i)(\d+(?:\.\d+)?)\s*(` + unit + `)`)

	shortPattern = regexp.MustCompile(`\((RPM|TPM|RPD|TPD|ITPM|OTPM)\)`)
	longPattern  = regexp.MustCompile(`\b(input |output )?(token|request)s (?:per|every|each) (\d+ ?)?(` + periodUnit + `)\b`)

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
	if m := spanPattern.FindStringSubmatch(s); m != nil {
		days, _ := strconv.ParseFloat("0"+m[1], 64)
		hours, _ := strconv.ParseFloat(m[2], 64)
		minutes, _ := strconv.ParseFloat(m[3], 64)
		rest, _ := strconv.ParseFloat(m[4], 64)
		return seconds(days*day.Seconds() + hours*3600 + minutes*60 + rest)
	}
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

// dateNamed finds "Limit resets at: 2026-03-01 12:00:00 UTC" and its relatives.
func dateNamed(s string, now time.Time) (d time.Duration, ok bool) {
	m := datePattern.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	zone := strings.ToUpper(m[4])
	switch {
	case zone == "UTC", zone == "GMT":
		zone = "Z"
	case len(zone) == 5:
		zone = zone[:3] + ":" + zone[3:]
	}
	if m[3] == "" {
		m[3] = ":00"
	}
	return parseDate(m[1]+"T"+m[2]+m[3]+zone, now)
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
// Azure's messages and of the error's type. period is 0 where it is not said.
func dimensionOf(message, typ string) (d llm.Dimension, period time.Duration) {
	words := plainWords(message)
	if m := shortPattern.FindStringSubmatch(message); m != nil {
		d = abbreviations[m[1]]
		return d, periods[strings.ToLower(m[1])]
	}
	if m := longPattern.FindStringSubmatch(words); m != nil {
		if period = periodTimes(m[3], m[4]); period <= mostDay {
			return dimensionFor(m[2] == "token", m[1] == "input ", m[1] == "output ", period), period
		}
		return llm.None, period
	}
	period = periodOf(withoutAdvice(words))
	switch {
	case containsFold(message, "token rate limit"), typ == "tokens":
		d = llm.Tokens
	case containsFold(message, "call rate limit"), containsFold(message, "request rate limit"), typ == "requests":
		d = llm.Requests
	case containsFold(message, "concurren"):
		d = llm.Concurrent
	}
	if daily(period) {
		d = dimensionFor(d == llm.Tokens || strings.Contains(words, "token"), false, false, period)
	}
	return d, period
}

// withoutAdvice leaves out the sentences that tell what to do.
func withoutAdvice(words string) string {
	kept := []string{}
	for _, sentence := range sentences(words) {
		if !advicePattern.MatchString(sentence) {
			kept = append(kept, sentence)
		}
	}
	return strings.Join(kept, "\n")
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
