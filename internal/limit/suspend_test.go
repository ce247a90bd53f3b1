package limit

import (
	"fmt"
	"testing"
	"time"
)

// TestSimulation_ASleepTeachesNothing suspends the sidecar's machine at twice
// the load. The provider refills meanwhile, our clock stands still, and the
// first header after it fits none of the ledgers. With these seeds it once made
// auto believe a wrong way of charging, and an overflow of foreign use after
// that, for minutes.
func TestSimulation_ASleepTeachesNothing(t *testing.T) {
	for _, n := range []uint64{1, 5, 9} {
		for _, sleep := range []time.Duration{3 * time.Second, 20 * time.Second, time.Minute} {
			t.Run(fmt.Sprint("seed ", n, ", ", sleep), func(t *testing.T) {
				r := simulation{cfg: allLearned, account: accountA, suspend: sleep, load: 2, seed: firstSeed + n}.run()
				if r.util < 0.97 || r.share() > 0.001 {
					t.Errorf("%.1f %% used, %.3f %% 429s", 100*r.util, 100*r.share())
				}
			})
		}
	}
}

// confirmed is a core with a group that a header has told a limit of 60,000
// tokens a minute.
func confirmed(t *testing.T) (*core, *bucket) {
	t.Helper()
	c := newCore(Config{Learn: true, MaxWaiting: 1000}.withDefaults(), 0)
	c.confirm("m", 0)
	c.observe(take(t, c, ask("m", "s"), 0), tokensLeft(50_000), second/2)
	return c, &c.groups["m"].meters[dimTokens]
}

func tokensLeft(n int64) *Signal {
	return &Signal{Tokens: Level{Limit: 60_000, Remaining: n, HasLimit: true, HasRemaining: true}}
}

// Where others are thought to use everything nothing is sent, so no header
// comes to deny it: the belief must fade by itself.
func TestCore_ForeignUseThatNoHeaderConfirmsIsForgotten(t *testing.T) {
	_, b := confirmed(t)
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
func TestCore_AnotherWayOfChargingIsNoForeignUse(t *testing.T) {
	c, b := confirmed(t)
	b.lower(second, 30_000)
	var old, young []*grant
	for range 20 {
		old = append(old, take(t, c, ask("m", "s"), second))
	}
	c.observe(old[0], tokensLeft(30_000), 2*second)
	c.become(c.groups["m"], postpaid, 2*second)
	for range 3 {
		young = append(young, take(t, c, ask("m", "s"), 4*second))
	}
	// Nothing of what is on the way has been booked, says the new ledger.
	c.observe(young[2], tokensLeft(30_000), 5*second)
	if b.foreign > 0 {
		t.Errorf("foreign use is held to be %.0f tokens a second of %.0f", b.foreign, b.rate)
	}
}
