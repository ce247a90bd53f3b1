package ledger

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// memory is the ledger of a process that keeps nothing. It is bounded: the sessions used
// longest ago, the oldest records, the oldest hours are forgotten. An id
// is known as long as its record is, so a retry counts twice only when it comes more
// than maxRecords requests late.
type memory struct {
	maxSessions, maxRecords int

	mu      sync.RWMutex
	byKey   map[string]*list.Element // of *Session, in recent
	byID    map[string][]*list.Element
	recent  *list.List // the least recently used session at the front
	lastSeq int64
	records map[ID]Record
	arrived []ID // ring, once it is full
	next    int
	rollups map[rollupKey]Sums
	budgets map[budgetKey]budgetSums
	state   map[string][]byte
	pruned  ID // records before this id are gone
}

// maxRollups bounds the memory backend's rollup lines: a year of hours of ten models.
const maxRollups = 100_000

func newMemory(maxSessions, maxRecords int) *memory {
	return &memory{
		maxSessions: maxSessions, maxRecords: maxRecords,
		byKey: map[string]*list.Element{}, byID: map[string][]*list.Element{}, recent: list.New(),
		records: map[ID]Record{}, rollups: map[rollupKey]Sums{}, budgets: map[budgetKey]budgetSums{},
		state: map[string][]byte{},
	}
}

func (m *memory) apply(_ context.Context, b batch) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := tooOld(b.records, m.pruned); err != nil {
		return 0, err
	}
	fresh := make([]Record, 0, len(b.records))
	var replaced []Record
	for _, r := range b.records {
		switch have, known := m.records[r.ID]; {
		case known && (have.Outcome != Interrupted || r.Outcome == Interrupted):
			continue
		case known:
			m.records[r.ID] = r
			replaced = append(replaced, have)
		default:
			m.keepLocked(r)
		}
		fresh = append(fresh, r)
	}
	d := sum(fresh, replaced)
	for _, s := range d.sessions {
		m.addLocked(s)
	}
	for _, k := range d.rollups {
		line := m.rollups[k]
		line.Add(d.sums[k], 1)
		m.rollups[k] = line
	}
	shrink(m.rollups, func(a, b rollupKey) int { // hours before days
		return cmp.Or(cmp.Compare(a.grain, b.grain), cmp.Compare(a.start, b.start))
	})
	m.addBudgetsLocked(fresh, replaced)
	return len(fresh), nil
}

// keepLocked stores r in place of the oldest arrival once the ring is full.
func (m *memory) keepLocked(r Record) {
	m.records[r.ID] = r
	if len(m.arrived) < m.maxRecords {
		m.arrived = append(m.arrived, r.ID)
		return
	}
	delete(m.records, m.arrived[m.next])
	m.arrived[m.next] = r.ID
	m.next = (m.next + 1) % len(m.arrived)
}

func (m *memory) addLocked(d sessionDelta) {
	e := m.byKey[d.key()]
	if e == nil {
		if m.recent.Len() >= m.maxSessions {
			m.removeLocked(m.recent.Front())
		}
		m.lastSeq++
		e = m.recent.PushBack(&Session{Owner: d.owner, ID: d.id, seq: m.lastSeq, FirstAt: time.UnixMilli(d.firstMs).UTC()})
		m.byKey[d.key()] = e
		m.byID[d.id] = append(m.byID[d.id], e)
	}
	m.recent.MoveToBack(e)
	s := e.Value.(*Session)
	s.Add(d.sums, 1)
	if first := time.UnixMilli(d.firstMs).UTC(); first.Before(s.FirstAt) {
		s.FirstAt = first
	}
	if last := time.UnixMilli(d.lastMs).UTC(); last.After(s.LastAt) {
		s.LastAt = last
	}
}

// removeLocked forgets a session, and tells which.
func (m *memory) removeLocked(e *list.Element) sessionName {
	s := m.recent.Remove(e).(*Session)
	name := sessionName{s.Owner, s.ID}
	delete(m.byKey, name.key())
	rest := slices.DeleteFunc(m.byID[s.ID], func(o *list.Element) bool { return o == e })
	if m.byID[s.ID] = rest; len(rest) == 0 {
		delete(m.byID, s.ID)
	}
	return name
}

// shrink forgets the first tenth of the lines, in the order given, when there are too many.
func shrink[K comparable, V any](lines map[K]V, order func(a, b K) int) {
	if len(lines) <= maxRollups {
		return
	}
	keys := slices.SortedFunc(maps.Keys(lines), order)
	for _, k := range keys[:len(keys)/10] {
		delete(lines, k)
	}
}

