package limit

import (
	"math"
	"slices"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A core is the limiter without clock, lock or channel: a state machine of
// (state, event, now) → decisions. Every method is an event. After events that
// may let somebody go the caller calls pump until it returns false, takes the
// decided leases from done, and comes back at next.
type core struct {
	cfg  Config
	caps *lane.Lane // over all models
	wake func()     // what a Source calls when it has more; set by the shell

	models      map[llm.Model]*model // that have answered, and names that are known for their limits
	nurseries   map[string]*nursery  // by pattern, "" for models that none matches
	plain       *model               // requests without a model
	control     control
	active      []*model // those with waiters: few, so scanned
	roster      queue.Roster
	contended   bool // somebody waits for the caps over all models alone
	provisional bool // the request limit over all models is a mere default
	lifted      bool // it was one, until the upstream's headers said better

	waiting   int
	bytes     int64
	sum       llm.Load
	inflight  int
	seq       uint64
	alarms    queue.Wheel
	ghosts    queue.Ghosts
	done      []*Lease // decided since the caller last looked
	heads     []choice // see pick
	spare     []*held  // see newHeld
	round     uint64
	wakeAt    llm.Instant
	rejecting bool // refuse waiters and newcomers instead of serving them
	away      bool // refuse waiters until nobody waits: the provider cannot be reached
	dice      uint64

	stats struct {
		granted, throttled, abandoned uint64
		refused                       [Unreachable + 1]uint64
		forecastError                 float64
	}
}

func newCore(cfg Config, now llm.Instant) *core {
	c := &core{
		models: map[llm.Model]*model{}, nurseries: map[string]*nursery{},
		wake: func() {}, dice: 0x9e3779b97f4a7c15,
	}
	c.plain = newModel("", queue.NewContest(&c.roster), lane.New("", lane.Config{Profile: "postpaid", Share: 1, Roll: c.roll}, lane.NewClock(), now), now)
	c.control = newControl(c, now)
	c.cfg = cfg
	c.caps = lane.New(AllGroups, c.capsConfig(), lane.NewClock(), now)
	c.reconfigure(cfg, now)
	return c
}

// capsConfig is what the lane of the caps over all models is told.
func (c *core) capsConfig() lane.Config {
	cfg := c.laneConfig(c.cfg.Global, "")
	cfg.Learn = false // the provider names no such limits
	return cfg
}

// reconfigure applies cfg: levels are scaled, waiters stay.
func (c *core) reconfigure(cfg Config, now llm.Instant) {
	if cfg.Provisional && c.lifted {
		cfg.Global.RequestsPerMinute, cfg.Provisional = 0, false
	}
	changed := cfg.Global != c.cfg.Global || !slices.Equal(cfg.Models, c.cfg.Models)
	c.cfg = cfg
	c.provisional = cfg.Provisional
	c.caps.Configure(c.capsConfig(), now)
	for _, m := range c.models {
		for _, l := range m.lanes {
			_, own := c.configured(l.Name)
			l.Configure(own, now)
		}
	}
	if changed {
		c.reopen(now)
	}
	c.regroup(now)
	c.roster.ReleaseClients() // the sources have heard something new
}

// reopen lets models be tried again whose limits the provider has said to be used up.
func (c *core) reopen(now llm.Instant) {
	for _, m := range c.models {
		for _, l := range m.lanes {
			l.Reopen(now)
		}
	}
	c.plain.lanes[0].Reopen(now)
	for _, n := range c.nurseries {
		for _, m := range n.models {
			m.lanes[0].Reopen(now)
		}
		if n.crowd != nil {
			n.crowd.lanes[0].Reopen(now)
		}
	}
}

// lift drops the default limit over all models once a provider's own is in force.
func (c *core) lift(l *lane.Lane, now llm.Instant) {
	if c.provisional && l.Follows(llm.Requests) {
		c.provisional, c.lifted = false, true
		c.cfg.Global.RequestsPerMinute = 0
		c.caps.Configure(c.capsConfig(), now)
	}
}

// cost is the dominant share of a charge: the longest time that m's lanes, or the
// caps over all models, need to make up for it, in seconds. Where nothing limits, a
// thousand tokens are one.
func (c *core) cost(m *model, v llm.Vector) float64 {
	if s := max(m.share(v), share(v, c.caps.Rate())); s > 0 {
		return s
	}
	return max(1, v[llm.Tokens]) / 1000
}

// capsCost is the cost of a charge under the caps over all models: of them alone, so that
// it is the same for every model.
func (c *core) capsCost(v *llm.Vector) float64 {
	if s := share(*v, c.caps.Rate()); s > 0 {
		return s
	}
	return max(1, v[llm.Tokens]) / 1000
}

func clampWeight(w float64) float64 {
	if w == 0 || math.IsNaN(w) {
		return 1
	}
	return min(max(w, 0.1), 100)
}

// roll is a small deterministic generator (splitmix64): the core must replay.
func (c *core) roll() float64 {
	c.dice += 0x9e3779b97f4a7c15
	z := c.dice
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}

// prime lowers levels to what an earlier process left.
func (c *core) prime(r Recent, now llm.Instant) {
	used := lane.Exact(llm.Usage{Input: r.Input, Output: r.Output})
	used[llm.Requests] = float64(r.Requests)
	used[llm.RequestsDay], used[llm.TokensDay] = float64(r.RequestsDay), float64(r.TokensDay)
	c.caps.Prime(now, used)
	if r.Model != "" {
		c.confirm(c.model(r.Model, now), r.Model, now)
		c.model(r.Model, now).lanes[0].Prime(now, used)
	}
}

// patience is how long r may wait, all attempts together. The client's own clock
// runs on while the answer is made, so the usual time for that is taken off. A
// tenth is left whatever was learned: or slow answers would forbid every try to be
// faster.
func (c *core) patience(r *Request, now llm.Instant) time.Duration {
	wait := c.cfg.MaxWait
	if r.MaxWait > 0 && r.MaxWait < wait {
		wait = r.MaxWait
	}
	if r.Timeout > 0 {
		usual := c.modelOf(r, now).lanes[0].ServiceTime()
		wait = min(wait, max(r.Timeout-usual, r.Timeout/10))
	}
	return wait
}
