package lane

import (
	"math"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	learnedIdle  = time.Hour // without a word from the provider, a learned limit yields to the configured one
	windowForget = 10 * time.Minute
)

// A Config is what a lane is told of its place.
type Config struct {
	Limits  llm.Vector     // configured; 0 = none of ours
	Share   float64        // this process's part of every limit, in (0, 1]
	Profile string         // how the provider charges; see CheckProfile
	Learn   bool           // take limits and levels from signals
	Roll    func() float64 // random numbers in [0, 1), by which pauses are spread
}

// A Lane is one limit at one place: what a provider lets through for the models
// that it counts together. It is asked for a client when a request may go, takes
// the request's charge, and hears what came of it by the request's [Ticket].
//
// A lane is a state machine without clock, lock or channel: it must be used under
// one lock, and times must not go back.
type Lane struct {
	Name    llm.Model
	Aliases []llm.Model // other names of the same limit
	Queued  int         // requests that wait for this lane; whoever queues them keeps it
	into    *Lane       // where it was merged to

	cfg    Config
	source Source
	shared bool // the source is several lanes': nothing may be learned into it
	crowd  bool // it is many names', of which one that is refused must not stop the others
	parent *Clock
	limits [llm.NumDimensions]Limit // as the source was told them
	known  [llm.NumDimensions]named
	on     set
	rate   llm.Vector // refill a second of the limits that refill

	profile profile // as configured
	family  profile // as used: for auto, the best guess so far
	hinted  hint

	inflight    int // tickets that have not ended
	slots       int // of them, those that hold a slot of the source as it is now
	epoch       int // of that source: it changes when they do not move along
	pausedUntil llm.Instant
	breaker     breaker
	rejects     int // pauses in a row without an answer between
	rejectedAt  llm.Instant
	congestion  congestion
	dry         dry
	belied      int // times that a header's end of the day was no end
	puzzle      puzzle
	word        word

	service  quantile
	learned  llm.Instant // the last time the provider named a limit
	shadows  shadows
	onTheWay llm.Vector // of requests that were sent and have not ended
	requestX float64    // the provider's estimate of a request over ours, from 429 texts
}

// named is what the provider has said of one limit.
type named struct {
	own      float64 // the provider's whole limit; 0 = it has named none
	learned  bool    // the limit in force is the provider's, and not what is configured
	mirrors  bool    // the limit in force is the provider's own
	assumed  bool    // it is a cap over all models, until the provider names a lower one; see Lane.assume
	dayHints int     // answers in a row whose limit per minute looked like one per day
	paced    bool    // the provider judges by the second
	pace     pace
}

// New returns a lane that takes of source alone.
func New(name llm.Model, cfg Config, source Source, now llm.Instant) *Lane {
	l := &Lane{Name: name, source: source, requestX: 1, rejectedAt: -1}
	l.congestion.cutAt = -1
	l.profile = numProfiles // none yet
	l.Configure(cfg, now)
	return l
}

// NewShared returns a lane that takes of the source of another one, under its limits. It
// learns nothing, for what it learned would hold for all; see [Lane.Own].
func NewShared(name llm.Model, of *Lane) *Lane {
	l := &Lane{
		Name: name, source: of.source, shared: true, requestX: 1, rejectedAt: -1,
		cfg: of.cfg, profile: of.profile, family: of.family, limits: of.limits, known: of.known, on: of.on, rate: of.rate,
	}
	l.congestion.cutAt = -1
	return l
}

// NewCrowd is NewShared for a lane that many names use: a refusal holds back the request
// that met it, and nobody else.
func NewCrowd(name llm.Model, of *Lane) *Lane {
	l := NewShared(name, of)
	l.crowd = true
	return l
}

// Own gives a lane that was shared a source for itself: the model has answered. A
// nil source is a part of the shared Clock, with its levels: a birth must not fill
// a bucket.
func (l *Lane) Own(source Source, now llm.Instant) {
	if source == nil {
		l.parent = l.source.(*Clock) // NewShared: nobody leases for models that may not exist
		source = l.parent.part(float64(l.slots))
	} else {
		l.slots = 0
		l.epoch++
	}
	l.source, l.shared = source, false
	l.congestion = congestion{cutAt: -1} // the model exists: what was refused before tells nothing of its limit
	for d, limit := range l.limits {
		if limit.Amount > 0 {
			source.SetLimit(now, llm.Dimension(d), limit)
		}
	}
}

