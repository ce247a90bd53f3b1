package limit

type clientKey struct {
	band   int8
	client string
}

type sessionKey struct {
	band            int8
	client, session string
}

// maxSessions is how many sessions a group remembers before the longest idle
// ones go early: names come from clients, and cost half a kilobyte each.
const maxSessions = 20_000

// session finds or makes the flow of a session, and lets two go that were idle
// for long, or that are too many.
func (g *group) session(key sessionKey, clientWeight, weight float64, now instant) *flow {
	s := g.recent // agents ask in bursts
	if s == nil || s.name != key.session || s.parent.name != key.client || bandOf(s.priority) != key.band {
		s = g.sessions[key]
	}
	if s != nil {
		g.recent = s
		s.reweigh(weight)
		s.parent.reweigh(clientWeight)
		g.unlistIdle(s)
		return s
	}
	for range 2 {
		if s := g.idle; s != nil && (now.sub(s.idleSince) > sessionIdle || len(g.sessions) > maxSessions) {
			g.drop(s, key)
		}
	}
	ck := clientKey{key.band, key.client}
	client := g.clients[ck]
	if client == nil {
		client = newFlow(g.bands[key.band], key.client, clientWeight)
		g.clients[ck] = client
	}
	client.reweigh(clientWeight)
	client.children++
	s = newFlow(client, key.session, weight)
	g.sessions[key] = s
	return s
}

// drop forgets an idle session, and its client when that was the last one.
// keep names a session about to be made, whose client must stay.
func (g *group) drop(s *flow, keep sessionKey) {
	g.unlistIdle(s)
	if g.recent == s {
		g.recent = nil
	}
	client := s.parent
	band := bandOf(s.priority)
	delete(g.sessions, sessionKey{band, client.name, s.name})
	client.children--
	if client.children == 0 && client.inflight == 0 && (client.name != keep.client || band != keep.band) {
		delete(g.clients, clientKey{band, client.name})
	}
}

func (g *group) listIdle(s *flow, now instant) {
	if s.idleListed || s.queued > 0 || s.inflight > 0 {
		return
	}
	s.idleListed, s.idleSince = true, now
	s.idlePrev, s.idleNext = g.idleLast, nil
	if g.idleLast != nil {
		g.idleLast.idleNext = s
	} else {
		g.idle = s
	}
	g.idleLast = s
}

func (g *group) unlistIdle(s *flow) {
	if !s.idleListed {
		return
	}
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
	s.idlePrev, s.idleNext, s.idleListed = nil, nil, false
}
