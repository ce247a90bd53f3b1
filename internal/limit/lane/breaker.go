package lane

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	stormLeast = 3           // refusals that make a storm, if they are half of what was sent
	stormSpan  = time.Second // in which they come, pauses and the time they take not counted
	stormRow   = 8           // of 503s, or where nobody listens, without an answer between: a storm too
	closedFrom = 128         // attempts without an answer that no breaker need count
	reliefMost = 30 * time.Second
	aside      = 250 * time.Millisecond // so much later a refused probe comes back than others may go

	outageBackoff    = 100 * time.Millisecond // doubling with every refused probe, to outageBackoffMax
	outageBackoffMax = 5 * time.Second
)

// A breaker holds a lane back whose provider refuses everything, whatever the
// rate. After the pause one attempt goes ahead, the probe. Each answer lets one
// more go than before, so that what is on the way doubles per round trip; the
// next refusal starts the pause anew. Its zero value is closed: all may go.
//
// A refusal or two is no storm: limits and their pauses cure it, at full speed
// again at once. So the breaker trips when of the attempts sent since a first
// refusal was heard half are refused. Those that were on the way then have the
// same cause and do not count; unless nothing pauses the lane for that cause,
// and nothing else is heard: else all would come back at once.
type breaker struct {
	limit   int           // attempts that may be without an answer; 0 = the breaker is closed
	trying  int           // attempts that a tripped breaker let through and that have no answer
	failed  int           // probes refused in a row
	since   llm.Instant   // the last time that one was let through, or limit was raised
	slowest time.Duration // that a refusal took to come

	counted uint32 // number of the count that goes on
	until   llm.Instant
	sent    int
	refused int
	row     int // refusals that pause nobody, without an answer between
}

// tripped reports whether attempts are counted and held back.
func (b *breaker) tripped() bool { return b.limit > 0 }

// sends notes that an attempt leaves, and returns the count that it belongs to.
func (b *breaker) sends(now llm.Instant) uint32 {
	if b.sent++; b.sent == 1 {
		b.until = now.Add(stormSpan)
	}
	return b.counted
}

// pauses notes that nothing is sent until then.
func (b *breaker) pauses(until llm.Instant) { b.until = max(b.until, until.Add(stormSpan)) }

// refuses notes that an attempt of a count was refused after took, and reports
// whether the breaker trips for it.
func (b *breaker) refuses(probe bool, count uint32, took time.Duration, now llm.Instant) bool {
	switch {
	case probe:
	case b.limit > 0: // sent before it tripped
		return false
	case b.row >= stormRow:
	case count == 0 || count != b.counted || now > b.until.Add(2*took):
		if count == b.counted { // else it was on the way already
			b.counted++
			b.sent, b.refused = 0, 0
		}
		return false
	default:
		if b.refused++; b.refused < stormLeast || 2*b.refused < b.sent {
			return false
		}
	}
	b.limit = 1
	b.failed++
	b.since = now
	b.slowest = max(b.slowest, took)
	return true
}

// passes notes that the provider has taken an attempt. queued is how many wait.
func (b *breaker) passes(queued int, now llm.Instant) {
	if b.limit == 0 {
		return
	}
	b.failed = 0
	b.since = now
	b.raise(b.limit+1, queued)
}

func (b *breaker) raise(limit, queued int) {
	b.limit = limit
	if limit > closedFrom || limit > b.trying+queued {
		*b = breaker{trying: b.trying, counted: b.counted + 1}
	}
}

// next is when the next attempt may go, without any further answer. A refusal
// comes as fast as the last ones did; who has been silent for much longer, as
// answers that are not streamed are, has been taken.
func (b *breaker) next(queued int, now llm.Instant) llm.Instant {
	if b.trying < b.limit {
		return now
	}
	at := b.since.Add(min(max(4*b.slowest, time.Second), reliefMost))
	if at > now {
		return at
	}
	b.since = now
	b.raise(2*b.limit, queued)
	return now
}
