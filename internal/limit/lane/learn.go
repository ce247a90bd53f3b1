package lane

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// heed takes in what an answer's headers say of limits and levels.
func (l *Lane) heed(now llm.Instant, t *Ticket, s *llm.Signal) {
	l.hint(now, s.Profile)
	for d := llm.Requests; d <= llm.OutputTokens; d++ {
		l.level(now, t, d, &s.Levels[d])
	}
	for _, d := range []llm.Dimension{llm.RequestsDay, llm.TokensDay} {
		l.dayLevel(now, t, d, &s.Levels[d])
	}
}

// A hint is what the dialect of answers says of a lane's provider, under auto. It is
// followed once: if the provider's levels then speak against it, they win.
type hint struct {
	family  profile // that a dialect has shown; auto = none
	against int     // answers in a row that spoke another dialect
}

// contrary is how many answers in a row have to speak another dialect until the
// first hint is given up: behind a gateway one answer in a while may be another's.
const contrary = 3

// hint follows a dialect that only one provider speaks. The OpenAI dialect is
// spoken by many that charge differently: it only says that an earlier hint was
// wrong, and then the shadow ledgers decide.
func (l *Lane) hint(now llm.Instant, name string) {
	p, ok := profileNamed(name)
	if !ok || p == auto || l.profile != auto {
		return
	}
	h := &l.hinted
	if p == h.family || h.family == auto && p == openai {
		h.against = 0
		return
	}
	if h.against++; h.family != auto && h.against < contrary {
		return
	}
	before := h.family
	switch *h = (hint{family: p}); {
	case p == azure, p == anthropic:
		l.become(now, p)
	case l.family == before: // nothing else has taken its place
		l.become(now, reserve)
	}
}

// become changes how requests are charged, from the next one on. Who waits is
// weighed when it is asked for, so nothing else changes.
func (l *Lane) become(now llm.Instant, p profile) {
	if l.family == p {
		return
	}
	refill := l.family.refill()
	l.family = p
	if p.refill() == refill {
		return
	}
	for d, limit := range l.limits { // learned ones too: they come back in another way now
		if limit.Amount > 0 && (limit.Refill == Continuous || limit.Refill == Sliding) && limit.Period == time.Minute {
			l.setLimit(now, llm.Dimension(d), limit.Amount, p.refill(), time.Minute)
		}
	}
}

// learn takes the provider's word for a limit. A configured limit stays a cap.
func (l *Lane) learn(now llm.Instant, d llm.Dimension, limit float64, refill Refill, period time.Duration) {
	l.known[d].own = limit
	limit *= l.cfg.Share
	configured := l.cfg.Limits[d] * l.cfg.Share
	l.learned = now
	known := &l.known[d]
	known.assumed = false
	known.paced = d == llm.Requests && period <= time.Second
	if known.paced { // whoever may send ten a second may not send 600 at once
		limit, period = limit*time.Minute.Seconds()/period.Seconds(), time.Minute
	}
	_, usual := l.usual(d)
	known.mirrors = configured == 0 || configured/usual.Seconds() >= limit/period.Seconds()
	if !known.mirrors { // ours is stricter, and the level that it has is not what the provider tells
		limit = configured
		refill, period = l.usual(d)
	}
	l.setLimit(now, d, limit, refill, period)
	known.learned = configured != limit
}

// Refresh drops limits that the provider has long not confirmed.
func (l *Lane) Refresh(now llm.Instant) {
	if l.learned == 0 || now.Sub(l.learned) <= learnedIdle {
		return
	}
	l.learned = 0
	for d := range l.known {
		l.known[d].learned, l.known[d].assumed, l.known[d].own = false, false, 0
	}
	l.relimit(now)
}

// level applies one header of a limit per minute. What cannot be meant is
// ignored: −1 and 0 placeholders, remaining above the limit.
func (l *Lane) level(now llm.Instant, t *Ticket, d llm.Dimension, v *llm.Level) {
	if v.HasLimit && v.Limit <= 0 || v.HasRemaining && v.Remaining < 0 {
		return
	}
	if v.HasRemaining && v.Remaining == 0 && (!v.HasLimit || v.HasReset && v.Reset <= 0) {
		return
	}
	if v.HasLimit {
		if d == llm.Requests && l.known[d].perDay(v) {
			// Some tiers name their requests per day by the header of the minute: a
			// reset of 8.64 s after one request of 10,000 is a day for all of them.
			if l.known[d].learned {
				l.known[d].learned, l.known[d].mirrors, l.known[d].paced = false, false, false
				l.setLimit(now, d, 0, Continuous, time.Minute)
			}
			l.learn(now, llm.RequestsDay, float64(v.Limit), Continuous, day)
			l.source.Lower(now, llm.RequestsDay, float64(v.Remaining), llm.Never)
			return
		}
		refill, period := l.family.refill(), time.Minute
		if seen := l.known[d].pace.see(t.sentAt, v); seen > 0 && seen != period {
			refill, period = Continuous, seen
		}
		l.learn(now, d, float64(v.Limit), refill, period)
		if l.known[d].paced {
			return // what is left of a second is over when we hear of it
		}
	}
	limit := l.limits[d].Amount
	if !l.on.has(d) || !v.HasRemaining || !t.sent || float64(v.Remaining) > 1.05*max(limit/l.cfg.Share, float64(v.Limit)) {
		return
	}
	if d == llm.Tokens && l.profile == auto && !t.judged {
		if p, ok := l.shadows.judge(t, float64(v.Remaining), limit, l.rate[d], l.family); ok {
			l.become(now, p)
		}
	}
	s := t.sample(d, v.Remaining)
	s.loose = l.known[d].pace.open()
	l.source.Told(now, d, s)
}

// perDay weighs whether v, named per minute, is a limit per day: three answers
// in a row whose level would take a day to fill.
func (n *named) perDay(v *llm.Level) bool {
	if !v.HasReset || !v.HasRemaining || v.Remaining >= v.Limit {
		return false
	}
	period := v.Reset.Seconds() * float64(v.Limit) / float64(v.Limit-v.Remaining)
	if period < 0.8*day.Seconds() || period > 1.25*day.Seconds() {
		n.dayHints = 0
		return false
	}
	n.dayHints++
	return n.dayHints >= 3
}

// dayLevel applies a header of a limit per day. That nothing is left is not booked as a
// level, which nothing could raise before the day is over.
func (l *Lane) dayLevel(now llm.Instant, t *Ticket, d llm.Dimension, v *llm.Level) {
	if !v.HasLimit || v.Limit <= 0 || v.HasRemaining && (v.Remaining < 0 || v.Remaining > v.Limit) {
		return
	}
	l.learn(now, d, float64(v.Limit), Daily, day)
	level, reset := float64(v.Limit), llm.Never
	if v.HasRemaining {
		level = float64(v.Remaining)
	}
	if v.HasReset && v.Reset > 0 && v.Reset <= day {
		reset = now.Add(v.Reset)
	}
	if level > 0 {
		l.source.Lower(now, d, level, reset)
		return
	}
	if t.dry {
		l.belied++ // it was to be over before this answer, and was not
	}
	if l.belied < beliedMost {
		l.runDry(now, d, min(reset.Sub(now), day))
	}
}
