package limit

import (
	"fmt"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// refusal is what a provider says to a model that must not stop another.
type refusal struct {
	name string
	tell func(c *core, le *Lease, now llm.Instant) llm.Instant
}

func refusals() []refusal {
	throttled := func(s llm.Signal) func(*core, *Lease, llm.Instant) llm.Instant {
		return func(c *core, le *Lease, now llm.Instant) llm.Instant {
			at, _ := c.throttled(le, &s, now)
			return at
		}
	}
	day := 7*time.Hour + 12*time.Minute
	return []refusal{
		{"Retry-After: 50", throttled(llm.Signal{HasRetryAfter: true, RetryAfter: 50 * time.Second})},
		{"requests, Retry-After: 50", throttled(llm.Signal{Dimension: llm.Requests, HasRetryAfter: true, RetryAfter: 50 * time.Second})},
		{"tokens with numbers", throttled(llm.Signal{Dimension: llm.Tokens, Limit: 1000, Used: 1000, Requested: 900})},
		{"without a word", throttled(llm.Signal{})},
		{"try again in 7h12m", throttled(llm.Signal{HasRetryAfter: true, RetryAfter: day})},
		{"requests per day", throttled(llm.Signal{Dimension: llm.RequestsDay, HasRetryAfter: true, RetryAfter: day})},
		{"requests per day, for a little longer", throttled(llm.Signal{Dimension: llm.RequestsDay, HasRetryAfter: true, RetryAfter: 50 * time.Second})},
		{"tokens per day", throttled(llm.Signal{Dimension: llm.TokensDay, Limit: 1000, Used: 1000, Requested: 900, HasRetryAfter: true, RetryAfter: day})},
		{"503 with a hint", func(c *core, le *Lease, now llm.Instant) llm.Instant {
			at, _ := c.unavailable(le, 50*time.Second, now)
			return at
		}},
	}
}

// TestCore_ARefusedModelStopsNoOther: a pause, a day's limit, a breaker and all caution
// belong to the model that was refused, whatever is configured, and whether the models
// have answered or not.
func TestCore_ARefusedModelStopsNoOther(t *testing.T) {
	configs := map[string]Config{
		"nothing":         {Learn: true},
		"the default cap": {Learn: true, Provisional: true, Global: Limits{RequestsPerMinute: 60}},
		"caps":            {Learn: true, Global: Limits{RequestsPerMinute: 600, TokensPerMinute: 1e6, RequestsPerDay: 10_000}},
		"a pattern":       {Learn: true, Models: []ModelLimits{{Pattern: "*", Limits: Limits{RequestsPerMinute: 600, TokensPerMinute: 1e6, RequestsPerDay: 10_000}}}},
		"a pattern's day": {Models: []ModelLimits{{Pattern: "*", Limits: Limits{TokensPerDay: 1e9}}}},
	}
	for name, cfg := range configs {
		for _, r := range refusals() {
			for _, answeredBefore := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/answered %v", name, r.name, answeredBefore), func(t *testing.T) {
					c := newCore(cfg.withDefaults(), 0)
					if answeredBefore {
						answered(c, "a", 0)
						answered(c, "b", 0)
					}
					now := 1000 * second // every bucket is warm
					le := take(t, c, ask("a", "s"), now)
					for range 20 { // again and again, as soon as it may
						now += second / 10
						notBefore := r.tell(c, le, now)
						if rejected := c.requeue(le, time.Hour, notBefore, now); rejected != nil {
							t.Fatal(rejected)
						}
						if b := enter(t, c, ofClient("b", "s", "other"), now); b.state != granted {
							t.Fatalf("b waits %v: caps %+v, its lane %+v", c.next().Sub(now), c.caps.Meters(now), b.model.lanes[0].Meters(now))
						} else {
							c.sent(b, now)
							c.end(b, now)
						}
						for le.state == waiting && c.next() < llm.Never {
							now = max(now, c.next())
							drainDone(c, now)
						}
						if le.state != granted {
							return // its day is over, and that is its own
						}
						c.sent(le, now)
					}
				})
			}
		}
	}
}

// TestCore_ARefusedModelLearnsFromTheCap: where only a cap stands for a model's limit, its
// 429s slow down that model, as they would with a limit of its own.
func TestCore_ARefusedModelLearnsFromTheCap(t *testing.T) {
	cfg := Config{Learn: true, Global: Limits{RequestsPerMinute: 600}}.withDefaults()
	c := newCore(cfg, 0)
	l := answered(c, "a", 0)
	le := take(t, c, ask("a", "s"), 100*second)
	c.throttled(le, &llm.Signal{Dimension: llm.Requests}, 101*second)
	c.end(le, 101*second)
	if m := meter(l, llm.Requests, 101*second); m.Limit != 600 || m.Factor >= 1 {
		t.Errorf("the lane has %+v, want the cap with caution", m)
	}
	if factor := c.caps.Meters(101 * second)[0].Factor; factor != 1 {
		t.Errorf("the cap's factor is %v", factor)
	}
	cfg.Global.RequestsPerMinute = 1200
	c.reconfigure(cfg, 102*second)
	if m := meter(l, llm.Requests, 102*second); m.Limit != 0 {
		t.Errorf("after a reload the lane has %+v, want nothing of the old cap", m)
	}
}

// TestCore_ANameOfTheCrowdStopsNoOther: beyond maxNew names share a queue, and still no
// refusal of one holds back another.
func TestCore_ANameOfTheCrowdStopsNoOther(t *testing.T) {
	for _, r := range refusals() {
		t.Run(r.name, func(t *testing.T) {
			c := newCore(Config{Learn: true, Global: Limits{RequestsPerMinute: 6000}}.withDefaults(), 0)
			now := 1000 * second
			for i := range maxNew { // busy all along
				take(t, c, ask(llm.Model(fmt.Sprint("invented-", i)), "inventor"), now)
			}
			for i := range 30 {
				le := take(t, c, ask(llm.Model(fmt.Sprint("refused-", i)), fmt.Sprint("s", i)), now)
				if le.model != c.nurseries[""].crowd {
					t.Fatal("not in the crowd")
				}
				if rejected := c.requeue(le, time.Hour, r.tell(c, le, now), now); rejected != nil {
					t.Fatal(rejected)
				}
				now += second / 100
				if le.state != waiting {
					t.Error("what was refused goes at once")
				}
				good := enter(t, c, ask("good", "other"), now)
				if good.state != granted {
					t.Fatalf("after %d refusals another name waits", i+1)
				}
				c.end(good, now)
			}
		})
	}
}
