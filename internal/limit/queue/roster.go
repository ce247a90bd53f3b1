package queue

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	// sessionIdle is after how long an idle session's virtual time is forgotten.
	sessionIdle = time.Minute
	// maxSessions is how many sessions are remembered before those idle the longest
	// go early: their names come from clients, and each is half a kilobyte.
	maxSessions = 20_000
)

// A Roster is what the queues of one limiter have in common: how many sessions
// they remember, and who is held back for a while. Its zero value is empty.
type Roster struct {
	known       int
	first, last *Flow // that may be idle; first has been listed longest
	common      common

	Lends float64 // the part of the whole that a large request gets at least, for comparisons; 0 = a quarter

	held    []*Flow // sessions and clients that must not be served yet
	clients int     // of them, the clients
}

// An idleness is a session's entry in the list of those that may be idle.
type idleness struct {
	listed     llm.Instant // since when it is in the list; 0 = it is not
	since      llm.Instant
	prev, next *Flow
}

// Known is the number of sessions that are remembered.
func (r *Roster) Known() int { return r.known }

// Idle notes that session s may be idle from now on.
func (r *Roster) Idle(s *Flow, now llm.Instant) {
	s.idle.since = now
	if s.idle.listed != 0 || s.Waiting() > 0 || s.InFlight > 0 {
		return
	}
	s.idle.listed = max(now, 1)
	s.idle.prev, s.idle.next = r.last, nil
	if r.last != nil {
		r.last.idle.next = s
	} else {
		r.first = s
	}
	r.last = s
}

func (r *Roster) unlist(s *Flow) {
	if s.idle.prev != nil {
		s.idle.prev.idle.next = s.idle.next
	} else {
		r.first = s.idle.next
	}
	if s.idle.next != nil {
		s.idle.next.idle.prev = s.idle.prev
	} else {
		r.last = s.idle.prev
	}
	s.idle = idleness{since: s.idle.since}
}

// prune lets two sessions go, at most, that were idle for long or are too many.
func (r *Roster) prune(now llm.Instant) {
	for range 2 {
		if s := r.first; s != nil && (now.Sub(s.idle.listed) > sessionIdle || r.known > maxSessions) {
			r.review(s, now)
		}
	}
}

// review looks at the session that has been listed longest. The list is not
// kept in order while sessions come and go, which is with every request: one
// that turns out to be busy is taken off (its end lists it again), and one that
// was busy lately goes to the end.
func (r *Roster) review(s *Flow, now llm.Instant) {
	r.unlist(s)
	switch {
	case s.Waiting() > 0 || s.InFlight > 0:
	case s.paid > 0 && now < s.paidTo && r.known <= maxSessions:
		r.Idle(s, now)
	case now.Sub(s.idle.since) <= sessionIdle && r.known <= maxSessions:
		r.Idle(s, now)
	default:
		r.forget(s)
	}
}

// forget drops a session that nothing refers to.
func (r *Roster) forget(s *Flow) {
	if s.idle.listed != 0 {
		r.unlist(s)
	}
	r.known--
	s.queue.drop(s)
}

// Hold keeps a session or a client from being served until then.
func (r *Roster) Hold(f *Flow, until llm.Instant) {
	if f.index >= 0 {
		f.pop()
	}
	if f.held == 0 {
		r.held = append(r.held, f)
		if f.sessions != nil {
			r.clients++
		}
	}
	f.held = max(f.held, until, 1)
}

// Holds reports whether anybody is held back.
func (r *Roster) Holds() bool { return len(r.held) > 0 }

// Release lets those whose time has come compete again, with the tags they had, and
// tells when the next may.
func (r *Roster) Release(now llm.Instant) (next llm.Instant) {
	next = llm.Never
	for i := 0; i < len(r.held); {
		f := r.held[i]
		if f.held > now {
			next = min(next, f.held)
			i++
			continue
		}
		r.letGo(f)
		if f.head != nil || len(f.ready) > 0 {
			f.pushAsIs()
		}
	}
	return next
}

// ReleaseClients lets all clients that are held back compete again: what kept them
// has changed.
func (r *Roster) ReleaseClients() {
	if r.clients == 0 {
		return
	}
	for _, f := range r.held {
		if f.sessions != nil {
			f.held = -1 // before any time
		}
	}
}

func (r *Roster) letGo(f *Flow) {
	if f.held == 0 {
		return
	}
	f.held = 0
	if f.sessions != nil {
		r.clients--
	}
	for i, h := range r.held {
		if h == f {
			last := len(r.held) - 1
			r.held[i], r.held[last] = r.held[last], nil
			r.held = r.held[:last]
			return
		}
	}
}
