package budget

import (
	"container/list"
	"slices"
	"sync"
)

// A Lineage remembers which session named which as its parent, so that what a grandchild uses
// counts against the grandparent too. It forgets the sessions seen longest ago. It is safe for concurrent use;
// its zero value is not ready, see NewLineage.
type Lineage struct {
	most int

	mu      sync.Mutex
	parents map[member]*list.Element // of link, in recent
	recent  *list.List               // the one seen longest ago at the front
}

// A member is a session of a client: one client's word says nothing about another's sessions.
type member struct{ client, session string }

type link struct {
	child  member
	parent string
}

// maxGenerations bounds how far up a budget is looked for, the session itself included.
const maxGenerations = 8

// NewLineage returns a Lineage of up to n sessions.
func NewLineage(n int) *Lineage {
	return &Lineage{most: n, parents: map[member]*list.Element{}, recent: list.New()}
}

// Of returns a session and its ancestors, nearest first, each once: a circle ends where it closes. parent is
// what the request named, "" for nothing: then the parent named before counts. The
// session of no name is nobody's child.
func (l *Lineage) Of(client, session, parent string) []string {
	line := []string{session}
	if session == "" {
		if parent != "" {
			line = append(line, parent) // this request only: unnamed sessions are not one
		}
		return l.climb(client, line)
	}
	if parent != "" && parent != session {
		l.remember(member{client, session}, parent)
	}
	return l.climb(client, line)
}

func (l *Lineage) remember(child member, parent string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.parents[child]; e != nil {
		e.Value = link{child, parent}
		l.recent.MoveToBack(e)
		return
	}
	if l.recent.Len() >= l.most {
		oldest := l.recent.Remove(l.recent.Front()).(link)
		delete(l.parents, oldest.child)
	}
	l.parents[child] = l.recent.PushBack(link{child, parent})
}

// climb appends the ancestors of the last of line.
func (l *Lineage) climb(client string, line []string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(line) < maxGenerations {
		e := l.parents[member{client, line[len(line)-1]}]
		if e == nil {
			break
		}
		parent := e.Value.(link).parent
		if slices.Contains(line, parent) {
			return line
		}
		l.recent.MoveToBack(e)
		line = append(line, parent)
	}
	return line
}
