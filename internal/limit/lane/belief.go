package lane

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	wrongMost    = 2                // words that another word contradicts, until none is believed
	wrongSpan    = 45 * time.Second // in which they come: a fixed minute's window opens once in a minute
	wrongApart   = time.Second / 2  // of two that are counted: one surprise may be told by several
	disbelief    = time.Hour        // without belief, as long as what was learned lasts
	refMost      = 10 * time.Second // how long a word bounds the next ones
	wordJitter   = 0.1              // seconds by which a request may be late at the provider
	doubtGap     = 0.05             // of the limit, by which our own ledger has to be above the header's
	doubtLevel   = 1                // words of more than that are not doubted: what is left can be sent, and shows
	doubtWords   = 2                // in a row that have to say so
	doubtNever   = 0.15             // of the limit: words that were never of more are doubted, too
	doubtTries   = 2                // requests that may go against such words beyond what they leave, before the next is heard
	doubtMost    = 8                // the same, in all
	doubtPause   = 2 * time.Minute  // after one of them was refused; four times as long after each further one
	doubtPauseTo = time.Hour
)

// A belief weighs what headers say is left of a limit of requests. They may be honest
// and show what others use, or speak of something else: a burst, requests in flight, a
// number that never changes. Our own ledger knows what the level would be if nobody else
// used the limit. Where it has clearly more than the headers say, a request or two go
// against their word. A refusal proves the headers right, and the next doubt is far off.
//
// A word is wrong if another one contradicts it: after R was left, no more can be left
// than R, the refill since, less what we have sent since; and where that is nothing, no
// request can pass. After two wrong words in a row headers are not believed for an hour,
// and the limit goes by our ledger, as if they told no level.
type belief struct {
	own, ownSpent float64 // level by our own ledger, and the ledger then
	ownAt         llm.Instant

	ref     Sample // the word that bounds the next one the tightest
	wrong   int
	wrongAt llm.Instant
	until   llm.Instant // nothing is believed

	loose   bool // the last word was of a limit whose period is not known
	empty   int  // words in a row that said that nothing is left
	highest float64
	tries   int         // requests that may go against a word
	tried   llm.Instant // since when they go
	trying  bool
	doubtAt llm.Instant // when that may be
	pause   time.Duration
}

// ownLevel is the level by our own ledger.
func (b *bucket) ownLevel(now llm.Instant) float64 {
	w := &b.belief
	return min(b.capacity(), w.own+b.factor*b.rate*now.Sub(w.ownAt).Seconds()-(b.spent-w.ownSpent))
}

// keepOwn sets the level of our own ledger.
func (b *bucket) keepOwn(now llm.Instant, level float64) {
	b.belief.own, b.belief.ownSpent, b.belief.ownAt = level, b.spent, now
}

// doubt is the earliest instant at which a request may go that needs so high a level,
// though headers have said that it is not there; Never = it may not.
func (b *bucket) doubt(now llm.Instant, need float64) llm.Instant {
	w := &b.belief
	if w.tries == 0 || w.loose || now < w.until || !b.counted || !b.seen.ok || !b.mirrors || b.refill != Continuous || b.paced {
		return llm.Never
	}
	switch {
	case w.highest < doubtNever*b.limit:
	case w.empty >= doubtWords:
		need += doubtGap * b.limit
	default:
		return llm.Never
	}
	at := max(now, w.doubtAt)
	if own := b.ownLevel(now); own < need {
		at = max(at, now.Add(roundUp((need-own)/(b.factor*b.rate))))
	}
	return at
}

// try books that one went.
func (b *bucket) try(need float64) {
	if w := &b.belief; b.level < need-1e-9*need && w.tries > 0 {
		if !w.trying {
			w.tried, w.trying = b.at, true
		}
		w.tries--
	}
}

// weigh holds a word against the ones before, and reports whether it is believed.
func (b *bucket) weigh(now llm.Instant, s Sample) bool {
	w := &b.belief
	if now < w.until {
		return false
	}
	b.keepOwn(now, b.ownLevel(now))
	bound := b.limit
	if w.ref.ok {
		dt := s.Sent.Sub(w.ref.Sent).Seconds()
		bound = w.ref.Remaining + 1 + b.rate*(dt+wordJitter) - (s.Spent - w.ref.Spent) + s.Late
		if s.Remaining >= bound && bound < 0.9*b.limit && dt <= refMost.Seconds() {
			b.contradict(now)
			w.ref.ok = false
			if now < w.until {
				return false
			}
		}
		if dt > refMost.Seconds() {
			w.ref.ok = false
		}
	}
	if !w.ref.ok || s.Remaining+1 < bound {
		w.ref = s
		w.ref.ok = true
	}
	if w.empty++; s.Remaining > doubtLevel {
		w.empty = 0
	}
	w.highest = max(w.highest, s.Remaining)
	if s.Sent >= w.tried {
		w.tries, w.trying = min(doubtTries+int(s.Remaining), doubtMost), false
	}
	return true
}

// contradict counts a wrong word.
func (b *bucket) contradict(now llm.Instant) {
	w := &b.belief
	switch since := now.Sub(w.wrongAt); {
	case w.wrong > 0 && since < wrongApart:
		return
	case w.wrong > 0 && since > wrongSpan:
		w.wrong = 0
	}
	w.wrong++
	w.wrongAt = now
	if w.wrong < wrongMost {
		return
	}
	w.until, w.wrong = now.Add(disbelief), 0
	b.level = max(b.level, b.ownLevel(now))
	b.foreign, b.anchor, b.seen = 0, Sample{}, Sample{}
}

// proved takes in that the provider has refused a request that was sent at sent: its
// words were right, if that one went against them.
func (b *bucket) proved(now, sent llm.Instant) {
	w := &b.belief
	b.keepOwn(now, min(b.ownLevel(now), b.level))
	w.ref.ok = false // what was refused is in our ledger, and not in the provider's
	if w.tried == 0 || sent < w.tried || now < w.until {
		return
	}
	w.pause = min(max(4*w.pause, doubtPause), doubtPauseTo)
	w.doubtAt, w.tries, w.tried, w.trying, w.wrong = now.Add(w.pause), doubtTries, 0, false, 0
}
