package limit

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// A simulation drives the core in virtual time against a provider that does
// not share a line of code with it.
type simulation struct {
	cfg      Config
	provider simProvider
	minutes  float64
	load     float64 // of the request limit
	cancels  float64 // of the requests leave the queue after 20 s
	silent   bool    // the provider sends no headers
	bare     bool    // its 429s carry no numbers
	sidecars int
	seed     uint64
}

type simProvider struct {
	rpm, tpm  float64
	charge    func(d Demand) float64          // at admission
	settle    func(d Demand, u Usage) float64 // refund at the end
	window    bool                            // tokens per fixed minute
	sliceRPM  float64                         // seconds by which requests are judged; 0 = continuous
	foreign   float64                         // part of the limit used by others
	foreignAt float64                         // from this second on
	reqs      simBucket
	toks      simBucket
	slice     int64
	inSlice   float64
}

type simBucket struct{ level, limit, at float64 }

func (b *simBucket) advance(t float64) {
	b.level = min(b.limit, b.level+(t-b.at)*b.limit/60)
	b.at = t
}

type simResult struct {
	attempts, refused, completed int
	util                         float64 // of the limit that binds, after a minute of warm-up
	forecastError                float64
}

func (r simResult) share() float64 { return float64(r.refused) / float64(max(1, r.attempts)) }

func (r simResult) String() string {
	return fmt.Sprintf("attempts %d, 429s %d (%.3f %%), completed %d, utilisation %.1f %%, forecast off by %.0f %%",
		r.attempts, r.refused, 100*r.share(), r.completed, 100*r.util, 100*r.forecastError)
}

type simEvent struct {
	at  instant
	n   int
	run func(now instant)
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].n < q[j].n
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

