package wire

import (
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	day = 24 * time.Hour
	// leastDay is the shortest period that is held to be a limit per day, and mostDay
	// the longest: a week or a month is a matter of money.
	leastDay = 12 * time.Hour
	mostDay  = 48 * time.Hour
)

// plainWords makes the words of a code comparable with those of a sentence:
// "GenerateRequestsPerMinute", "requests_per_minute" and "requests/min" are one text.
// Addresses are taken out, for they say nothing of the cause.
func plainWords(s string) string {
	s = addressPattern.ReplaceAllString(s, " ")
	var b strings.Builder
	runes := []rune(s)
	for i, r := range runes {
		switch {
		case r == '_' || r == '-' || r == ':' || r == '\'' || r == '’' || r == '"' || r == '`':
			b.WriteByte(' ')
		case r == '.' && i+1 < len(runes) && unicode.IsLetter(runes[i+1]): // RateLimitExceeded.EndpointRPMExceeded
			b.WriteByte(' ')
		case unicode.IsUpper(r) && i > 0 && (unicode.IsLower(runes[i-1]) ||
			unicode.IsUpper(runes[i-1]) && i+1 < len(runes) && unicode.IsLower(runes[i+1]) && !strings.ContainsRune("s", runes[i+1])):
			b.WriteByte(' ')
			b.WriteRune(unicode.ToLower(r))
		default:
			b.WriteRune(unicode.ToLower(r))
		}
	}
	return slashPattern.ReplaceAllString(b.String(), " per $1")
}

var (
	addressPattern = regexp.MustCompile(`(?i)\bhttps?://\S+|\bwww\.\S+`)
	slashPattern   = regexp.MustCompile(` ?/ ?(second|sec|s|minute|min|m|hour|hr|h|day|d|week|month|mo|year)s?\b`)

	// The units are longest first where one is the other's beginning.
	periodPattern = regexp.MustCompile(`\b(?:per|every|each|by|this|last|within|for the|in any)\s+(\d+ ?)?(` + periodUnit + `)s?\b` +
		`|\b(\d+) ?(second|minute|hour|day|week|month)s? (?:window|period|limit|quota|interval)` +
		`|\b(secondly|hourly|daily|weekly|monthly|annual|yearly|today|rps|qps|tps|rpm|qpm|tpm|itpm|otpm|ipm|rph|tph|rpd|tpd)\b` +
		`|(每秒|每分钟|每小时|每天|每日|当日|今日|每周|本周|每月|本月|当月|1日あたり|1分あたり|毎分|分あたり)`)
)

const periodUnit = `seconds?|sec|s|minutes?|min|m|hours?|hr|h|days?|d|weeks?|months?|mo|years?`

// periods are those of words that name one by themselves.
var periods = map[string]time.Duration{
	"secondly": time.Second, "rps": time.Second, "qps": time.Second, "tps": time.Second, "每秒": time.Second,
	"rpm": time.Minute, "qpm": time.Minute, "tpm": time.Minute, "itpm": time.Minute, "otpm": time.Minute, "ipm": time.Minute,
	"每分钟": time.Minute, "1分あたり": time.Minute, "毎分": time.Minute, "分あたり": time.Minute,
	"hourly": time.Hour, "rph": time.Hour, "tph": time.Hour, "每小时": time.Hour,
	"daily": day, "today": day, "rpd": day, "tpd": day, "每天": day, "每日": day, "当日": day, "今日": day, "1日あたり": day,
	"weekly": 7 * day, "每周": 7 * day, "本周": 7 * day,
	"monthly": 30 * day, "每月": 30 * day, "本月": 30 * day, "当月": 30 * day,
	"annual": 365 * day, "yearly": 365 * day,
}

// periodOf is the period of a limit that plain words name first; 0 = none.
func periodOf(words string) time.Duration {
	m := periodPattern.FindStringSubmatch(words)
	if m == nil {
		return 0
	}
	switch {
	case m[2] != "":
		return periodTimes(m[1], m[2])
	case m[4] != "":
		return periodTimes(m[3], m[4])
	case m[5] != "":
		return periods[m[5]]
	}
	return periods[m[6]]
}

func periodTimes(times, unit string) time.Duration {
	n := 1.0
	if times = strings.TrimSpace(times); times != "" {
		n, _ = strconv.ParseFloat(times, 64)
	}
	var of float64
	switch {
	case strings.HasPrefix(unit, "week"):
		of = 7 * day.Seconds()
	case strings.HasPrefix(unit, "mo"):
		of = 30 * day.Seconds()
	case strings.HasPrefix(unit, "year"):
		of = 365 * day.Seconds()
	default:
		of = unitSeconds(unit)
	}
	if s := n * of; s > 0 && s <= 366*day.Seconds() {
		return time.Duration(s * float64(time.Second))
	}
	return 0
}

// daily reports whether a limit of this period is one per day.
func daily(period time.Duration) bool { return period >= leastDay && period <= mostDay }

// quotaOf reads the limits that a body names by id, such as Google's
// "GenerateRequestsPerDayPerProjectPerModel-FreeTier": the one of the longest
// period, for it keeps the request back the longest.
func quotaOf(quotas []quota) (d llm.Dimension, period time.Duration, limit int64, ok bool) {
	for _, q := range quotas {
		words := plainWords(q.id)
		p := periodOf(words)
		if p == 0 || p <= period {
			continue
		}
		period, ok = p, true
		d = dimensionFor(strings.Contains(words, "token"), strings.Contains(words, "input"), strings.Contains(words, "output"), p)
		limit, _ = parseCount(q.value)
	}
	return d, period, limit, ok
}

// dimensionFor is the limit of requests, or of tokens, for a period.
func dimensionFor(tokens, input, output bool, period time.Duration) llm.Dimension {
	switch {
	case daily(period) && tokens:
		return llm.TokensDay
	case daily(period):
		return llm.RequestsDay
	case !tokens:
		return llm.Requests
	case input:
		return llm.InputTokens
	case output:
		return llm.OutputTokens
	}
	return llm.Tokens
}

// midnight is how long a day of Google's lasts at most: its days end at midnight in
// California, which is 07:00 or, in winter, 08:00 UTC.
func midnight(now time.Time) time.Duration {
	now = now.UTC()
	end := time.Date(now.Year(), now.Month(), now.Day(), 8, 0, 0, 0, time.UTC)
	if !end.After(now) {
		end = end.Add(day)
	}
	return end.Sub(now)
}
