package lane

import (
	"math"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A Ticket is what was taken of a lane for one attempt of a request. It hears what
// comes of the attempt, in this order: Sent; Observe and Started for an answer, or
// one of Throttled, Unavailable and TakeBack for a refusal; Settle if the usage is
// known; End, whatever came before.
type Ticket struct {
	Booking
	load llm.Load

	sentAt  llm.Instant
	sent    bool
	started bool
	heard   bool    // an answer's headers have come
	probe   bool    // let through by a breaker that has tripped
	dry     bool    // let through though a limit was used up, to see whether it still is
	count   uint32  // of the breaker, that it was sent in
	family  profile // by which it was charged when it was sent
	mark    Mark
	shadow  [numShadows]float64
	judged  bool        // see Judge
	full    llm.Vector  // what it looks like, if it is judged
	told    set         // of what its answer's headers tell the level, if it is
	pending *llm.Signal // headers seen before the model had a lane of its own
}

// Take books an ask's charge, which When has just let go, and makes its ticket. The
// load is what the charge was made of.
func (l *Lane) Take(now llm.Instant, load llm.Load, a Ask) Ticket {
	t := Ticket{Booking: l.Book(now, a), load: load, probe: l.breaker.tripped()}
	if t.probe {
		l.breaker.trying++
		l.breaker.since = now
	}
	if now < l.dry.until {
		t.dry = true
		l.dry.probe = now.Add(l.dry.every)
	}
	return t
}

// WasSent reports whether the request has left.
func (t *Ticket) WasSent() bool { return t.sent }

// HasStarted reports whether a good answer has begun.
func (t *Ticket) HasStarted() bool { return t.started }

// Probe reports whether the attempt goes ahead of others, to try a provider that
// refused everything. What it meets is not its own fault.
func (t *Ticket) Probe() bool { return t.probe }

// Sent marks the moment before the request's bytes leave, and remembers the
// ledger: the answer's headers speak of then.
func (t *Ticket) Sent(now llm.Instant) {
	l := t.Lane()
	if !t.sent {
		if !t.judged {
			l.shadows.book(t.load, 1)
		}
		l.onTheWay.Add(t.charge, 1)
	}
	t.sent, t.sentAt, t.family = true, now, l.family
	t.count = l.breaker.sends(now)
	t.mark = l.source.Mark(now, t.charge)
	if l.family == postpaid {
		// The provider books at the end: its remaining has what is on the way still
		// in it, and to take that for free would admit the same again.
		for d := llm.Tokens; d <= llm.OutputTokens; d++ {
			t.mark.Spent[d] -= l.onTheWay[d]
		}
		t.mark.Late = Mark{}.Late
	}
	t.shadow = l.shadows.spent
}

// Observe takes in the headers of an answer that does not turn the request away.
// Those of a model that has not answered well yet are kept until it has.
func (t *Ticket) Observe(now llm.Instant, s *llm.Signal) {
	t.heard = true
	l := t.Lane()
	for d := llm.Tokens; t.judged && d <= llm.OutputTokens; d++ {
		t.told.put(d, s.Levels[d].HasRemaining && l.cfg.Learn)
	}
	l.breaker.row = 0
	if t.dry && t.sentAt >= l.dry.since {
		l.reopen(now)
	}
	switch {
	case !l.cfg.Learn:
	case l.shared:
		kept := *s
		t.pending = &kept
	default:
		l.heed(now, t, s)
	}
}

// Started books a good answer: the model exists, the provider is not overrun. A
// lane that was shared has to be its own by now.
func (t *Ticket) Started(now llm.Instant) {
	if t.started {
		return
	}
	t.started = true
	l := t.Lane()
	if t.judged {
		t.accepted(now)
	}
	if t.pending != nil && !l.shared {
		l.heed(now, t, t.pending)
		t.pending = nil
	}
	l.rejects, l.breaker.row = 0, 0
	l.puzzle, l.word = puzzle{}, word{}
	if t.probe {
		t.passed(now)
	}
	l.congestion.answered(now, t.sentAt)
}

// TakeBack is Booking's, and takes the request off what shadow ledgers have.
func (t *Ticket) TakeBack(now llm.Instant) {
	t.Booking.TakeBack(now)
	if t.sent && !t.judged {
		t.Lane().shadows.book(t.load, -1)
	}
}

// Settle corrects the charge to the exact usage, as the provider's own buckets move,
// and tells what it gave back of it.
func (t *Ticket) Settle(now llm.Instant, u llm.Usage) (back llm.Vector) {
	booked := t.lane.family.settle(t.charge, u)
	for d := range booked {
		if t.judged && booked[d] > t.charge[d] {
			booked[d] = t.charge[d] // what was not there cannot have been used
		}
	}
	back = t.charge
	back.Add(booked, -1)
	if back != (llm.Vector{}) {
		t.Return(now, back)
	}
	if t.sent {
		l := t.Lane()
		l.shadows.settle(t.load, u)
		l.service.observe(now.Sub(t.sentAt).Seconds())
	}
	return back
}

// End gives back the slot, whatever became of the charge.
func (t *Ticket) End(now llm.Instant) {
	l := t.Lane()
	if t.sent {
		l.onTheWay.Add(t.charge, -1)
	}
	if t.probe {
		if t.heard {
			t.passed(now)
		} else { // its client left: that tells nothing
			t.probe = false
			l.breaker.trying--
		}
	}
	t.Booking.End(now)
}

// passed notes that the provider did not refuse the probe t.
func (t *Ticket) passed(now llm.Instant) {
	l := t.Lane()
	t.probe = false
	l.breaker.trying--
	l.breaker.passes(l.Queued, now)
}

// refusal takes in that t was refused, be it with a 429, with a 503 that has a
// hint, or by nobody listening, and reports whether that has tripped the breaker.
func (t *Ticket) refusal(now llm.Instant) bool {
	l, probe := t.Lane(), t.probe
	if probe {
		t.probe = false
		l.breaker.trying--
	}
	if !t.sent {
		return l.breaker.refuses(probe, 0, 0, now)
	}
	return l.breaker.refuses(probe, t.count, now.Sub(t.sentAt), now)
}

// spent is the ledger of d when t was sent.
func (t *Ticket) spent(d llm.Dimension) float64 {
	if int(d) < len(t.mark.Spent) {
		return t.mark.Spent[d]
	}
	return math.Inf(1)
}

// sample is what a header says is left of d.
func (t *Ticket) sample(d llm.Dimension, remaining int64) Sample {
	return Sample{
		Sent: t.sentAt, Remaining: float64(remaining), Spent: t.mark.Spent[d], Late: t.mark.Late[d],
		family: t.family,
	}
}

// Unavailable takes in that the request did not reach the provider, or was turned
// away unprocessed with the wish to come back after. It returns when the request
// may go again.
func (t *Ticket) Unavailable(now llm.Instant, after time.Duration) (notBefore llm.Instant) {
	t.TakeBack(now)
	l := t.Lane()
	notBefore = now.Add(max(0, after))
	if l.crowd || t.judged {
		return notBefore
	}
	l.breaker.row++
	if !t.refusal(now) {
		return notBefore
	}
	ceiling := min(outageBackoffMax, outageBackoff<<min(l.breaker.failed-1, 10))
	pause := max(l.spread(min(after, pauseMax)), ceiling/2+time.Duration(l.cfg.Roll()*float64(ceiling/2)))
	l.pausedUntil = max(l.pausedUntil, now.Add(pause))
	return max(notBefore, l.pausedUntil.Add(aside))
}
