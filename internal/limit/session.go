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

// maxSessions is how many sessions a group remembers before those idle the
// longest go early: their names come from clients, and each is half a kilobyte.
const maxSessions = 20_000

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
	g.known++
	for range 2 {
		if s := g.idle; s != nil && (now.sub(s.idleListed) > sessionIdle || g.known > maxSessions) {
			g.review(s, now)
		}
	}
	return s
}

// review looks at the session that has been listed longest. The list is not
// kept in order while sessions come and go, which is with every request: one
// that turns out to be busy is taken off (its end lists it again), and one that
// was busy lately goes to the end.
func (g *group) review(s *flow, now instant) {
	g.unlistIdle(s)
	switch {
	case s.queued > 0 || s.inflight > 0:
	case now.sub(s.idleSince) <= sessionIdle && g.known <= maxSessions:
		g.listIdle(s, now)
	default:
		g.drop(s)
	}
}

// drop forgets a session that nothing refers to, and its client when that was
// the last one.
func (g *group) drop(s *flow) {
	g.known--
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

// listIdle notes that s may be idle from now on.
func (g *group) listIdle(s *flow, now instant) {
	s.idleSince = now
	if s.idleListed != 0 || s.queued > 0 || s.inflight > 0 {
		return
	}
	s.idleListed = max(now, 1)
	s.idlePrev, s.idleNext = g.idleLast, nil
	if g.idleLast != nil {
		g.idleLast.idleNext = s
	} else {
		g.idle = s
	}
	g.idleLast = s
}

func (g *group) unlistIdle(s *flow) {
	if s.idlePrev != nil {
		s.idlePrev.idleNext = s.idleNext
	} else {
		g.idle = s.idleNext
	}
	if s.idleNext != nil {
		s.idleNext.idlePrev = s.idlePrev
	} else {
		g.idleLast = s.idlePrev
	}
	s.idlePrev, s.idleNext, s.idleListed = nil, nil, 0
}
