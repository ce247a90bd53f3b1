package queue

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	// paidLife is how long a session that left has paid for its next large request.
	paidLife = 10 * time.Minute
	// quarter is the part of the whole that a large request gets at least, lent by the
	// others: with a smaller part of its own it would wait for longer than anybody does.
	// It comes to a quarter, because sessions that come back are let in where the clock is.
	quarter = 0.3
	// ahead is how far a small flow may be ahead of the clock, in seconds of the
	// limit for all together, and still be held to use no more than its part.
	ahead = 0.5
	// interval is of how long a flow's part may wait at once, and the flow be small.
	interval = 1.0
)

// Prepay books that w, which has been the head and stays in the queue, has paid an
// instalment of a cost: it has had this turn, and others go on. Where w's part is less
// than a quarter the difference is lent: its tags move by less now, and by the rest when
// it is served.
func (q *Queue) Prepay(w *Waiter, cost, common float64) {
	s := w.Session
	if part := q.partOf(s); part < q.roster.least() {
		// x of the rate for w while its tag moves by lent·x, as fast as all others' tags do
		// by 1−x: part/(1−part) = lent·x/(1−x).
		least := q.roster.least()
		lent := part / (1 - part) * (1 - least) / least
		cost, common = cost*lent, common*lent
	}
	s.paidTo, w.paying = 0, true
	if common > 0 {
		q.roster.Book(s, common)
		s.common += common
	}
	if cost > 0 {
		s.serve(cost)
		s.Parent.serve(cost)
		s.paid += cost
		q.contest.owe(s.band, cost)
		q.contest.book(q, cost)
	}
}

// CommonRest is what is left to pay of w's cost in the common order, when it is served.
func (w *Waiter) CommonRest(cost float64) float64 {
	if paid := w.Session.common; paid > 0 && (w.paying || cost >= paid) {
		w.Session.common = 0
		return cost - paid
	}
	return cost
}

// rest is what is left to pay of w's cost, when it is served.
func (w *Waiter) rest(cost float64, now llm.Instant) float64 {
	s := w.Session
	if s.paid == 0 {
		return cost
	}
	paid, lapsed := s.paid, s.paidTo != 0 && now >= s.paidTo
	if !lapsed && !w.paying && cost < paid {
		return cost // it was paid for another, which may come back
	}
	s.paid = 0
	if lapsed {
		return cost
	}
	return cost - paid
}

// least is the part that a large request gets at least.
func (r *Roster) least() float64 {
	if r.Lends != 0 {
		return r.Lends
	}
	return quarter
}

// Small reports whether w's client asks for no more than it is due just now, and whether
// its session does: neither has had its part lately, and no more of them waits than their
// part of an interval, or this one request. A client gains nothing by opening sessions.
// Seconds is what a load costs.
func (q *Queue) Small(w *Waiter, seconds func(llm.Load) float64) (client, session bool) {
	s, c := w.Session, w.Session.Parent
	if q.roster.known == 1 && s.Sum.Requests <= 1 {
		return true, true // nobody else is there, and has not been of late
	}
	if !w.early {
		return false, false
	}
	one, part := seconds(w.Load), q.partOf(s)
	if s.Sum.Requests > 1 && seconds(s.Sum) > max(part*interval, one) {
		return false, false
	}
	return w.earlyClient && (c.Sum.Requests == 1 || seconds(c.Sum) <= max(c.Weight/c.Parent.time.shares*interval, one)), true
}

// Foresee prepares w, which is not queued, for Small.
func (q *Queue) Foresee(w *Waiter) { w.judge(false) }

// Part is the part of its band that s gets while all who wait, wait, or what it is lent
// if one of its requests is large.
func (q *Queue) Part(s *Flow) float64 { return max(q.partOf(s), q.roster.least()) }

// Others is what waits in the band of s, but for own.
func (q *Queue) Others(s *Flow, own llm.Load) llm.Load {
	others := s.Parent.Parent.time.sum
	if others.Requests > 0 {
		others.Add(own, -1)
	}
	return others
}

// Single reports whether w's client has nothing else waiting in any queue, and whether
// its session has not.
func (w *Waiter) Single() (client, session bool) {
	return w.Session.Parent.all.member.waiting <= 1, w.Session.all.member.waiting <= 1
}

// judge notes whether w, which has just come, finds its session and its client where the
// clocks are, or not far ahead. Who comes back had its turn before.
func (w *Waiter) judge(back bool) {
	s, c := w.Session, w.Session.Parent
	w.early = back || s.Lag()*max(c.time.shares, s.Weight) <= ahead && s.commonEarly()
	w.earlyClient = back || c.Lag()*max(c.Parent.time.shares, c.Weight) <= ahead && c.commonEarly()
}

// commonEarly is the same in the common order.
func (f *Flow) commonEarly() bool {
	f.catchUp()
	return f.CommonLag()*max(f.siblings().shares, f.Weight) <= ahead
}

// Saver is w's number if it has paid an instalment; 0 if not.
func (w *Waiter) Saver() uint64 {
	if w.paying {
		return w.Seq
	}
	return 0
}
