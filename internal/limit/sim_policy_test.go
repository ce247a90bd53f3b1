package limit

import (
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// broken names what is taken out of the limiter, to show that it is needed.
type broken struct {
	guard  bool // no guard band, and no caution after a 429
	settle bool // charges are never settled
	keep   bool // a 429 gives its charge back, and nothing is learned from it
}

// limiterPolicy is the core, as the shell drives it.
type limiterPolicy struct {
	*world
	core  *core
	calls map[*waiter]*simCall
	life  int
	rows  []simRow // what the ledger holds of the last minute
}

type simRow struct {
	at            instant
	input, output int64
}

func newLimiterPolicy(w *world) policy {
	p := &limiterPolicy{world: w}
	p.start(0)
	return p
}

func (p *limiterPolicy) start(now instant) {
	cfg := p.cfg
	if p.leasing != nil {
		cfg.Shared = p.leasing.wallet
	}
	p.core = newCore(cfg.withDefaults(), p.local(now))
	p.core.wake = func() { p.schedule(p.now, p.pump) }
	p.core.dice = p.seed*7 + uint64(len(p.policies)) + uint64(p.life)
	p.calls = map[*waiter]*simCall{}
}

// crash loses the queue, and what was learned; the ledger's rows remain.
func (p *limiterPolicy) crash(now instant) {
	p.life++
	p.start(now)
	recent := Recent{Model: "m"}
	for _, r := range p.rows {
		if now.sub(r.at) <= time.Minute {
			recent.Requests++
			recent.Input += r.input
			recent.Output += r.output
		}
	}
	p.core.prime(recent, p.local(now))
}

func (p *limiterPolicy) offer(k *simCall, now instant) {
	at := p.local(now)
	p.tamper()
	k.waiter, k.life = new(waiter), p.life
	r := Request{Model: "m", Client: k.client, Session: k.session, Demand: k.demand}
	if p.core.arrive(k.waiter, &r, p.patience, at) != nil {
		return
	}
	if k.waiter.state.admitted() {
		p.dispatch(k, now)
	} else {
		p.calls[k.waiter] = k
	}
	p.pump(now)
}

func (p *limiterPolicy) dispatch(k *simCall, now instant) {
	at := p.local(now)
	k.waiter.open(&k.grant, k.demand, at)
	p.core.sent(&k.grant, at)
	p.send(k, now)
}

func (p *limiterPolicy) pump(now instant) {
	at := p.local(now)
	p.tamper()
	for p.core.pump(at, pumpBatch) {
	}
	for _, w := range p.core.done {
		k := p.calls[w]
		delete(p.calls, w)
		if !w.state.admitted() {
			continue
		}
		if wait := at.sub(w.queuedAt).Seconds(); wait > 1 && k.attempts == 0 && now > p.warm {
			p.res.errors = append(p.res.errors, math.Abs(wait-w.forecast())/wait)
		}
		p.dispatch(k, now)
	}
	p.core.done = p.core.done[:0]
}

func (p *limiterPolicy) leave(k *simCall, now instant) {
	if k.life == p.life && p.calls[k.waiter] == k && p.core.cancel(k.waiter, 0, p.local(now)) {
		delete(p.calls, k.waiter)
		p.pump(now)
	}
}

func (p *limiterPolicy) headers(k *simCall, s *Signal, now instant) {
	if k.life == p.life {
		p.core.observe(&k.grant, s, p.local(now))
		p.core.started(&k.grant, p.local(now))
		p.pump(now)
	}
}

func (p *limiterPolicy) throttled(k *simCall, s *Signal, now instant) {
	if k.life != p.life {
		return
	}
	at := p.local(now)
	again := at
	if p.broken.keep {
		p.core.takeBack(&k.grant, at)
		again = at.add(s.RetryAfter)
	} else {
		p.core.throttled(&k.grant, s, at)
	}

	w := new(waiter)
	if p.core.requeue(&k.grant, w, k.deadline.sub(now), 0, again, at) == nil {
		k.waiter = w
		p.calls[w] = k
	}
	p.pump(now)
}

func (p *limiterPolicy) done(k *simCall, now instant) {
	p.rows = append(p.rows, simRow{now, k.used.Input, k.used.Output})
	switch {
	case k.life != p.life:
	case p.broken.settle:
		p.core.release(&k.grant, p.local(now))
	default:
		p.core.settle(&k.grant, Usage{Input: k.used.Input, Output: k.used.Output}, p.local(now))
	}
	p.pump(now)
}

func (p *limiterPolicy) next() instant {
	if p.core.waiting == 0 {
		return never
	}
	return p.core.next()
}

func (p *limiterPolicy) wake(now instant) { p.pump(now) }

func (p *limiterPolicy) tamper() {
	if !p.broken.guard {
		return
	}
	for _, g := range p.core.groups {
		for d := range g.meters {
			b := &g.meters[d]
			b.guard, b.spill, b.factor = 0, 0, 1
		}
	}
}

// fifoPolicy is what a proxy without a scheduler does: one x/time/rate limiter
// for requests and one for tokens, each with a minute's burst, in the order of
// arrival. It knows the limits and the provider's way of charging.
type fifoPolicy struct {
	*world
	reqs, toks *rate.Limiter
	profile    profile
}

func newFIFOPolicy(w *world) policy {
	p := &fifoPolicy{world: w, profile: postpaid}
	switch w.account.Variant {
	case provider.Continuous:
		p.profile = openai
	case provider.Window:
		p.profile = azure
	case provider.Reserve:
		p.profile = reserve
	}
	p.reqs = rate.NewLimiter(rate.Limit(w.account.RPM)/60, int(w.account.RPM))
	p.toks = rate.NewLimiter(rate.Limit(w.account.TPM)/60, int(w.account.TPM))
	return p
}

func (p *fifoPolicy) offer(k *simCall, now instant) {
	t := p.wall(now)
	one, all := p.reqs.ReserveN(t, 1), p.toks.ReserveN(t, int(p.profile.admit(k.demand).tokens))
	delay := max(one.DelayFrom(t), all.DelayFrom(t))
	k.cancel = func(t time.Time) {
		one.CancelAt(t)
		all.CancelAt(t)
	}
	at := now.add(delay)
	if at > k.deadline {
		k.cancel(t)
		return
	}
	k.waiting = true
	p.schedule(at, func(now instant) {
		if k.waiting {
			k.waiting = false
			p.send(k, now)
		}
	})
}

func (p *fifoPolicy) leave(k *simCall, now instant) {
	if k.waiting {
		k.waiting = false
		k.cancel(p.wall(now))
	}
}

func (p *fifoPolicy) throttled(k *simCall, s *Signal, now instant) {
	p.schedule(now.add(s.RetryAfter), func(now instant) { p.offer(k, now) })
}

func (p *fifoPolicy) headers(*simCall, *Signal, instant) {}
func (p *fifoPolicy) done(*simCall, instant)             {}
func (p *fifoPolicy) crash(instant)                      {}
func (p *fifoPolicy) next() instant                      { return never }
func (p *fifoPolicy) wake(instant)                       {}

// backoffPolicy is no proxy at all: clients try at once and back off after a
// 429, as the SDKs do, until their patience ends.
type backoffPolicy struct{ fifoPolicy }

func newBackoffPolicy(w *world) policy { return &backoffPolicy{fifoPolicy{world: w}} }

func (p *backoffPolicy) offer(k *simCall, now instant) { p.send(k, now) }
func (p *backoffPolicy) leave(*simCall, instant)       {}

func (p *backoffPolicy) throttled(k *simCall, s *Signal, now instant) {
	backoff := min(0.5*math.Pow(2, float64(k.attempts-1)), 8) * (1 - 0.25*p.rng.Float64())
	at := now.add(max(s.RetryAfter, seconds(backoff)))
	if at < k.deadline {
		p.schedule(at, func(now instant) { p.send(k, now) })
	}
}
