package limit

import (
	"math"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
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
	calls map[*Lease]*simCall
	life  int
	rows  []simRow // what the ledger holds of the last minute
}

type simRow struct {
	at            llm.Instant
	input, output int64
}

func newLimiterPolicy(w *world) policy {
	p := &limiterPolicy{world: w}
	p.start(0)
	return p
}

func (p *limiterPolicy) start(now llm.Instant) {
	cfg := p.cfg
	switch {
	case p.leasing != nil:
		cfg.Source = p.leasing.wallet
	case p.broken.guard:
		cfg.Source = func(llm.Model, func()) lane.Source { return reckless{lane.NewClock()} }
	}
	p.core = newCore(cfg.withDefaults(), p.local(now))
	p.core.wake = func() { p.schedule(p.now, p.pump) }
	p.core.dice = p.seed*7 + uint64(len(p.policies)) + uint64(p.life)
	p.calls = map[*Lease]*simCall{}
}

// crash loses the queue, and what was learned; the ledger's rows remain.
func (p *limiterPolicy) crash(now llm.Instant) {
	p.life++
	p.start(now)
	recent := Recent{Model: "m"}
	for _, r := range p.rows {
		if now.Sub(r.at) <= time.Minute {
			recent.Requests++
			recent.Input += r.input
			recent.Output += r.output
		}
	}
	p.core.prime(recent, p.local(now))
}

func (p *limiterPolicy) offer(k *simCall, now llm.Instant) {
	at := p.local(now)
	k.lease, k.life = &Lease{maxWait: p.patience}, p.life
	r := Request{Model: "m", Client: k.client, Session: k.session, Demand: k.demand}
	p.calls[k.lease] = k
	if p.core.enter(k.lease, &r, at) != nil {
		delete(p.calls, k.lease)
	}
	p.pump(now)
}

func (p *limiterPolicy) dispatch(k *simCall, now llm.Instant) {
	at := p.local(now)
	p.core.sent(k.lease, at)
	p.send(k, now)
}

func (p *limiterPolicy) pump(now llm.Instant) {
	at := p.local(now)
	for p.core.pump(at, pumpBatch) {
	}
	done := slices.Clone(p.core.done)
	p.core.done = p.core.done[:0]
	for _, le := range done {
		k := p.calls[le]
		delete(p.calls, le)
		if le.state != granted || k == nil {
			continue
		}
		if wait := at.Sub(le.queued.QueuedAt).Seconds(); wait > 1 && k.attempts == 0 && now > p.warm {
			p.res.errors = append(p.res.errors, math.Abs(wait-le.fluid*le.bias)/wait)
		}
		p.dispatch(k, now)
	}
}

func (p *limiterPolicy) leave(k *simCall, now llm.Instant) {
	if k.life == p.life && p.calls[k.lease] == k && p.core.cancel(k.lease, p.local(now)) {
		delete(p.calls, k.lease)
		p.pump(now)
	}
}

func (p *limiterPolicy) headers(k *simCall, s *llm.Signal, now llm.Instant) {
	if k.life == p.life {
		p.core.observe(k.lease, s, p.local(now))
		p.core.started(k.lease, p.local(now))
		p.pump(now)
	}
}

func (p *limiterPolicy) throttled(k *simCall, s *llm.Signal, now llm.Instant) {
	if k.life != p.life {
		return
	}
	at := p.local(now)
	again := at
	if p.broken.keep {
		p.core.takeBack(k.lease, at)
		again = at.Add(s.RetryAfter)
	} else {
		p.core.throttled(k.lease, s, at)
	}

	if p.core.requeue(k.lease, k.deadline.Sub(now), again, at) == nil {
		p.calls[k.lease] = k
	}
	p.pump(now)
}

func (p *limiterPolicy) done(k *simCall, now llm.Instant) {
	p.rows = append(p.rows, simRow{now, k.used.Input, k.used.Output})
	switch {
	case k.life != p.life:
	case p.broken.settle:
		p.core.release(k.lease, p.local(now))
	default:
		p.core.settle(k.lease, llm.Usage{Input: k.used.Input, Output: k.used.Output}, p.local(now))
	}
	p.pump(now)
}

func (p *limiterPolicy) next() llm.Instant {
	if p.core.waiting == 0 {
		return llm.Never
	}
	return p.core.next()
}