func (s simulation) run(t testing.TB) simResult {
	t.Helper()
	rng := rand.New(rand.NewPCG(s.seed, 99))
	n := max(1, s.sidecars)
	cores := make([]*core, n)
	for i := range cores {
		cores[i] = newCore(s.cfg.withDefaults(), 0)
		cores[i].dice = s.seed*7 + uint64(i)
	}
	p := s.provider
	offset := rng.Float64() * 60 // the provider's minutes are not ours
	p.reqs = simBucket{p.rpm, p.rpm, 0}
	p.toks = simBucket{p.tpm, p.tpm, 0}
	var res simResult
	var queue simQueue
	events := 0
	schedule := func(at instant, run func(instant)) {
		events++
		heap.Push(&queue, simEvent{at, events, run})
	}
	jitter := func() time.Duration { return 20*time.Millisecond + time.Duration(rng.Float64()*30e6) }
	window, end := int64(-1), instant(s.minutes*60e9)
	warm := 60.0
	usedReqs, usedToks := 0.0, 0.0

	// decide is the provider's verdict on one request, ours or another's.
	decide := func(sec, tokens float64, mine bool) (ok bool, why string) {
		p.reqs.advance(sec)
		if p.window {
			if w := int64((sec + offset) / 60); w != window {
				window, p.toks.level = w, p.tpm
			}
		} else {
			p.toks.advance(sec)
		}
		if p.sliceRPM > 0 {
			if k := int64((sec + offset) / p.sliceRPM); k != p.slice {
				p.slice, p.inSlice = k, 0
			}
			if p.inSlice >= p.rpm/60*p.sliceRPM {
				return false, "requests"
			}
		} else if p.reqs.level < 1 {
			return false, "requests"
		}
		if p.tpm > 0 && p.toks.level < tokens {
			return false, "tokens"
		}
		p.inSlice++
		p.reqs.level--
		p.toks.level -= tokens
		if sec > warm && mine {
			usedReqs++
			usedToks += tokens
		}
		return true, ""
	}

	demand := func() (Demand, Usage) {
		in := math.Exp(math.Log(250) + 0.8*rng.NormFloat64())
		out := math.Exp(math.Log(150) + 0.7*rng.NormFloat64())
		in, out = min(in, 8000), min(out, 4000)
		d := Demand{Input: int64(in * math.Exp(0.06*rng.NormFloat64())), Output: 190, Chars: int64(in * 4), MaxOutput: 1024}
		return d, Usage{Input: int64(in), Output: int64(min(out, 1024))}
	}

	var settleDone func(c *core, now instant)
	type call struct {
		gr       grant
		w        *waiter
		usage    Usage
		d        Demand
		deadline instant
		attempts int
	}
	calls := map[*waiter]*call{}
	var send func(c *core, k *call, now instant)
	settleDone = func(c *core, now instant) {
		for c.pump(now, pumpBatch) {
		}
		for _, w := range c.done {
			k := calls[w]
			delete(calls, w)
			if w.state == granted {
				send(c, k, now)
			}
		}
		c.done = c.done[:0]
	}
	send = func(c *core, k *call, now instant) {
		k.w.open(&k.gr, k.d, now)
		k.attempts++
		c.sent(&k.gr, now)
		schedule(now.add(jitter()), func(now instant) {
			sec := now.sub(0).Seconds()
			tokens := p.charge(k.d)
			ok, why := decide(sec, tokens, true)
			if sec > warm {
				res.attempts++
				if !ok {
					res.refused++
				}
			}
			sig := Signal{}
			if !s.silent {
				sig.Requests = Level{Limit: int64(p.rpm), Remaining: int64(max(0, p.reqs.level)), HasLimit: true, HasRemaining: true}
				if p.tpm > 0 {
					sig.Tokens = Level{Limit: int64(p.tpm), Remaining: int64(max(0, p.toks.level)), HasLimit: true, HasRemaining: true}
				}
			}
			if !ok {
				sig.Dimension = why
				limit, level, asked := p.rpm, p.reqs.level, 1.0
				if why == "tokens" {
					limit, level, asked = p.tpm, p.toks.level, tokens
				}
				if !s.bare {
					sig.Limit, sig.Used, sig.Requested = int64(limit), int64(limit-level), int64(asked)
				}
				sig.HasRetryAfter, sig.RetryAfter = true, max(time.Second, seconds((asked-level)*60/limit))
				schedule(now.add(jitter()), func(now instant) {
					c.throttled(&k.gr, &sig, now)
					w := new(waiter)
					if c.requeue(&k.gr, w, k.deadline.sub(now), 0, now, now) == nil {
						k.w = w
						calls[w] = k
					}
					settleDone(c, now)
				})
				return
			}
			schedule(now.add(300*time.Millisecond+jitter()), func(now instant) {
				c.observe(&k.gr, &sig, now)
				c.started(&k.gr, now)
				settleDone(c, now)
			})
			schedule(now.add(time.Second+time.Duration(rng.Float64()*9e9)), func(now instant) {
				if p.settle != nil {
					back := p.settle(k.d, k.usage)
					p.toks.level += back
					if now.sub(0).Seconds() > warm {
						usedToks -= back
					}
				}
				schedule(now.add(jitter()), func(now instant) {
					c.settle(&k.gr, k.usage, now)
					res.completed++
					settleDone(c, now)
				})
			})
		})
	}

	var arrive func(now instant)
	sessions := 0
	arrive = func(now instant) {
		if now >= end {
			return
		}
		schedule(now.add(time.Duration(rng.ExpFloat64()*60e9/(s.load*p.rpm))), arrive)
		c := cores[rng.IntN(n)]
		d, u := demand()
		sessions++
		k := &call{w: new(waiter), usage: u, d: d, deadline: now.add(90 * time.Second)}
		r := Request{Model: "m", Client: fmt.Sprint(sessions % 5), Session: fmt.Sprint(sessions % 40), Demand: d}
		if c.arrive(k.w, &r, 90*time.Second, now) != nil {
			return
		}
		if k.w.state == granted {
			send(c, k, now)
			return
		}
		calls[k.w] = k
		if rng.Float64() < s.cancels {
			w := k.w
			schedule(now.add(20*time.Second), func(now instant) {
				if calls[w] == k && c.cancel(w, 0, now) {
					delete(calls, w)
				}
				settleDone(c, now)
			})
		}
		settleDone(c, now)
	}
	schedule(0, arrive)
	if p.foreign > 0 {
		var other func(now instant)
		other = func(now instant) {
			if now >= end {
				return
			}
			schedule(now.add(time.Duration(rng.ExpFloat64()*60e9/(p.foreign*p.rpm))), other)
			tokens := 0.0
			if p.tpm > 0 {
				tokens = p.tpm / p.rpm
			}
			decide(now.sub(0).Seconds(), tokens, false)
		}
		schedule(instant(p.foreignAt*1e9), other)
	}
	now := instant(0)
	for len(queue) > 0 && now < end {
		at, which := queue[0].at, (*core)(nil)
		for _, c := range cores {
			if t := c.next(); c.waiting > 0 && t < at {
				at, which = t, c
			}
		}
		now = max(now, at)
		if which != nil {
			settleDone(which, now)
			continue
		}
		heap.Pop(&queue).(simEvent).run(now)
	}
	span := s.minutes - warm/60
	available := 1 - p.foreign*max(0, s.minutes*60-max(warm, p.foreignAt))/(s.minutes*60-warm)
	res.util = usedReqs / (p.rpm * span * available)
	if p.tpm > 0 {
		res.util = max(res.util, usedToks/(p.tpm*span*available))
	}
	for _, c := range cores {
		res.forecastError = max(res.forecastError, c.stats.forecastError)
	}
	return res
}

func actualTokens(u Usage) float64 { return float64(u.Input + u.Output) }

