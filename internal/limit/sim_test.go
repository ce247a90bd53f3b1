package limit

import (
	"cmp"
	"container/heap"
	"math"
	"math/rand/v2"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// A simulation drives policies, one for each sidecar, in virtual time against a
// provider's account. The account is the simulated provider's own, made on the
// other side of the wire: it shares no line with what it judges.
type simulation struct {
	cfg     Config
	account provider.AccountConfig
	policy  func(*world) policy // nil: the limiter
	broken  broken

	load     float64 // offered, over what the limit that binds lets through
	seed     uint64
	sidecars int           // 0 = 1
	cancels  float64       // part of the waiters that hang up after 20 s in the queue
	silent   bool          // the provider sends no headers
	bare     bool          // its 429s carry no numbers
	late     bool          // its headers come with the end of the answer
	foreign  bool          // account.Foreign is on: its use is not ours to have
	patience time.Duration // of the clients, in the queue; 0 = 90 s
	crashes  time.Duration // between the crashes of minutes 6 to 9; 0 = none
	engine   *engineConfig // that the sidecars lease from; nil = none
	suspend  time.Duration // the machine sleeps so long at minute 8; its clock stops, and is 500 ppm fast all along
}

const (
	simWarm     = 5 * time.Minute // until the provider's full bucket of the start is spent
	simMeasured = 10 * time.Minute
	simSleepAt  = llm.Instant(8 * time.Minute)
	simCrashes  = llm.Instant(6 * time.Minute)
	simHealthy  = llm.Instant(9 * time.Minute)
)

// A policy decides when the requests of one sidecar go up: the limiter, or one
// of those it is compared with.
type policy interface {
	offer(k *simCall, now llm.Instant)
	leave(k *simCall, now llm.Instant) // the client hangs up, if k waits
	headers(k *simCall, s *llm.Signal, now llm.Instant)
	throttled(k *simCall, s *llm.Signal, now llm.Instant)
	done(k *simCall, now llm.Instant)
	crash(now llm.Instant)
	next() llm.Instant
	wake(now llm.Instant)
}

// A simCall is one request with what only the provider knows of it.
type simCall struct {
	home     int // the sidecar
	demand   llm.Demand
	ask      provider.Ask
	used     provider.Used
	client   string
	session  string
	arrived  llm.Instant
	deadline llm.Instant
	attempts int

	// The limiter's own.
	lease *Lease
	life  int // of the sidecar that took it: a crash ends it

	waiting bool              // for the policies that are compared
	cancel  func(t time.Time) // gives its reservation back
}

type simResult struct {
	attempts, refused         int // the whole run
	warmAttempts, warmRefused int // after warm-up
	completed                 int // after warm-up
	util                      float64
	errors                    []float64 // of forecasts, for waits above a second
}

// share is the 429s' part of all attempts, the cold start included.
func (r simResult) share() float64 { return float64(r.refused) / float64(max(1, r.attempts)) }

func (r simResult) warmShare() float64 {
	return float64(r.warmRefused) / float64(max(1, r.warmAttempts))
}

// A world is one run.
type world struct {
	simulation
	rng      *rand.Rand // of the network and the provider
	work     *rand.Rand // of the clients: the same requests come whatever the policy
	provider *provider.Account
	epoch    time.Time // the provider's wall clock at 0
	queue    simQueue
	events   int
	now      llm.Instant
	policies []policy
	warm     llm.Instant
	end      llm.Instant
	leasing  *engine
	first    llm.Instant // of the provider's first request
	n        int
	res      simResult

	reqs, toks, offeredReqs, offeredToks float64 // after warm-up
	levels                               provider.Levels
}

func (s simulation) run() simResult {
	w := &world{simulation: s, rng: rand.New(rand.NewPCG(s.seed, 99)), work: rand.New(rand.NewPCG(s.seed, 98)), first: -1}
	w.account.Foreign.Seed = s.seed
	w.provider = provider.NewAccount(w.account)
	// The provider's minutes are not ours, and what is measured begins and ends
	// with one of them.
	phase := time.Duration(w.rng.Float64() * float64(time.Minute))
	w.epoch = time.Unix(1_800_000_000, 0).Add(phase)
	w.warm = llm.Instant(simWarm + time.Minute - phase)
	w.end = w.warm.Add(simMeasured)
	w.patience = cmp.Or(w.patience, 90*time.Second)
	if w.policy == nil {
		w.policy = newLimiterPolicy
	}
	if s.engine != nil {
		w.leasing = newEngine(w)
	}
	for range max(1, s.sidecars) {
		w.policies = append(w.policies, w.policy(w))
	}
	mean := time.Duration(float64(time.Minute) / (w.load * w.capacity()))
	var arrive func(now llm.Instant)
	arrive = func(now llm.Instant) {
		w.schedule(now.Add(time.Duration(w.work.ExpFloat64()*float64(mean))), arrive)
		w.here(now, w.arrive)
	}
	w.schedule(0, arrive)
	w.schedule(w.warm, func(llm.Instant) { w.levels = w.provider.Levels(w.wall(w.warm)) })
	if w.crashes > 0 {
		for t := simCrashes; t < simHealthy; t = t.Add(w.crashes) {
			w.schedule(t, func(now llm.Instant) { w.policies[0].crash(now) })
		}
	}
	w.loop()
	w.measure()
	return w.res
}

// loop runs events and the policies' timers in the order of their time.
func (w *world) loop() {
	for now := llm.Instant(0); now < w.end; {
		at, which := w.queue[0].at, policy(nil)
		for _, p := range w.policies {
			if t := w.awake(p.next()); t < at {
				at, which = t, p
			}
		}
		now = max(now, at)
		w.now = now
		if which != nil {
			which.wake(now)
			continue
		}
		heap.Pop(&w.queue).(simEvent).run(now)
	}
}

func (w *world) arrive(now llm.Instant) {
	k := w.draw()
	k.arrived, k.deadline = now, now.Add(w.patience)
	if now > w.warm {
		w.offeredReqs++
		w.offeredToks += float64(w.booked(k))
	}
	p := w.policies[k.home]
	p.offer(k, now)
	if w.work.Float64() < w.cancels {
		w.schedule(now.Add(20*time.Second), func(now llm.Instant) { p.leave(k, now) })
	}
}

// send is the way of one attempt to the provider and back.
func (w *world) send(k *simCall, now llm.Instant) {
	k.attempts++
	p := w.policies[k.home]
	w.schedule(now.Add(w.jitter()), func(now llm.Instant) {
		if w.first < 0 {
			w.first = now
		}
		v := w.provider.Admit(w.wall(now), k.ask)
		w.res.attempts++
		if now > w.warm {
			w.res.warmAttempts++
		}
		s := w.signal(v)
		if !v.OK {
			w.res.refused++
			if now > w.warm {
				w.res.warmRefused++
			}
			w.schedule(now.Add(w.jitter()), func(now llm.Instant) {
				w.here(now, func(now llm.Instant) { p.throttled(k, s, now) })
			})
			return
		}
		if now > w.warm {
			w.reqs++
			w.toks += float64(v.Charged)
		}
		if !w.late {
			w.schedule(now.Add(300*time.Millisecond+w.jitter()), func(now llm.Instant) {
				w.here(now, func(now llm.Instant) { p.headers(k, s, now) })
			})
		}
		service := time.Second + time.Duration(w.rng.Float64()*9e9)
		w.schedule(now.Add(service), func(now llm.Instant) {
			w.provider.Settle(w.wall(now), k.ask, k.used)
			if now > w.warm {
				w.toks += float64(w.booked(k) - v.Charged)
				w.res.completed++
			}
			w.schedule(now.Add(w.jitter()), func(now llm.Instant) {
				w.here(now, func(now llm.Instant) {
					if w.late {
						p.headers(k, s, now)
					}
					p.done(k, now)
				})
			})
		})
	})
}

// signal is what an answer tells of the provider's limits.
func (w *world) signal(v provider.Verdict) *llm.Signal {
	s := new(llm.Signal)
	if !w.silent {
		level := func(l provider.Level) llm.Level {
			return llm.Level{Limit: l.Limit, Remaining: l.Remaining, HasLimit: l.Limit > 0, HasRemaining: l.Limit > 0}
		}
		s.Levels[llm.Requests], s.Levels[llm.Tokens] = level(v.Requests), level(v.Tokens)
	}
	if !v.OK {
		s.RetryAfter, s.HasRetryAfter = v.RetryAfter, true
		s.Dimension = map[string]llm.Dimension{"requests": llm.Requests, "tokens": llm.Tokens}[v.Dimension]
		if !w.bare {
			s.Limit, s.Used, s.Requested = v.Limit, v.Used, v.Requested
		}
	}
	return s
}

// draw makes a request: prompts of 600 tokens and answers of 190 in the mean,
// both log-normal, under caps of which the mean is 740.
func (w *world) draw() *simCall {
	normal := w.work.NormFloat64
	in := min(math.Exp(math.Log(400)+0.9*normal()), 16_000)
	out := math.Exp(math.Log(150) + 0.7*normal())
	limit := []float64{256, 256, 256, 512, 512, 512, 1024, 1024, 1024, 2048}[w.work.IntN(10)]
	w.n++
	return &simCall{
		home:   w.work.IntN(max(1, len(w.policies))),
		demand: llm.Demand{Input: int64(in * math.Exp(0.06*normal())), Output: 180, MaxOutput: int64(limit), Chars: int64(in * 4)},
		ask:    provider.Ask{Input: int64(in), Chars: int64(in * 4 * math.Exp(0.03*normal())), MaxOutput: int64(limit)},
		used:   provider.Used{Input: int64(in), Output: int64(min(out, limit))},
		client: string(rune('a' + w.n%5)), session: string(rune('a' + w.n%40)),
	}
}

// booked is what the provider books for k in the end, in tokens.
func (w *world) booked(k *simCall) int64 {
	switch w.account.Variant {
	case provider.Continuous:
		return max(k.ask.MaxOutput, (k.ask.Chars+3)/4)
	case provider.Window:
		return (k.ask.Chars+3)/4 + k.ask.MaxOutput
	}
	return k.used.Input + k.used.Output
}

// capacity is how many of our requests the provider can serve in a minute.
func (w *world) capacity() float64 {
	if w.account.TPM == 0 {
		return float64(w.account.RPM)
	}
	probe := world{simulation: w.simulation, work: rand.New(rand.NewPCG(1, 1))}
	sum := 0.0
	for range 20_000 {
		sum += float64(w.booked(probe.draw()))
	}
	return min(float64(w.account.RPM), float64(w.account.TPM)/(sum/20_000))
}

// measure works out which part of the refill we used, after what others used:
// what was drawn from the bucket's store meanwhile does not count, so that more
// than 100 % is impossible. Below full load it is the part served of what was
// offered, up to what is in flight at both ends.
func (w *world) measure() {
	minutes := w.end.Sub(w.warm).Minutes()
	reqs, toks := float64(w.account.RPM)*minutes, float64(w.account.TPM)*minutes
	others := w.others()
	reqs -= others
	toks -= others * float64(w.account.TPM/w.account.RPM)
	if w.load < 1 {
		w.res.util = min(1, max(w.reqs/min(reqs, w.offeredReqs), w.toks/min(toks, w.offeredToks)))
		return
	}
	last := w.provider.Levels(w.wall(w.end))
	drawn := func(a, b provider.Level) float64 { return float64(max(0, a.Remaining-b.Remaining)) }
	w.res.util = (w.reqs - drawn(w.levels.Requests, last.Requests)) / reqs
	if w.account.Variant != provider.Window { // there the measured minutes are whole ones
		w.toks -= drawn(w.levels.Tokens, last.Tokens)
	}
	w.res.util = max(w.res.util, w.toks/toks)
}

// others counts the requests by others after warm-up, by drawing them again as
// the account does.
func (w *world) others() float64 {
	f := w.account.Foreign
	if f.Share == 0 {
		return 0
	}
	rng := rand.New(rand.NewPCG(f.Seed, 0x5eed))
	mean := float64(time.Minute) / (float64(w.account.RPM) * f.Share)
	n := 0.0
	for t := w.first.Add(f.After); t < w.end; {
		t = t.Add(time.Duration(rng.ExpFloat64() * mean))
		if t > w.warm {
			n++
		}
	}
	return n
}

func (w *world) wall(now llm.Instant) time.Time { return w.epoch.Add(time.Duration(now)) }

// local is the sidecar's own clock.
func (w *world) local(now llm.Instant) llm.Instant {
	if w.suspend == 0 {
		return now
	}
	switch wake := simSleepAt.Add(w.suspend); {
	case now >= wake:
		now = now.Add(-w.suspend)
	case now > simSleepAt:
		now = simSleepAt
	}
	return now + now/2000
}

// awake turns an llm.Instant of the sidecar's clock into one of the world's.
func (w *world) awake(t llm.Instant) llm.Instant {
	if w.suspend == 0 || t == llm.Never {
		return t
	}
	t -= t / 2001
	if t > simSleepAt {
		t = t.Add(w.suspend)
	}
	return t
}

// here runs what happens in a sidecar: later, if its machine sleeps.
func (w *world) here(now llm.Instant, run func(llm.Instant)) {
	if wake := simSleepAt.Add(w.suspend); now >= simSleepAt && now < wake {
		w.schedule(wake, run)
		return
	}
	run(now)
}

// jitter is the time of one way: requests overtake each other.
func (w *world) jitter() time.Duration {
	return 20*time.Millisecond + time.Duration(w.rng.Float64()*30e6)
}

func (w *world) schedule(at llm.Instant, run func(llm.Instant)) {
	w.events++
	heap.Push(&w.queue, simEvent{at, w.events, run})
}

type simEvent struct {
	at  llm.Instant
	n   int
	run func(now llm.Instant)
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
