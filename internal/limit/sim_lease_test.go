package limit

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// An engine is a stand-in for a shared store: it keeps the provider's bucket for
// all sidecars and leases parts of it, over a network that takes its time and can
// be down.
type engine struct {
	*world
	cfg      engineConfig
	capacity vector
	rate     vector
	level    vector
	leased   vector // in wallets, unspent
	at       llm.Instant
	members  []*wallet
	asked    int
}

type engineConfig struct {
	trip     time.Duration // to the engine and back
	interval time.Duration // between two asks of one wallet
	down     time.Duration // from minute 8 on
}

// A vector is requests and tokens.
type vector [2]float64

func of(v llm.Vector) vector { return vector{v[llm.Requests], v[llm.Tokens]} }

func (v *vector) add(o vector, by float64) {
	for i := range v {
		v[i] += by * o[i]
	}
}

func (v vector) covers(o vector) bool { return v[0] >= o[0] && v[1] >= o[1] }

func newEngine(w *world) *engine {
	e := &engine{world: w, cfg: *w.engine}
	e.capacity = vector{float64(w.account.RPM), float64(w.account.TPM)}
	for i, c := range e.capacity {
		e.rate[i] = c / 60
		e.level[i] = 0.1 * c
	}
	return e
}

func (e *engine) isDown(now llm.Instant) bool {
	return now >= simSleepAt && now < simSleepAt.Add(e.cfg.down)
}

// lease answers one ask: its debts first, then it fills the wallet up to a second
// of its share of the rate, or what the head of its queue needs; what it holds
// beyond that goes back, or one would hoard requests that others lack. Level and
// what is leased never exceed the capacity, less a guard for what overtakes.
func (e *engine) lease(m *wallet, now llm.Instant) (grant vector) {
	weights := 0.0
	for _, other := range e.members {
		weights += other.weight
	}
	dt := now.Sub(e.at).Seconds()
	e.at = now
	for i := range e.level {
		guard := 0.25 * e.rate[i]
		e.level[i] = min(e.level[i]+e.rate[i]*dt, e.capacity[i]-guard-e.leased[i])
	}
	e.level.add(m.debt, -1)
	m.debt = vector{}
	for i := range grant {
		share := e.rate[i] * m.weight / weights
		grant[i] = min(min(max(share, m.head[i]), m.queued[i])-m.unspent[i], max(0, e.level[i]))
	}
	e.level.add(grant, -1)
	e.leased.add(grant, 1)
	return grant
}

// A wallet is one sidecar's lease of one model's limits: a source that is not the
// clock. What it does without the engine, the clock that it embeds does.
type wallet struct {
	*lane.Clock
	e            *engine
	wake         func()
	unspent      vector
	debt         vector // spent while the engine was down: it does not know
	head, queued vector // of the requests that wait
	weight       float64
	asking       bool
	alone        bool                       // the engine did not answer
	borrowed     map[llm.Instant]llm.Vector // what was taken of the clock, by time
	closed       bool
}

var (
	_ lane.Source   = (*wallet)(nil)
	_ lane.Listener = (*wallet)(nil)
)

// wallet is Config.Source.
func (e *engine) wallet(_ llm.Model, wake func()) lane.Source {
	m := &wallet{Clock: lane.NewClock(), e: e, wake: wake, weight: 1, borrowed: map[llm.Instant]llm.Vector{}}
	e.members = append(e.members, m)
	return m
}

func (m *wallet) SetLimit(now llm.Instant, d llm.Dimension, l lane.Limit) {
	l.Amount *= 0.8 / float64(m.e.sidecars) // a cautious part, for when nobody can be asked
	m.Clock.SetLimit(now, d, l)
}

func (m *wallet) Ready(now llm.Instant, a lane.Ask) lane.Verdict {
	switch {
	case m.unspent.covers(of(a.Charge)):
		return lane.Verdict{At: now}
	case m.alone:
		return m.Clock.Ready(now, a)
	}
	return lane.Verdict{At: llm.Never, Limit: llm.Tokens}
}

func (m *wallet) Take(now llm.Instant, a lane.Ask) {
	charge := a.Charge
	if m.unspent.covers(of(charge)) {
		m.unspent.add(of(charge), -1)
		m.e.leased.add(of(charge), -1)
		return
	}
	m.Clock.Take(now, a)
	m.debt.add(of(charge), 1)
	m.borrowed[now] = charge
}

func (m *wallet) Return(now llm.Instant, client uint64, amount llm.Vector, taken llm.Instant) {
	if _, ok := m.borrowed[taken]; ok {
		m.Clock.Return(now, client, amount, taken)
		m.debt.add(of(amount), -1)
		return
	}
	m.e.level.add(of(amount), 1) // with the next ask, in truth
}

// What the provider says of levels is the engine's to hear.

func (m *wallet) Told(llm.Instant, llm.Dimension, lane.Sample)           {}
func (m *wallet) Lower(llm.Instant, llm.Dimension, float64, llm.Instant) {}
func (m *wallet) Refused(llm.Instant, llm.Dimension, lane.Refusal)       {}

func (m *wallet) Waiting(now llm.Instant, waiting []lane.Backlog) {
	m.head, m.queued, m.weight = vector{}, vector{}, 0
	for _, b := range waiting {
		m.queued.add(of(b.Sum), 1)
		m.weight += b.Weight
		for i, head := range of(b.Head) {
			m.head[i] = max(m.head[i], head)
		}
	}
	if m.asking || m.closed {
		return
	}
	m.asking = true
	m.e.schedule(now, m.ask)
}

// ask is one round trip to the engine.
func (m *wallet) ask(now llm.Instant) {
	m.e.asked++
	if m.e.isDown(now) {
		m.e.schedule(now.Add(500*time.Millisecond), func(now llm.Instant) {
			m.asking, m.alone = false, true
			m.wake()
		})
		return
	}
	m.e.schedule(now.Add(m.e.cfg.trip/2), func(now llm.Instant) {
		grant := m.e.lease(m, now)
		for i := range grant { // what goes back goes at once
			m.unspent[i] += min(0, grant[i])
			grant[i] = max(0, grant[i])
		}
		m.e.schedule(now.Add(m.e.cfg.trip/2), func(now llm.Instant) {
			m.alone = false
			m.unspent.add(grant, 1)
			m.e.schedule(now.Add(m.e.cfg.interval), func(llm.Instant) {
				m.asking = false
				m.wake() // whoever still waits says so again
			})
			m.wake()
		})
	})
}

func (m *wallet) Wait(_ llm.Instant, ahead llm.Vector, a lane.Ask) (time.Duration, llm.Dimension) {
	need := of(ahead)
	need.add(of(a.Charge), 1)
	need.add(m.unspent, -1)
	share := float64(len(m.e.members))
	return lane.Seconds(max(0, need[0]/m.e.rate[0], need[1]/m.e.rate[1]) * share), llm.Tokens
}

func (m *wallet) Meters(llm.Instant) []Meter {
	return []Meter{{Name: llm.Tokens.String(), Limit: int64(m.e.capacity[1]), Level: m.unspent[1]}}
}

func (m *wallet) Close() {
	m.closed = true
	m.e.level.add(m.unspent, 1)
	m.e.leased.add(m.unspent, -1)
	m.unspent = vector{}
}