func (p *limiterPolicy) wake(now llm.Instant) { p.pump(now) }

// reckless is a clock that keeps no guard band and learns no caution from a 429.
type reckless struct{ *lane.Clock }

func (r reckless) Refused(llm.Instant, llm.Dimension, lane.Refusal) {}

func (r reckless) Ready(now llm.Instant, a lane.Ask) lane.Verdict {
	a.Small = true // the reserve would stand in for the guard
	v := r.Clock.Ready(now, a)
	for _, m := range r.Clock.Meters(now) {
		if d := dimensionNamed(m.Name); d == v.Limit && m.Rate > 0 {
			v.At = max(now, v.At.Add(-lane.Seconds(m.Guard/m.Rate)))
		}
	}
	return v
}

func dimensionNamed(name string) llm.Dimension {
	for d := range llm.NumDimensions {
		if d.String() == name {
			return d
		}
	}
	return llm.None
}

// fifoPolicy is what a proxy without a scheduler does: one x/time/rate limiter
// for requests and one for tokens, each with a minute's burst, in the order of
// arrival. It knows the limits and the provider's way of charging.
type fifoPolicy struct {
	*world
	reqs, toks *rate.Limiter
	lane       *lane.Lane
}

func newFIFOPolicy(w *world) policy {
	profile := map[provider.Variant]string{
		provider.Continuous: "openai", provider.Window: "azure", provider.Reserve: "anthropic", provider.PostPaid: "postpaid",
	}[w.account.Variant]
	p := &fifoPolicy{world: w, lane: lane.New("m", lane.Config{Profile: profile, Share: 1}, lane.NewClock(), 0)}
	p.reqs = rate.NewLimiter(rate.Limit(w.account.RPM)/60, int(w.account.RPM))
	p.toks = rate.NewLimiter(rate.Limit(w.account.TPM)/60, int(w.account.TPM))
	return p
}

func (p *fifoPolicy) offer(k *simCall, now llm.Instant) {
	t := p.wall(now)
	one, all := p.reqs.ReserveN(t, 1), p.toks.ReserveN(t, int(p.lane.Charge(k.demand.Load())[llm.Tokens]))
	delay := max(one.DelayFrom(t), all.DelayFrom(t))
	k.cancel = func(t time.Time) {
		one.CancelAt(t)
		all.CancelAt(t)
	}
	at := now.Add(delay)
	if at > k.deadline {
		k.cancel(t)
		return
	}
	k.waiting = true
	p.schedule(at, func(now llm.Instant) {
		if k.waiting {
			k.waiting = false
			p.send(k, now)
		}
	})
}

func (p *fifoPolicy) leave(k *simCall, now llm.Instant) {
	if k.waiting {
		k.waiting = false
		k.cancel(p.wall(now))
	}
}

func (p *fifoPolicy) throttled(k *simCall, s *llm.Signal, now llm.Instant) {
	p.schedule(now.Add(s.RetryAfter), func(now llm.Instant) { p.offer(k, now) })
}

func (p *fifoPolicy) headers(*simCall, *llm.Signal, llm.Instant) {}
func (p *fifoPolicy) done(*simCall, llm.Instant)                 {}
func (p *fifoPolicy) crash(llm.Instant)                          {}
func (p *fifoPolicy) next() llm.Instant                          { return llm.Never }
func (p *fifoPolicy) wake(llm.Instant)                           {}

// backoffPolicy is no proxy at all: clients try at once and back off after a
// 429, as the SDKs do, until their patience ends.
type backoffPolicy struct{ fifoPolicy }

func newBackoffPolicy(w *world) policy { return &backoffPolicy{fifoPolicy{world: w}} }

func (p *backoffPolicy) offer(k *simCall, now llm.Instant) { p.send(k, now) }
func (p *backoffPolicy) leave(*simCall, llm.Instant)       {}

func (p *backoffPolicy) throttled(k *simCall, s *llm.Signal, now llm.Instant) {
	backoff := min(0.5*math.Pow(2, float64(k.attempts-1)), 8) * (1 - 0.25*p.rng.Float64())
	at := now.Add(max(s.RetryAfter, lane.Seconds(backoff)))
	if at < k.deadline {
		p.schedule(at, func(now llm.Instant) { p.send(k, now) })
	}
}