// TestCore_KeepsProvidersFullAndUncrossed is the controller's promise against
// each family of provider, in small; limits.md has the long runs.
func TestCore_KeepsProvidersFullAndUncrossed(t *testing.T) {
	reserve := func(d Demand) float64 { return float64(d.Input + d.MaxOutput) }
	chars := func(d Demand) float64 { return float64(max(d.MaxOutput, d.Chars/4)) }
	refund := func(d Demand, u Usage) float64 { return reserve(d) - actualTokens(u) }
	guess := func(d Demand) float64 { return float64(d.Input + d.Output) }
	correct := func(d Demand, u Usage) float64 { return guess(d) - actualTokens(u) }
	learn := Config{Learn: true}
	set := func(profile string, rpm, tpm int64) Config {
		return Config{Learn: true, Models: []ModelLimits{{Pattern: "*", Limits: Limits{RequestsPerMinute: rpm, TokensPerMinute: tpm}, Profile: profile}}}
	}
	for _, test := range []struct {
		name      string
		sim       simulation
		maxShare  float64
		leastUtil float64
	}{
		{"requests bind, all learned", simulation{cfg: learn, provider: simProvider{rpm: 600, tpm: 900_000, charge: guess, settle: correct}}, 0.001, 0.97},
		{"a: charged at admission, learned", simulation{cfg: learn, provider: simProvider{rpm: 600, tpm: 300_000, charge: chars}}, 0.001, 0.97},
		{"a: charged at admission, configured", simulation{cfg: set("openai", 600, 300_000), provider: simProvider{rpm: 600, tpm: 300_000, charge: chars}}, 0.001, 0.97},
		{"a without headers, configured", simulation{cfg: set("openai", 600, 300_000), silent: true, provider: simProvider{rpm: 600, tpm: 300_000, charge: chars}}, 0.001, 0.97},
		{"b: reserved and settled, configured", simulation{cfg: set("anthropic", 600, 150_000), provider: simProvider{rpm: 600, tpm: 150_000, charge: reserve, settle: refund}}, 0.001, 0.97},
		{"b: reserved and settled, learned", simulation{cfg: learn, provider: simProvider{rpm: 600, tpm: 150_000, charge: reserve, settle: refund}}, 0.001, 0.97},
		{"c: by use, configured", simulation{cfg: set("postpaid", 600, 150_000), provider: simProvider{rpm: 600, tpm: 150_000, charge: guess, settle: correct}}, 0.001, 0.97},
		{"a' fixed minute, configured", simulation{cfg: set("azure", 600, 300_000), silent: true, provider: simProvider{rpm: 600, tpm: 300_000, charge: reserve, window: true, sliceRPM: 1}}, 0.001, 0.95},
		{"requests judged by the second, learned", simulation{cfg: learn, bare: true, provider: simProvider{rpm: 600, tpm: 900_000, charge: guess, settle: correct, sliceRPM: 1}}, 0.002, 0.95},
		{"30 % foreign use, requests bind", simulation{cfg: learn, provider: simProvider{rpm: 600, tpm: 900_000, charge: guess, settle: correct, foreign: 0.3, foreignAt: 120}}, 0.002, 0.95},
		{"30 % foreign use, tokens bind", simulation{cfg: learn, provider: simProvider{rpm: 600, tpm: 150_000, charge: guess, settle: correct, foreign: 0.3, foreignAt: 120}}, 0.002, 0.93},
		{"40 % of the waiters leave", simulation{cfg: learn, cancels: 0.4, provider: simProvider{rpm: 600, tpm: 150_000, charge: guess, settle: correct}}, 0.001, 0.97},
		{"sixty a minute, configured globally", simulation{cfg: Config{Learn: true, Global: Limits{RequestsPerMinute: 60}}, provider: simProvider{rpm: 60, tpm: 150_000, charge: guess, settle: correct}}, 0, 0.97},
		{"three sidecars, a third each", simulation{cfg: Config{Learn: true, Share: 1.0 / 3}, sidecars: 3, provider: simProvider{rpm: 600, tpm: 900_000, charge: guess, settle: correct}}, 0.001, 0.90},
		{"three sidecars that know nothing of each other", simulation{cfg: learn, sidecars: 3, provider: simProvider{rpm: 600, tpm: 900_000, charge: guess, settle: correct}}, 0.01, 0.90},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.sim.load = 1.3
			test.sim.minutes = 10
			for seed := range uint64(3) {
				test.sim.seed = seed
				r := test.sim.run(t)
				t.Log(r)
				if r.share() > test.maxShare {
					t.Errorf("seed %d: 429 share %.3f %% above %.3f %%", seed, 100*r.share(), 100*test.maxShare)
				}
				if r.util < test.leastUtil {
					t.Errorf("seed %d: utilisation %.1f %% below %.1f %%", seed, 100*r.util, 100*test.leastUtil)
				}
			}
		})
	}
}
