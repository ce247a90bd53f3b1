package lane

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	puzzleTries  = 5
	puzzleSpan   = 75 * time.Second // longer than the minute that most limits are counted in
	puzzleForget = 10 * time.Minute
	saidFor      = 10 * time.Minute // a word of the provider is of interest, if nothing came after
)

// A puzzle is a row of 429s whose words nobody understands. They may tell of a minute's
// limit, or of an empty purse. Tries show: what five of them, spread over more than a
// minute, did not get past, waiting does not cure. Only an answer proves the contrary.
type puzzle struct {
	first, last llm.Instant
	n           int // tries, each sent when the one before was refused
}

// Puzzled takes in a 429 that says neither that waiting cures it nor that it does not,
// and reports whether enough of them came in a row to be sure that it does not.
func (t *Ticket) Puzzled(now llm.Instant) (hopeless bool) {
	p := &t.Lane().puzzle
	switch {
	case p.n == 0, now.Sub(p.last) > puzzleForget:
		*p = puzzle{first: now, last: now, n: 1}
	case t.sentAt >= p.last:
		p.n++
		p.last = now
	}
	return p.n >= puzzleTries && p.last.Sub(p.first) >= puzzleSpan
}

// pause shortens a pause, so that the try that decides comes as soon as it can.
func (p *puzzle) pause(now llm.Instant, pause time.Duration) time.Duration {
	if p.n < puzzleTries-1 || p.last != now {
		return pause
	}
	if left := puzzleSpan - now.Sub(p.first); left > 0 {
		return min(pause, left)
	}
	return pause
}

// A word is what the provider said last when it turned a request away.
type word struct {
	said string
	at   llm.Instant
}

// Quote notes the provider's word, for those who are refused because of it.
func (l *Lane) Quote(now llm.Instant, said string) {
	if said != "" {
		l.word = word{said, now}
	}
}

// Said is the provider's last word, if nothing has come after it that was better; ""
// if there is none, or if it is old.
func (l *Lane) Said(now llm.Instant) string {
	if now >= l.dry.until && now.Sub(l.word.at) > saidFor {
		return ""
	}
	return l.word.said
}
