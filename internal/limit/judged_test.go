package limit

import (
	"fmt"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// named is a core whose model m has answered, with limits that the provider has named.
func named(t *testing.T, cfg Config, requests, tokens int64) (*core, *lane.Lane) {
	t.Helper()
	cfg.Learn = true
	c := newCore(cfg.withDefaults(), 0)
	l := answered(c, "m", 0)
	tell(t, c, requests, tokens, requests, tokens, 0)
	return c, l
}

// tell has an answer of m say its limits and what is left of them.
func tell(t *testing.T, c *core, requests, tokens, leftR, leftT int64, now llm.Instant) {
	t.Helper()
	le := take(t, c, Request{Model: "m", Session: "teller"}, now)
	s := limitsNamed(requests, tokens, leftR, leftT)
	c.observe(le, &s, now)
	c.settle(le, llm.Usage{}, now)
}

func limitsNamed(requests, tokens, leftR, leftT int64) (s llm.Signal) {
	s.Levels[llm.Requests] = llm.Level{Limit: requests, Remaining: leftR, HasLimit: true, HasRemaining: true}
	s.Levels[llm.Tokens] = llm.Level{Limit: tokens, Remaining: leftT, HasLimit: true, HasRemaining: true}
	return s
}

func huge(session string) Request {
	return Request{Model: "m", Session: session, Demand: llm.Demand{Input: 100, MaxOutput: 200_000, Output: 180}}
}

// TestJudged_AnImpossibleRequestGoesAtOnce whatever waits, one at a time, and harms nobody
// when it is refused.
func TestJudged_AnImpossibleRequestGoesAtOnce(t *testing.T) {
	for _, test := range []struct {
		name   string
		refuse func(c *core, le *Lease, now llm.Instant)
	}{
		{"refused for its size", func(c *core, le *Lease, now llm.Instant) {
			c.tooLarge(le, &llm.Signal{Dimension: llm.Tokens, Limit: 100_000, Requested: 200_100}, now)
			c.release(le, now)
		}},
		{"refused with 400", func(c *core, le *Lease, now llm.Instant) { c.release(le, now) }},
		{"its client leaves", func(c *core, le *Lease, now llm.Instant) { c.release(le, now) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, l := named(t, Config{}, 600, 100_000)
			now := 100 * second
			c.caps.Meters(now)
			l.Prime(now, llm.Vector{llm.Tokens: 200_000}) // nothing is left
			for i := range 5 {
				if le := enter(t, c, ask("m", fmt.Sprint("s", i)), now); le.state != waiting {
					t.Fatal("tokens are left")
				}
			}
			before, factor := meter(l, llm.Tokens, now).Level, meter(l, llm.Tokens, now).Factor
			first := take(t, c, huge("big"), now)
			second := enter(t, c, huge("big"), now)
			other := enter(t, c, huge("another"), now)
			if second.state != waiting || other.state != waiting {
				t.Error("several go at once")
			}
			test.refuse(c, first, now)
			if got := meter(l, llm.Tokens, now); got.Level != before || got.Factor != factor || l.PausedUntil() > now || l.Probing() {
				t.Errorf("the lane has %+v, paused until %v", got, l.PausedUntil())
			}
			if drainDone(c, now); (second.state == granted) == (other.state == granted) {
				t.Errorf("after the first: states %d and %d, want one of them granted", second.state, other.state)
			}
		})
	}
}

// TestJudged_WhoIsAcceptedIsChargedWhatThereIs, and headers say more.
func TestJudged_WhoIsAcceptedIsChargedWhatThereIs(t *testing.T) {
	for _, test := range []struct {
		name  string
		heard int64 // tokens that the answer's header has left; -1 = no header
		used  int64
		want  float64
	}{
		{"no headers, all used", -1, 150_000, 0},
		{"no headers, little used", -1, 100, 60_000 - 100 - 100},
		{"headers", 59_000, 1000, 59_000},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, l := named(t, Config{}, 600, 100_000)
			now := 100 * second
			tell(t, c, 600, 100_000, 600, 60_000, now)
			now++
			le := take(t, c, huge("big"), now)
			if got := meter(l, llm.Tokens, now).Level; got < 59_000 {
				t.Fatalf("charged before it is accepted: %v left", got)
			}
			if test.heard >= 0 {
				s := limitsNamed(600, 100_000, 599, test.heard)
				c.observe(le, &s, now)
			}
			c.started(le, now)
			c.settle(le, llm.Usage{Input: test.used}, now)
			if got := meter(l, llm.Tokens, now).Level; got < test.want-300 || got > test.want+300 {
				t.Errorf("%v left, want %v", got, test.want)
			}
			if got := c.inflight; got != 0 {
				t.Errorf("%d in flight", got)
			}
		})
	}
}

