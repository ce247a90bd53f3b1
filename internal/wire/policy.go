package wire

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// readings are the levels that one answer's headers tell, by dimension and period.
type readings struct {
	all [maxReadings]struct {
		dimension llm.Dimension
		period    time.Duration // 0 = not said
		level     level
	}
	n int
}

// maxReadings bounds the levels of one answer; any further ones are taken for the last.
const maxReadings = 16

type level struct{ llm.Level }

// before reports whether a is rather to be kept than b. A limit per minute is the one
// whose level tells most; that of a second shows by its refusals, that of an hour seldom.
func before(a, b *llm.Level) bool {
	rank := func(l *llm.Level) int {
		switch {
		case l.Period == 0, l.Period == time.Minute:
			return 0
		case l.Period < time.Minute:
			return 1
		}
		return 2
	}
	if rank(a) != rank(b) {
		return rank(a) < rank(b)
	}
	return a.Period < b.Period
}

// of finds the level of d for a period, or makes it. One without a period and that of a
// minute are one: names say the minute where they say anything.
func (r *readings) of(d llm.Dimension, period time.Duration) *level {
	for i := range r.all[:r.n] {
		one := &r.all[i]
		if one.dimension != d || one.period != period && max(one.period, period) != time.Minute {
			continue
		}
		if one.period == period || min(one.period, period) == 0 {
			one.period = max(one.period, period)
			return &one.level
		}
	}
	if r.n < maxReadings {
		r.n++
	}
	one := &r.all[r.n-1]
	one.dimension, one.period, one.level = d, period, level{}
	return &one.level
}

// shareReset lends Together's one reset to its tokens.
func (r *readings) shareReset() {
	var requests, tokens *level
	for i := range r.all[:r.n] {
		switch one := &r.all[i]; {
		case one.period != 0:
		case one.dimension == llm.Requests:
			requests = &one.level
		case one.dimension == llm.Tokens:
			tokens = &one.level
		}
	}
	if requests != nil && tokens != nil && tokens.HasLimit && !tokens.HasReset && requests.HasReset {
		tokens.Reset, tokens.HasReset = requests.Reset, true
	}
}

// policies reads the fields of the IETF's draft, in the forms that it has had:
//
//	RateLimit-Policy: "burst";q=10;w=1, "day";q=5000;w=86400     RateLimit: "burst";r=9;t=1
//	RateLimit-Policy: 100;w=60                                   RateLimit: limit=100, remaining=50, reset=5
//	RateLimit-Limit: 100, 100;w=60                               RateLimit-Remaining and -Reset beside it
func (r *readings) policies(h http.Header, now time.Time) {
	type policy struct {
		item
		quota  int64
		window time.Duration
	}
	var known []policy
	for _, name := range []string{"Ratelimit-Policy", "X-Ratelimit-Policy", "Ratelimit-Limit", "X-Ratelimit-Limit"} {
		for _, one := range itemsOf(h.Get(name)) {
			quota, ok := parseCount(one.parameter("q", one.value))
			w, err := strconv.ParseFloat(one.parameter("w", ""), 64)
			if window, fits := seconds(w); ok && quota > 0 && err == nil && fits && window > 0 {
				known = append(known, policy{one, quota, window})
			}
		}
	}
	if len(known) == 0 && h.Get("Ratelimit") == "" {
		return
	}
	// The three fields of old are of the policy that has their limit.
	if old := r.of(llm.Requests, 0); old.HasLimit {
		for _, p := range known {
			if p.quota == old.Limit {
				r.move(llm.Requests, p.window)
				break
			}
		}
	}
	for _, one := range itemsOf(h.Get("Ratelimit")) {
		remaining, hasRemaining := parseCount(one.parameter("r", one.parameter("remaining", "")))
		reset, hasReset := parseReset(one.parameter("t", one.parameter("reset", "")), now)
		l := llm.Level{Remaining: remaining, HasRemaining: hasRemaining, Reset: reset, HasReset: hasReset}
		if n, ok := parseCount(one.parameter("limit", "")); ok && n > 0 {
			l.Limit, l.HasLimit = n, true
		}
		d, window := dimensionOfItem(one), time.Duration(0)
		for _, p := range known {
			if p.value == one.value || l.HasLimit && p.quota == l.Limit || len(known) == 1 {
				l.Limit, l.HasLimit, window, d = p.quota, true, p.window, dimensionOfItem(p.item)
				break
			}
		}
		if d != llm.None && (hasRemaining || l.HasLimit) {
			*r.of(d, window) = level{l}
		}
	}
	for _, p := range known {
		if d := dimensionOfItem(p.item); d != llm.None {
			if l := r.of(d, p.window); !l.HasLimit {
				l.Limit, l.HasLimit = p.quota, true
			}
		}
	}
}

// move gives the level of d that names no period one.
func (r *readings) move(d llm.Dimension, period time.Duration) {
	for i := range r.all[:r.n] {
		if one := &r.all[i]; one.dimension == d && one.period == 0 {
			one.period = period
		}
	}
}

// dimensionOfItem is what a policy counts, by its unit or else by its name.
func dimensionOfItem(i item) llm.Dimension {
	unit := strings.ToLower(i.parameter("qu", ""))
	switch {
	case strings.Contains(unit, "token"), unit == "" && strings.Contains(strings.ToLower(i.value), "token"):
		return llm.Tokens
	case unit == "" || strings.Contains(unit, "request"):
		return llm.Requests
	}
	return llm.None
}

// An item is one member of a structured list: a value with parameters.
type item struct {
	value      string
	parameters string
}

// parameter is a parameter's value, or other.
func (i item) parameter(name, other string) string {
	for p := range strings.SplitSeq(i.parameters, ";") {
		if key, value, ok := strings.Cut(strings.TrimSpace(p), "="); ok && strings.EqualFold(strings.TrimSpace(key), name) {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return other
}

// itemsOf cuts a list. The draft's dictionary of limit, remaining and reset is one item.
func itemsOf(s string) (items []item) {
	for part := range strings.SplitSeq(s[:min(len(s), 1024)], ",") {
		value, parameters, _ := strings.Cut(part, ";")
		value = strings.TrimSpace(value)
		if strings.Contains(value, "=") {
			value, parameters = "", value+";"+parameters
			if n := len(items); n > 0 && items[n-1].value == "" {
				items[n-1].parameters += ";" + parameters
				continue
			}
		}
		if len(items) < maxReadings && (value != "" || parameters != "") {
			items = append(items, item{strings.Trim(value, `"`), parameters})
		}
	}
	return items
}
