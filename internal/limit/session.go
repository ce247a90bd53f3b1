package limit

import "iter"

type clientKey struct {
	band   int8
	client string
}

type sessionKey struct {
	band            int8
	client, session string
}

// maxSessions is how many sessions are remembered before those idle the longest
// go early: their names come from clients, and each is half a kilobyte.
const maxSessions = 20_000

// A roster is the number of sessions that the groups of a core remember, and
// those of them that may be idle.
type roster struct {
	known       int
	first, last *flow // first has been listed longest
}

// session finds or makes the flow of a session.
func (g *group) session(key sessionKey, clientWeight, weight float64, now instant) *flow {
	client := g.recent
	if client == nil || client.name != key.client || client.band != key.band {
		client = g.clients[clientKey{key.band, key.client}]
	}
	if client != nil {
		if s := client.sessions[key.session]; s != nil {
			g.recent, client.recent = client, s
			s.reweigh(weight)
			client.reweigh(clientWeight)
			return s
		}
	}
	return g.newSession(key, clientWeight, weight, now)
}

// newSession makes a session, and lets two go that were idle for long or are
// too many.
func (g *group) newSession(key sessionKey, clientWeight, weight float64, now instant) *flow {
	ck := clientKey{key.band, key.client}
	client := g.clients[ck]
	if client == nil {
		client = newFlow(g.bands[key.band], key.client, clientWeight)
		client.sessions = map[string]*flow{}
		g.clients[ck] = client
	}
	client.reweigh(clientWeight)
	s := newFlow(client, key.session, weight)
	client.sessions[key.session] = s
	g.roster.known++
	for range 2 {
		if s := g.roster.first; s != nil && (now.sub(s.idleListed) > sessionIdle || g.roster.known > maxSessions) {
			g.roster.review(s, now)
		}
	}
	return s
}

// review looks at the session that has been listed longest. The list is not
// kept in order while sessions come and go, which is with every request: one
// that turns out to be busy is taken off (its end lists it again), and one that
// was busy lately goes to the end.
func (r *roster) review(s *flow, now instant) {
	r.unlist(s)
	switch {
	case s.queued > 0 || s.inflight > 0:
	case now.sub(s.idleSince) <= sessionIdle && r.known <= maxSessions:
		r.list(s, now)
	default:
		r.known--
		s.group.drop(s)
	}
}

// list notes that s may be idle from now on.
func (r *roster) list(s *flow, now instant) {
	s.idleSince = now
	if s.idleListed != 0 || s.queued > 0 || s.inflight > 0 {
		return
	}
	s.idleListed = max(now, 1)
	s.idlePrev, s.idleNext = r.last, nil
	if r.last != nil {
		r.last.idleNext = s
	} else {
		r.first = s
	}
	r.last = s
}

func (r *roster) unlist(s *flow) {
	if s.idlePrev != nil {
		s.idlePrev.idleNext = s.idleNext
	} else {
		r.first = s.idleNext
	}
	if s.idleNext != nil {
		s.idleNext.idlePrev = s.idlePrev
	} else {
		r.last = s.idlePrev
	}
	s.idlePrev, s.idleNext, s.idleListed = nil, nil, 0
}

// drop forgets a session that nothing refers to, and its client when that was
// the last one.
func (g *group) drop(s *flow) {
	client := s.parent
	if client.recent == s {
		client.recent = nil
	}
	delete(client.sessions, s.name)
	if len(client.sessions) == 0 && client.inflight == 0 {
		if g.recent == client {
			g.recent = nil
		}
		delete(g.clients, clientKey{client.band, client.name})
	}
}

// sessions are those that g remembers, in no order.
func (g *group) sessions() iter.Seq[*flow] {
	return func(yield func(*flow) bool) {
		for _, client := range g.clients {
			for _, s := range client.sessions {
				if !yield(s) {
					return
				}
			}
		}
	}
}
