package lane

import (
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// What looks larger than the whole limit that the provider has named cannot be waited
// for, and is not refused either: our estimate may be wrong, and the provider judges. It
// is charged one request when it goes, and for its tokens only if it is accepted.

// Impossible reports whether a charge is more than the provider has ever said to let
// through at once. A cap that only we have set can be saved up for.
func (l *Lane) Impossible(charge *llm.Vector) bool {
	for d := llm.Tokens; d <= llm.OutputTokens; d++ {
		if own := l.known[d].own; own > 0 && charge[d] > own {
			return true
		}
	}
	return false
}

// Open is When for a request that is to be judged: neither pauses nor a tripped breaker
// are for it to try, and it takes nothing of the reserve.
func (l *Lane) Open(now llm.Instant, a Ask) Verdict {
	switch {
	case now < l.pausedUntil:
		return Verdict{At: l.pausedUntil}
	case l.breaker.tripped():
		return Verdict{At: now + oneSecond}
	case now < l.dry.until:
		return Verdict{At: l.dry.until, Limit: l.dry.limit}
	}
	return l.source.Ready(now, a)
}

const oneSecond = llm.Instant(1e9)

// Judge makes t that of a request which looks impossible: full is what it looks like.
func (t *Ticket) Judge(full llm.Vector) { t.judged, t.full = true, full }

// Judged reports whether t is of a request that looks impossible.
func (t *Ticket) Judged() bool { return t.judged }

// accepted books what the provider will have charged for a request that it accepts
// though it looks impossible: no more than there is, and nothing where its headers have
// said what is left.
func (t *Ticket) accepted(now llm.Instant) {
	before := t.charge
	t.More(now, &t.full, t.told)
	if l := t.Lane(); t.sent {
		after := t.charge
		after.Add(before, -1)
		l.onTheWay.Add(after, 1)
		l.shadows.book(t.load, 1)
	}
}

// Spare takes in a 429 that waiting can cure, for a request that looks impossible: it
// tells nothing of others. It returns when the request may go again.
func (t *Ticket) Spare(now llm.Instant, s *llm.Signal) (notBefore llm.Instant) {
	l := t.Lane()
	return now.Add(l.spread(min(l.pauseOf(now, t, llm.None, s), pauseMax)))
}

// TooLarge takes in that the provider has refused the request for its size, whatever the
// level: its whole limit is known from now on, and the tokens were not booked.
func (t *Ticket) TooLarge(now llm.Instant, s *llm.Signal) (back llm.Vector) {
	l := t.Lane()
	if d := s.Dimension; d >= llm.Tokens && d <= llm.OutputTokens && s.Limit > 0 && s.Requested > s.Limit && l.cfg.Learn {
		l.known[d].own = float64(s.Limit)
		l.learned = now
	}
	for d := llm.Tokens; d <= llm.OutputTokens; d++ {
		back[d] = t.charge[d]
	}
	back[llm.TokensDay] = t.charge[llm.TokensDay]
	if back != (llm.Vector{}) {
		t.Return(now, back)
	}
	if t.sent && !t.judged {
		l.shadows.book(t.load, -1)
	}
	return back
}

// More takes more of where b was taken, but no more than there is, and none of the
// dimensions in but.
func (b *Booking) More(now llm.Instant, want *llm.Vector, but set) {
	source, extra := b.from(), llm.Vector{}
	for _, m := range source.Meters(now) {
		for _, d := range [...]llm.Dimension{llm.Tokens, llm.InputTokens, llm.OutputTokens, llm.TokensDay} {
			if m.Name == d.String() && !but.has(d) {
				extra[d] = min(want[d], max(0, m.Level))
			}
		}
	}
	source.Take(now, Ask{Client: b.client, Charge: extra})
	b.charge.Add(extra, 1)
}

// Less gives back what was taken beyond used.
func (b *Booking) Less(now llm.Instant, used llm.Vector) {
	back := llm.Vector{}
	for _, d := range [...]llm.Dimension{llm.Tokens, llm.InputTokens, llm.OutputTokens, llm.TokensDay} {
		back[d] = max(0, b.charge[d]-used[d])
	}
	if back != (llm.Vector{}) {
		b.Return(now, back)
	}
}