func (m *memory) deleteSession(_ context.Context, key string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byKey[key]
	if e == nil {
		return false, fmt.Errorf("session: %w", ErrNotFound)
	}
	name := m.removeLocked(e)
	m.dropLocked(func(r Record) bool { return r.sessionName() == name })
	return false, nil
}

// dropLocked removes records and puts the ring in order again.
func (m *memory) dropLocked(gone func(Record) bool) {
	kept := make([]ID, 0, len(m.arrived))
	for i := range m.arrived {
		id := m.arrived[(m.next+i)%len(m.arrived)]
		if gone(m.records[id]) {
			delete(m.records, id)
		} else {
			kept = append(kept, id)
		}
	}
	m.arrived, m.next = kept, 0
}

func (m *memory) prune(_ context.Context, h horizon) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !h.records.IsZero() {
		m.pruned = idFloor(h.records)
		m.dropLocked(func(r Record) bool { return compareIDs(r.ID, m.pruned) < 0 })
	}
	if !h.hours.IsZero() {
		maps.DeleteFunc(m.rollups, func(k rollupKey, _ Sums) bool {
			return k.grain == hourly && k.start < h.hours.UnixMilli()
		})
	}
	return false, nil
}

func (m *memory) saveState(_ context.Context, name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state[name] = slices.Clone(data)
	return nil
}

func (m *memory) keepState(_ context.Context, name string, data []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state[name] == nil {
		m.state[name] = slices.Clone(data)
	}
	return slices.Clone(m.state[name]), nil
}

func (m *memory) loadState(_ context.Context, name string) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	data, ok := m.state[name]
	if !ok {
		return nil, fmt.Errorf("state %q: %w", name, ErrNotFound)
	}
	return slices.Clone(data), nil
}

func (m *memory) probe(context.Context) error { return nil }

func (m *memory) readable(context.Context) error { return nil }

func (m *memory) revive(context.Context) (string, error) { return "", nil }

func (m *memory) heartbeat(context.Context) (int, error) { return 0, nil }

func (m *memory) named(_ context.Context, w whose, id string) ([]Session, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.namedLocked(w, id), nil
}

// pick returns the limit first sessions of an order, of those that a test lets pass.
func (m *memory) pick(limit int, pass func(*Session) bool, order func(a, b Session) int) []Session {
	m.mu.RLock()
	all := make([]Session, 0, m.recent.Len())
	for e := m.recent.Front(); e != nil; e = e.Next() {
		if s := e.Value.(*Session); pass(s) {
			all = append(all, *s)
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(all, order)
	return slices.Clip(all[:min(limit, len(all))])
}

func (m *memory) sessions(_ context.Context, w whose, after *sessionCursor, limit int) ([]Session, error) {
	pass := func(s *Session) bool {
		last := s.LastAt.UnixMilli()
		return w.holds(s) && (after == nil || last < after.lastMs || last == after.lastMs && s.seq < after.seq)
	}
	return m.pick(limit, pass, newestFirst), nil
}

func (m *memory) totals(_ context.Context, w whose, after Session, limit int) ([]Session, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var ids []string
	for id := range m.byID {
		if id > after.ID && len(m.namedLocked(w, id)) > 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	var out []Session
	for _, id := range ids[:min(limit, len(ids))] {
		out = append(out, summed(m.namedLocked(w, id)))
	}
	return out, nil
}

func (m *memory) requests(_ context.Context, of Session, before *ID, limit int) ([]Record, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []Record
	for id, r := range m.records {
		if r.Session == of.ID && r.Owner == of.Owner && (before == nil || compareIDs(id, *before) < 0) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Record) int { return compareIDs(b.ID, a.ID) })
	return slices.Clip(out[:min(limit, len(out))]), nil
}

func compareIDs(a, b ID) int { return strings.Compare(string(a[:]), string(b[:])) }

func (m *memory) usage(_ context.Context, p usagePlan) (usageSum, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if p.sessions != nil {
		return m.sessionUsageLocked(p)
	}
	out := usageSum{}
	for k, c := range m.rollups {
		for _, s := range p.spans {
			if s.grain == k.grain && k.start >= s.from && k.start < s.to && (p.only == "" || p.only == k.client) {
				if err := out.add(p.key(s, k.start, k.model, k.client), c, p.maxRows); err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}

func (m *memory) recentUse(_ context.Context, since time.Time) ([]ModelUse, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	floor, first := idFloor(since), since.UnixMilli()
	var uses []ModelUse
	for id, r := range m.records {
		if compareIDs(id, floor) >= 0 && r.StartedAt.UnixMilli() >= first { // as in sqlBackend.recentUse
			uses = append(uses, used(&r))
		}
	}
	return gather(uses), nil
}

func (m *memory) close(context.Context) error { return nil }
