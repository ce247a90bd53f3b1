package limit

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestMeters_ATryThatFailsLeavesNoTrace: all limits at once, or none.
func TestMeters_ATryThatFailsLeavesNoTrace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m meters
		m.attach()
		kind := rapid.SampledFrom([]refill{continuous, sliding}).Draw(t, "refill")
		m.configure(0, Limits{RequestsPerMinute: 60, TokensPerMinute: 6000, RequestsPerDay: 1000, Concurrent: 4}.vector(), 1, kind)
		if rapid.Bool().Draw(t, "paced") {
			m[dimRequests].pace()
		}
		now := instant(0)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			now = now.add(time.Duration(rapid.Int64Range(0, 5e9).Draw(t, "pass")))
			c := charge{tokens: rapid.Int64Range(0, 8000).Draw(t, "tokens")}
			for d := range m {
				if m[d].on {
					m[d].advance(now)
				}
			}
			ready, _ := m.ready(now, c)
			before, rings := m, [2]float64{}
			for i, d := range []dimension{dimRequests, dimTokens} {
				if r := m[d].ring; r != nil {
					rings[i] = r.sum
				}
			}
			share, ok := m.tryTake(now, c)
			if ok != (ready <= now) {
				t.Fatalf("tryTake says %v, ready says %v", ok, ready.sub(now))
			}
			if ok {
				if want := before.share(c); share != want {
					t.Fatalf("share %v, want %v", share, want)
				}
				continue
			}
			for d := range m {
				a, b := &before[d], &m[d]
				if math.Abs(a.level-b.level) > 1e-6 || a.spent != b.spent || a.booked != b.booked || a.passes != b.passes {
					t.Fatalf("%v: level %v spent %v booked %v passes %d, before the try %v %v %v %d", dimension(d),
						b.level, b.spent, b.booked, b.passes, a.level, a.spent, a.booked, a.passes)
				}
				if b.ring != nil && d < 2 && math.Abs(b.ring.sum-rings[d]) > 1e-6 {
					t.Fatalf("%v: the ring has %v, before the try %v", dimension(d), b.ring.sum, rings[d])
				}
			}
		}
	})
}

// TestBucket_RefundsNeedNoClock: a refund that comes before the refill is worth
// the same as one that comes after, full buckets included.
func TestBucket_RefundsNeedNoClock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a, b bucket
		a.configure(0, 6000, continuous, time.Minute)
		b.configure(0, 6000, continuous, time.Minute)
		now := instant(0)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.add(time.Duration(rapid.Int64Range(0, 40e9).Draw(t, "pass")))
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