// Configure applies cfg: levels are scaled, what was learned stays.
func (l *Lane) Configure(cfg Config, now llm.Instant) {
	changed := cfg.Limits != l.cfg.Limits || cfg.Share != l.cfg.Share
	l.cfg = cfg
	for d := range l.known {
		if l.known[d].assumed { // the caps may be others now
			l.known[d] = named{}
		}
	}
	if changed {
		l.Reopen(now)
	}
	if p, _ := profileNamed(cfg.Profile); p != l.profile {
		l.profile, l.family, l.hinted = p, p, hint{}
		if p == auto {
			l.family = reserve
		}
	}
	l.relimit(now)
}

// Join puts a shared lane onto the source of another, and under its limits. What was
// taken goes back to where it was taken.
func (l *Lane) Join(of *Lane) {
	if l.source != of.source {
		l.slots = 0
		l.epoch++
	}
	l.source, l.cfg, l.profile, l.family = of.source, of.cfg, of.profile, of.family
	l.limits, l.known, l.on, l.rate = of.limits, of.known, of.on, of.rate
}

// relimit tells the source the limits that are configured, where none that is
// lower was learned.
func (l *Lane) relimit(now llm.Instant) {
	for d := llm.Requests; d < llm.NumDimensions; d++ {
		amount := l.cfg.Limits[d] * l.cfg.Share
		if known := &l.known[d]; known.learned && (amount <= 0 || l.perMinute(d) < amount) {
			continue
		}
		l.known[d].learned, l.known[d].paced = false, false
		if d == llm.Concurrent && amount > 0 && amount < 1 {
			amount = 1 // a third of two slots must not be none
		}
		refill, period := l.usual(d)
		l.setLimit(now, d, amount, refill, period)
	}
}

// perMinute is the limit of d in the period that its name says.
func (l *Lane) perMinute(d llm.Dimension) float64 {
	limit := l.limits[d]
	if d.Daily() || limit.Period <= 0 || limit.Refill == Slots {
		return limit.Amount
	}
	return limit.Amount * float64(time.Minute) / float64(limit.Period)
}

// usual is how a limit of d comes back, unless the provider shows otherwise.
func (l *Lane) usual(d llm.Dimension) (Refill, time.Duration) {
	switch {
	case d.Daily():
		return Daily, day
	case d == llm.Concurrent:
		return Slots, time.Second
	}
	return l.family.refill(), time.Minute
}

func (l *Lane) setLimit(now llm.Instant, d llm.Dimension, amount float64, refill Refill, period time.Duration) {
	limit := Limit{Amount: amount, Period: period, Refill: refill}
	// A limit that is new starts cold: its level follows the provider's step by step.
	limit.Mirrors = l.known[d].mirrors && l.cfg.Share == 1 && l.limits[d].Amount > 0 && l.limits[d].Refill == refill
	limit.Paced = d == llm.Requests && (l.family == azure || l.known[d].paced)
	if limit == l.limits[d] {
		return
	}
	l.limits[d] = limit
	l.on.put(d, amount > 0)
	l.rate[d] = 0
	if amount > 0 && (refill == Continuous || refill == Sliding) {
		l.rate[d] = amount / period.Seconds()
	}
	l.source.SetLimit(now, d, limit)
}

// live is the lane that l's limits are now: itself, unless it was merged.
func (l *Lane) live() *Lane {
	for l.into != nil {
		l = l.into
	}
	return l
}

// Merge makes l the lane of what from had: the provider calls both the same. The
// lower levels and the longer pause hold. What was taken of a source that other lanes
// share goes back there.
func (l *Lane) Merge(from *Lane, now llm.Instant) {
	l.Aliases = append(append(l.Aliases, from.Name), from.Aliases...)
	l.pausedUntil = max(l.pausedUntil, from.pausedUntil)
	if from.dry.until > l.dry.until {
		l.dry = from.dry
	}
	l.breaker.trying += from.breaker.trying
	l.inflight += from.inflight
	l.onTheWay.Add(from.onTheWay, 1)
	l.Queued += from.Queued
	from.into, from.Queued = l, 0
	if from.shared {
		return
	}
	to, ok := l.source.(*Clock)
	if own, also := from.source.(*Clock); ok && also {
		to.absorb(own, now)
		return
	}
	from.source.Close()
}

