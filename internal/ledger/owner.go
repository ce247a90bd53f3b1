package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// A sessionName tells a session from all others: its id, and the client whose it is, "" for nobody. Callers
// without a key are nobody, and so was everybody before sessions had owners.
type sessionName struct{ owner, id string }

func (r *Record) sessionName() sessionName { return sessionName{r.Owner, r.Session} }

// key is what stores know the session by; no two sessions have one key. That of nobody's is the id, which is all that
// earlier releases know and write; of others it reads "client/id", or ends in a digest where that is too long.
func (n sessionName) key() string {
	whole := n.owner + "/" + n.id
	switch {
	case n.id == "":
		return ""
	case strings.Contains(n.id, "/"): // sessions of the API have none
	case n.owner == "":
		return n.id
	case len(whole) <= maxKeyBytes:
		return whole
	}
	digest := sha256.Sum256([]byte(n.owner + "\x00" + n.id))
	mark := "/#" + hex.EncodeToString(digest[:16])
	return strings.ToValidUTF8(whole[:min(len(whole), maxKeyBytes-len(mark))], "") + mark
}

// text is both in one, for notes: what earlier releases make of a note's text is the same session's key.
func (n sessionName) text() string {
	if n.owner == "" || n.id == "" {
		return n.id
	}
	return n.owner + "/" + n.id
}

// sessionNameOf is the inverse of text.
func sessionNameOf(text string) sessionName {
	at := strings.LastIndexByte(text, '/')
	if at < 0 {
		return sessionName{id: text}
	}
	return sessionName{text[:at], text[at+1:]}
}

// whose is the part of the sessions that a question is about: all, or those of one owner.
type whose struct {
	owner string
	one   bool
}

func (w whose) holds(s *Session) bool { return !w.one || s.Owner == w.owner }

// summed is one session that stands for several of an id.
func summed(parts []Session) Session {
	sum := Session{ID: parts[0].ID, FirstAt: parts[0].FirstAt, LastAt: parts[0].LastAt}
	if len(parts) == 1 {
		return parts[0]
	}
	for i := range parts {
		p := &parts[i]
		sum.Add(p.Sums, 1)
		if p.FirstAt.Before(sum.FirstAt) {
			sum.FirstAt = p.FirstAt
		}
		if p.LastAt.After(sum.LastAt) {
			sum.LastAt = p.LastAt
		}
	}
	return sum
}

// The memory ledger's part.

// named returns the sessions of an id, in the order of their creation.
func (m *memory) namedLocked(w whose, id string) (found []Session) {
	if w.one {
		if e := m.byKey[sessionName{w.owner, id}.key()]; e != nil {
			found = append(found, *e.Value.(*Session))
		}
		return found
	}
	for _, e := range m.byID[id] {
		found = append(found, *e.Value.(*Session))
	}
	return found
}

// newestFirst is the order of pages.
func newestFirst(a, b Session) int {
	return cmp.Or(b.LastAt.Compare(a.LastAt), cmp.Compare(b.seq, a.seq))
}
