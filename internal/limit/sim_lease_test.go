package limit

import "time"

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
	at       instant
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

func of(c Cost) vector { return vector{float64(c.Requests), float64(c.Tokens)} }

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
		e.level[i] = coldShare * c
	}
	return e
}

func (e *engine) isDown(now instant) bool {
	return now >= simSleepAt && now < simSleepAt.add(e.cfg.down)
}

// lease answers one ask: its debts first, then it fills the wallet up to a second
// of its share of the rate, or what the head of its queue needs; what it holds
// beyond that goes back, or one would hoard requests that others lack. Level and
// what is leased never exceed the capacity, less a guard for what overtakes.
func (e *engine) lease(m *wallet, want Want, now instant) (grant vector) {
	weights := 0.0
	for _, other := range e.members {
		weights += other.weight
	}
	dt := now.sub(e.at).Seconds()
	e.at = now
	for i := range e.level {
		guard := 0.25 * e.rate[i]
		e.level[i] = min(e.level[i]+e.rate[i]*dt, e.capacity[i]-guard-e.leased[i])
	}
	e.level.add(m.debt, -1)
	m.debt = vector{}
	head, queued := of(want.Head), of(want.Queued)
	for i := range grant {
		share := e.rate[i] * m.weight / weights
		grant[i] = min(min(max(share, head[i]), queued[i])-m.unspent[i], max(0, e.level[i]))
	}
	e.level.add(grant, -1)
	e.leased.add(grant, 1)
	return grant
}

// A wallet is one sidecar's lease of one model's limits: the second Budget.
type wallet struct {
	e        *engine
	wake     func()
	unspent  vector
	debt     vector // spent while the engine was down: it does not know
	want     Want
	weight   float64
	asking   bool
	alone    bool // the engine did not answer
	fallback Budget
	borrowed map[time.Duration]Cost // what was taken of the fallback, by time
	closed   bool
}

var _ Budget = (*wallet)(nil)

// wallet is Config.Shared.
func (e *engine) wallet(_ string, l Limits, wake func()) Budget {
	m := &wallet{e: e, wake: wake, weight: 1, borrowed: map[time.Duration]Cost{}}
	n := int64(e.sidecars)
	m.fallback = NewBudget(Limits{RequestsPerMinute: l.RequestsPerMinute * 8 / 10 / n, TokensPerMinute: l.TokensPerMinute * 8 / 10 / n}, "anthropic")
	e.members = append(e.members, m)
	return m
}

func (m *wallet) Ready(now time.Duration, c Cost) (time.Duration, string) {
	switch {
	case m.unspent.covers(of(c)):
		return now, ""
	case m.alone:
		return m.fallback.Ready(now, c)
	}
	return Never, "tokens_per_minute"
}

func (m *wallet) Take(now time.Duration, c Cost) {
	if m.unspent.covers(of(c)) {
		m.unspent.add(of(c), -1)
		m.e.leased.add(of(c), -1)
		return
	}
	m.fallback.Take(now, c)
	m.debt.add(of(c), 1)
	m.borrowed[now] = c
}

func (m *wallet) Return(now time.Duration, c Cost, taken time.Duration) {
	if _, ok := m.borrowed[taken]; ok {
		m.fallback.Return(now, c, taken)
		m.debt.add(of(c), -1)
		return
	}
	m.e.level.add(of(c), 1) // with the next ask, in truth
}

func (m *wallet) Want(now time.Duration, w Want) {
	m.want = w
	m.weight = max(1, w.Weights[0]+w.Weights[1]+w.Weights[2])
	if m.asking || m.closed {
		return
	}
	m.asking = true
	m.e.schedule(instant(now), m.ask)
}

// ask is one round trip to the engine.
func (m *wallet) ask(now instant) {
	m.e.asked++
	if m.e.isDown(now) {
		m.e.schedule(now.add(500*time.Millisecond), func(now instant) {
			m.asking, m.alone = false, true
			m.wake()
		})
		return
	}
	m.e.schedule(now.add(m.e.cfg.trip/2), func(now instant) {
		grant := m.e.lease(m, m.want, now)
		for i := range grant { // what goes back goes at once
			m.unspent[i] += min(0, grant[i])
			grant[i] = max(0, grant[i])
		}
		m.e.schedule(now.add(m.e.cfg.trip/2), func(now instant) {
			m.alone = false
			m.unspent.add(grant, 1)
			m.e.schedule(now.add(m.e.cfg.interval), func(instant) {
				m.asking = false
				m.wake() // whoever still waits says so again
			})
			m.wake()
		})
	})
}

func (m *wallet) Wait(_ time.Duration, ahead, c Cost) (time.Duration, string) {
	need := of(ahead)
	need.add(of(c), 1)
	need.add(m.unspent, -1)
	share := float64(len(m.e.members))
	return max(0, seconds(max(need[0]/m.e.rate[0], need[1]/m.e.rate[1])*share)), "tokens_per_minute"
}

func (m *wallet) Share(c Cost) float64 {
	v := of(c)
	return max(v[0]/m.e.rate[0], v[1]/m.e.rate[1])
}

func (m *wallet) Observe(time.Duration, Answer) {}

func (m *wallet) Meters(time.Duration) []Meter {
	return []Meter{{Name: "tokens_per_minute", Limit: int64(m.e.capacity[1]), Level: m.unspent[1]}}
}

func (m *wallet) Close() {
	m.closed = true
	m.e.level.add(m.unspent, 1)
	m.e.leased.add(m.unspent, -1)
	m.unspent = vector{}
}
