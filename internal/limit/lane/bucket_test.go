package lane

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

func minutely(amount float64, kind Refill) Limit {
	return Limit{Amount: amount, Period: time.Minute, Refill: kind, Mirrors: true}
}

// TestBucket_RefundsNeedNoClock: a refund that comes before the refill is worth
// the same as one that comes after, full buckets included.
func TestBucket_RefundsNeedNoClock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a, b bucket
		a.configure(0, minutely(6000, Continuous), 0)
		b.configure(0, minutely(6000, Continuous), 0)
		now := llm.Instant(0)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, 40e9).Draw(t, "pass")))
			amount := float64(rapid.IntRange(1, 4000).Draw(t, "amount"))
			if rapid.Bool().Draw(t, "refund") {
				a.advance(now)
				a.refund(now, amount, 0)
				b.refund(now, amount, 0)
			} else {
				a.advance(now)
				b.advance(now)
				a.level -= amount
				b.level -= amount
			}
		}
		a.advance(now)
		b.advance(now)
		if math.Abs(a.level-b.level) > 1e-6 {
			t.Fatalf("level %v with the clock, %v without", a.level, b.level)
		}
	})
}

// TestBucket_TimeThatGoesBackMintsNothing: instants are monotonic in the limiter;
// a bucket must bear one that is not.
func TestBucket_TimeThatGoesBackMintsNothing(t *testing.T) {
	for _, kind := range []Refill{Continuous, Sliding} {
		var b bucket
		b.configure(0, minutely(6000, kind), 0)
		for _, now := range []llm.Instant{10, 5, 10, 1, 0, 10, 3, 10} {
			before, level := b.at, b.level
			b.advance(now * second)
			if b.at < before || b.level < level {
				t.Errorf("%d: at %d s the bucket went back", kind, now)
			}
		}
		if b.at != 10*second {
			t.Errorf("%d: the bucket's time is %v", kind, b.at.Sub(0))
		}
		if most := 600 + 10*100.0 + 100; b.level > most {
			t.Errorf("%d: level = %v, above what 10 s refill", kind, b.level)
		}
	}
}

// Where others are thought to use everything nothing is sent, so no header
// comes to deny it: the belief must fade by itself.
func TestBucket_ForeignUseThatNoHeaderConfirmsIsForgotten(t *testing.T) {
	var b bucket
	b.configure(0, minutely(60_000, Continuous), 0)
	b.sync(0, Sample{Remaining: 50_000})
	b.foreign = b.rate
	for now := second; now < 150*second; now += second {
		b.advance(now)
	}
	if got := b.effective(); got < 0.95*b.rate {
		t.Errorf("after two minutes without a header the rate is %v of %v", got, b.rate)
	}
}

// Two ways of charging keep two ledgers: what lies between a sample of one and
// a sample of the other is nobody's use.
func TestBucket_AnotherWayOfChargingIsNoForeignUse(t *testing.T) {
	for family, foreign := range map[profile]bool{reserve: true, postpaid: false} {
		var b bucket
		b.configure(0, minutely(60_000, Continuous), 0)
		b.sync(2*second, Sample{Sent: second, Remaining: 30_000, family: reserve})
		b.sync(5*second, Sample{Sent: 4 * second, Remaining: 10_000, family: family})
		if b.foreign > 0 != foreign {
			t.Errorf("with headers of reserve and %v, foreign use is held to be %.0f tokens a second of %.0f", family, b.foreign, b.rate)
		}
	}
}

func TestBucket_WhatIsJudgedByTheSecondHasNoBurst(t *testing.T) {
	var b bucket
	b.configure(0, Limit{Amount: 600, Period: time.Minute, Refill: Sliding, Paced: true}, 0)
	b.advance(60 * second)
	if b.level > 2 || b.refill != Continuous {
		t.Errorf("level = %v after a minute, want room for one", b.level)
	}
	// The provider turns out to be another.
	b.configure(60*second, minutely(600, Continuous), 0)
	if b.paced {
		t.Error("still paced")
	}
	// What refusals have shown stays.
	for range surprisesMax {
		b.refused(61*second, llm.Requests, Refusal{Signal: &llm.Signal{}, Named: true, Asked: 1})
		b.level = 300
	}
	b.configure(62*second, minutely(900, Sliding), 0)
	if !b.paced || b.limit != 900 {
		t.Errorf("paced: %v, limit %v", b.paced, b.limit)
	}
}

func TestClock_SlotsAreCountedWhetherOrNotTheyAreLimited(t *testing.T) {
	c := NewClock()
	one := llm.Vector{llm.Requests: 1, llm.Concurrent: 1}
	c.Take(0, Ask{Charge: one})
	c.Take(0, Ask{Charge: one})
	c.SetLimit(0, llm.Concurrent, Limit{Amount: 3, Period: time.Second, Refill: Slots})
	if c.Take(0, Ask{Charge: one}); c.Ready(0, Ask{Charge: one}).At != llm.Never {
		t.Error("a fourth goes where three are allowed")
	}
	own := c.part(2) // two of the three are another's now
	if c.Ready(0, Ask{Charge: one}).At != 0 || own.Ready(0, Ask{Charge: one}).At != 0 {
		t.Error("the slots are not counted apart")
	}
	if c.held != 1 || own.held != 2 {
		t.Errorf("held: %v and %v, want 1 and 2", c.held, own.held)
	}
	c.absorb(own, 0)
	if c.Ready(0, Ask{Charge: one}).At != llm.Never {
		t.Error("the slots are not counted together again")
	}
	own.Return(0, 0, llm.Vector{llm.Concurrent: 1}, 0)
	if c.Ready(0, Ask{Charge: one}).At != 0 || c.held != 2 {
		t.Error("what comes back to the one that was absorbed is lost")
	}
}

// TestClock_NoWindowHoldsMoreThanTheLimit: whatever the phase of the provider's own
// minute, a sliding limit lets no more through in any of its length.
func TestClock_NoWindowHoldsMoreThanTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := NewClock()
		c.SetLimit(0, llm.Tokens, Limit{Amount: 6000, Period: time.Minute, Refill: Sliding})
		type taken struct {
			at     llm.Instant
			amount float64
		}
		var all []taken
		now := llm.Instant(0)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, 10e9).Draw(t, "pass")))
			charge := llm.Vector{llm.Tokens: rapid.Float64Range(1, 700).Draw(t, "tokens")}
			if c.Ready(now, Ask{Charge: charge}).At > now {
				continue
			}
			c.Take(now, Ask{Charge: charge})
			all = append(all, taken{now, charge[llm.Tokens]})
			sum := 0.0
			for _, x := range all {
				if now.Sub(x.at) < time.Minute {
					sum += x.amount
				}
			}
			// The first few of a cold start need not wait for the level.
			if most := 6000 + coldRequests*coldPassShare*6000; sum > most {
				t.Fatalf("%v tokens in a minute, at %v", sum, now.Sub(0))
			}
		}
	})
}