// TestJudged_A429ThatWaitingCuresPausesNobodyElse.
func TestJudged_A429ThatWaitingCuresPausesNobodyElse(t *testing.T) {
	c, l := named(t, Config{}, 600, 100_000)
	now := 100 * second
	le := take(t, c, huge("big"), now)
	notBefore, _ := c.throttled(le, &llm.Signal{HasRetryAfter: true, RetryAfter: 20 * time.Second}, now)
	if rejected := c.requeue(le, time.Hour, notBefore, now); rejected != nil {
		t.Fatal(rejected)
	}
	take(t, c, ask("m", "small"), now)
	if l.PausedUntil() > now || meter(l, llm.Tokens, now).Factor < 1 {
		t.Error("the lane is paused, or cut")
	}
	if drainDone(c, now+19*second); le.state != waiting {
		t.Error("it does not wait as told")
	}
	if drainDone(c, now+23*second); le.state != granted {
		t.Error("it does not come back")
	}
}

// TestJudged_WhatWaitsIsJudgedWhenTheLimitIsKnown.
func TestJudged_WhatWaitsIsJudgedWhenTheLimitIsKnown(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	answered(c, "m", 0)
	tell(t, c, 600, 300_000, 600, 0, 0)
	one := take(t, c, Request{Model: "m", Session: "other"}, 1)
	le := enter(t, c, huge("big"), 1)
	if le.state != waiting || le.model.of != nil {
		t.Fatalf("state %d: what is possible is judged", le.state)
	}
	s := limitsNamed(600, 100_000, 599, 0)
	c.observe(one, &s, 2)
	if drainDone(c, 2); le.state != granted {
		t.Errorf("state %d: it waits for what will never be there", le.state)
	}
	c.sent(le, 2)
	c.release(le, 2)
	if c.waiting != 0 || c.inflight != 1 || c.sum != (llm.Load{}) {
		t.Errorf("%d wait, %d in flight, %+v", c.waiting, c.inflight, c.sum)
	}
}

// TestJudged_OnlyTheProvidersOwnLimitMakesItImpossible: a lower cap of ours is saved up
// for, and a refusal's words name the limit.
func TestJudged_OnlyTheProvidersOwnLimitMakesItImpossible(t *testing.T) {
	cfg := Config{Models: []ModelLimits{{Pattern: "m", Limits: Limits{TokensPerMinute: 50_000}}}}
	for _, shared := range []Config{cfg, {Share: 0.25}} {
		c, _ := named(t, shared, 600, 200_000)
		r := huge("big")
		r.Demand.MaxOutput = 80_000
		if le := enter(t, c, r, second); le.model.of != nil {
			t.Errorf("%+v: 80,000 of the provider's 200,000 tokens are judged", shared)
		}
	}
	c := newCore(Config{Learn: true, Models: cfg.Models}.withDefaults(), 0)
	answered(c, "m", 0)
	le := take(t, c, ask("m", "first"), 0)
	c.tooLarge(le, &llm.Signal{Dimension: llm.Tokens, Limit: 100_000, Requested: 200_000}, 0)
	c.release(le, 0)
	if le := take(t, c, huge("big"), 0); le.model.of == nil {
		t.Error("the provider's own words do not count")
	}
}

// TestJudged_WhereRequestsAreShort a session that repeats one has no more than its part
// of them.
func TestJudged_WhereRequestsAreShort(t *testing.T) {
	c, _ := named(t, Config{}, 60, 100_000)
	got := map[string]int{}
	asks := map[string]func() Request{"big": func() Request { return huge("big") }}
	for i := range 4 {
		name := fmt.Sprint("s", i)
		asks[name] = func() Request { return Request{Model: "m", Session: name, Demand: llm.Demand{Input: 10}} }
	}
	on := map[*Lease]string{}
	come := func(name string, now llm.Instant) {
		le, rejected := arrive(c, asks[name](), time.Hour, now)
		if rejected != nil {
			t.Fatal(rejected)
		}
		on[le] = name
	}
	for name := range asks {
		come(name, second)
	}
	for now := second; now < 900*second; now += second / 10 {
		drainDone(c, now)
		for le, name := range on {
			if le.state != granted {
				continue
			}
			delete(on, le)
			if now > 300*second {
				got[name]++
			}
			c.sent(le, now)
			if name == "big" {
				c.release(le, now)
			} else {
				c.settle(le, llm.Usage{Input: 10}, now)
			}
			come(name, now)
		}
	}
	t.Logf("served: %v", got)
	if got["big"] < 60 || got["big"] > 180 || got["s0"] < 95 {
		t.Errorf("of 600 requests the impossible ones had %d, another session %d, want a fifth each", got["big"], got["s0"])
	}
}