// Close tells that nothing more will be taken.
func (l *Lane) Close() {
	if !l.shared && l.into == nil {
		l.source.Close()
	}
}

// Charge is what the provider of this lane books for load, or what has to be set
// aside for what it will book.
func (l *Lane) Charge(load llm.Load) llm.Vector {
	c := l.family.admit(load)
	if l.requestX != 1 && (l.family == openai || l.family == azure) {
		c[llm.Tokens] = float64(int64(c[llm.Tokens] * l.requestX))
		c[llm.TokensDay] = c[llm.Tokens]
	}
	return c
}

// When tells when client's request of that charge may go: not during a pause, not
// beyond the breaker after one, not beyond the window that stands in for an
// unknown limit, and not before the source has it.
func (l *Lane) When(now llm.Instant, a Ask) Verdict {
	if now < l.pausedUntil {
		return Verdict{At: l.pausedUntil}
	}
	if l.breaker.tripped() {
		if at := l.breaker.next(l.Queued, now); at > now {
			return Verdict{At: at}
		}
	}
	if l.congestion.full(l.inflight) {
		return Verdict{At: llm.Never}
	}
	if now < l.dry.until {
		if l.dry.holds(now) {
			return Verdict{At: l.dry.until, Limit: l.dry.limit, ThisLane: true}
		}
		a.Charge[llm.RequestsDay], a.Charge[llm.TokensDay] = 0, 0
	}
	return l.source.Ready(now, a)
}

// Rate is the refill a second of each limit that refills; 0 where there is none. The
// cost of a request, in seconds of a lane, is the largest of its charges over these.
func (l *Lane) Rate() llm.Vector { return l.rate }

// Bounded reports whether any limit holds.
func (l *Lane) Bounded() bool { return l.on != 0 }

// Wait foretells how long charge waits if ahead goes first, and which limit binds.
func (l *Lane) Wait(now llm.Instant, ahead llm.Vector, a Ask) (time.Duration, llm.Dimension) {
	wait, d := l.source.Wait(now, ahead, a)
	if now < l.pausedUntil {
		wait = max(wait, l.pausedUntil.Sub(now))
	}
	if dry := l.dry.until.Sub(now); l.dry.holds(now) && dry > wait {
		wait, d = dry, l.dry.limit
	}
	return wait, d
}

// Listens returns the source's wish to hear who waits; nil if it has none.
func (l *Lane) Listens() Listener {
	listener, _ := l.source.(Listener)
	return listener
}

// Prime books what an earlier process used.
func (l *Lane) Prime(now llm.Instant, used llm.Vector) { l.source.Prime(now, used) }

// Shared reports whether the source is that of other lanes too.
func (l *Lane) Shared() bool { return l.shared }

// InFlight is the number of tickets that have not ended.
func (l *Lane) InFlight() int { return l.inflight }

// ServiceTime is the learned 95th percentile from sending to settling; 0 = unknown.
func (l *Lane) ServiceTime() time.Duration { return Seconds(l.service.value) }

// PausedUntil is when the provider's last pause ends or ended.
func (l *Lane) PausedUntil() llm.Instant { return l.pausedUntil }

// Probing reports whether the provider refused everything of late, and is probed.
func (l *Lane) Probing() bool { return l.breaker.tripped() }

// Profile names how requests are charged at present.
func (l *Lane) Profile() string { return l.family.String() }

// Meters describes limits and levels.
func (l *Lane) Meters(now llm.Instant) []Meter {
	meters := l.source.Meters(now)
	for i := range meters {
		for d := range l.known {
			if meters[i].Name != llm.Dimension(d).String() {
				continue
			}
			meters[i].Learned = l.known[d].learned
			if limit := l.limits[d]; limit.Period != time.Minute && float64(meters[i].Limit) == math.Trunc(limit.Amount) {
				meters[i].Limit = int64(l.perMinute(llm.Dimension(d)))
			}
		}
		if now < l.dry.until && meters[i].Name == l.dry.limit.String() {
			meters[i].Level = min(meters[i].Level, 0)
		}
	}
	return meters
}

// Follows reports whether the limit of d in force is the provider's own.
func (l *Lane) Follows(d llm.Dimension) bool { return l.known[d].mirrors }
