package queue

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	ghostLife = 10 * time.Second
	maxGhosts = 4096
)

// Ghosts are the turns of waiters whose callers hung up. SDKs hang up by their own
// timeout and try again: such a request gets its old turn back. The zero value is
// empty; it is bounded, and forgets the oldest.
type Ghosts struct {
	byKey map[uint64]ghost
	order []uint64 // of keys; the oldest is at next once it is full
	next  int
}

type ghost struct {
	session        string
	seq            uint64
	tag, clientTag float64
	until          llm.Instant
}

// Leave keeps the turn of w under key.
func (g *Ghosts) Leave(key uint64, w *Waiter, now llm.Instant) {
	if g.byKey == nil {
		g.byKey = map[uint64]ghost{}
	}
	if len(g.order) < maxGhosts {
		g.order = append(g.order, key)
	} else {
		delete(g.byKey, g.order[g.next])
		g.order[g.next] = key
		g.next = (g.next + 1) % maxGhosts
	}
	s := w.Session
	g.byKey[key] = ghost{session: s.Name, seq: w.Seq, tag: s.turn.tag, clientTag: s.Parent.turn.tag, until: now.Add(ghostLife)}
}

// Claim gives w, which is not queued yet, the turn that was left under key, and
// reports whether there was one.
func (g *Ghosts) Claim(key uint64, w *Waiter, now llm.Instant) bool {
	s := w.Session
	left, ok := g.byKey[key]
	if !ok || left.session != s.Name {
		return false
	}
	delete(g.byKey, key)
	if now > left.until {
		return false
	}
	w.Seq = left.seq
	if s.Waiting() == 0 {
		s.Parent.move(min(0, left.clientTag-s.Parent.turn.tag))
		s.move(min(0, left.tag-s.turn.tag))
	}
	return true
}
