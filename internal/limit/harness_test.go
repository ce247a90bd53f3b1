package limit

import (
	"slices"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const second = llm.Instant(time.Second)

// enter lets a request arrive and fails the test if it is refused.
func enter(t *testing.T, c *core, r Request, now llm.Instant) *Lease {
	t.Helper()
	le, rejected := arrive(c, r, time.Hour, now)
	if rejected != nil {
		t.Fatalf("enter: %v", rejected)
	}
	return le
}

// arrive is enter for a request that may be refused.
func arrive(c *core, r Request, maxWait time.Duration, now llm.Instant) (*Lease, *Rejected) {
	le := &Lease{maxWait: maxWait, retryKey: r.RetryKey}
	rejected := c.enter(le, &r, now)
	c.done = slices.DeleteFunc(c.done, func(one *Lease) bool { return one == le })
	return le, rejected
}

// take is enter for a request that must be granted at once, and sends it.
func take(t *testing.T, c *core, r Request, now llm.Instant) *Lease {
	t.Helper()
	le := enter(t, c, r, now)
	if le.state != granted {
		t.Fatalf("request of %q was not granted at once", r.Model)
	}
	c.sent(le, now)
	return le
}

// drainDone pumps and returns what was decided.
func drainDone(c *core, now llm.Instant) []*Lease {
	for c.pump(now, pumpBatch) {
	}
	done := slices.Clone(c.done)
	c.done = c.done[:0]
	return done
}

func ask(model llm.Model, session string) Request {
	return Request{Model: model, Session: session, Demand: llm.Demand{Input: 100, Output: 100}}
}

func limitedTo(l Limits) Config {
	return Config{Learn: true, Models: []ModelLimits{{Pattern: "*", Limits: l}}}.withDefaults()
}

// answered is the lane of a model that has answered well.
func answered(c *core, name llm.Model, now llm.Instant) *lane.Lane {
	c.confirm(c.model(name, now), name, now)
	return c.model(name, now).lanes[0]
}

// meter is one limit of a lane; zero if it has none of d.
func meter(l *lane.Lane, d llm.Dimension, now llm.Instant) Meter {
	for _, m := range l.Meters(now) {
		if m.Name == d.String() {
			return m
		}
	}
	return Meter{}
}

func levels(d llm.Dimension, v llm.Level) (all [llm.NumDimensions]llm.Level) {
	all[d] = v
	return all
}

// A valve is a source that is shut or open, whatever is taken of it. A sink that hears
// who waits may be set.
type valve struct {
	*lane.Clock
	open bool
}

func (v *valve) Ready(now llm.Instant, _ lane.Ask) lane.Verdict {
	if v.open {
		return lane.Verdict{At: now}
	}
	return lane.Verdict{At: llm.Never, Limit: llm.Tokens}
}

// valved is a config whose models stop at the valve once they have answered.
func valved(cfg Config) (Config, *valve) {
	v := &valve{Clock: lane.NewClock()}
	cfg.Source = func(llm.Model, func()) lane.Source { return v }
	return cfg, v
}
