package limit

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

func TestConfig_ValidateNamesEveryFaultAtOnce(t *testing.T) {
	bad := Config{
		Global: Limits{RequestsPerMinute: -1, TokensPerMinute: 1000, TokensPerDay: 999, Concurrent: -3},
		Models: []ModelLimits{
			{Pattern: "", Profile: "bedrock"},
			{Pattern: "[", Limits: Limits{RequestsPerMinute: 60, RequestsPerDay: 59, InputTokensPerMinute: -1, OutputTokensPerMinute: math.MinInt64}},
		},
		Share: 1.5, Profile: "openai ",
		MaxWait: -1, MaxWaiting: -1, MaxWaitingBytes: -1, MaxWaitingTokens: -1, MaxAttempts: -1,
	}
	err := bad.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	faults := strings.Split(err.Error(), "\n")
	for _, key := range []string{
		"global.requests_per_minute:", "global.tokens_per_day:", "global.concurrent:", "share:", "profile:",
		"models[0].pattern:", "models[0].profile:", "models[1].pattern:", "models[1].requests_per_day:",
		"models[1].input_tokens_per_minute:", "models[1].output_tokens_per_minute:",
		"max_wait:", "max_waiting:", "max_waiting_bytes:", "max_waiting_tokens:", "max_attempts:",
	} {
		named := 0
		for _, fault := range faults {
			if strings.HasPrefix(fault, key) {
				named++
			}
		}
		if named != 1 {
			t.Errorf("%s is named %d times in\n%v", key, named, err)
		}
	}
	for _, share := range []float64{math.NaN(), math.Inf(1), -0.1} {
		if (Config{Share: share}).Validate() == nil {
			t.Errorf("share %v is accepted", share)
		}
	}
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("the zero value: %v", err)
	}
	l := New(Config{})
	defer l.Close()
	if err := l.Reconfigure(bad); err == nil {
		t.Error("Reconfigure takes it")
	}
}

// TestCore_AbsurdRequestsHarmNobody: whatever a header or an estimate says, no
// tag or sum goes wrong, everybody is served, and what was charged is positive.
func TestCore_AbsurdRequestsHarmNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCore(Config{MaxWaiting: 100, Models: []ModelLimits{{Pattern: "*", Limits: Limits{RequestsPerMinute: 600, TokensPerMinute: 60_000}}}}.withDefaults(), 0)
		odd := rapid.SampledFrom([]float64{0, 1, -1, math.NaN(), math.Inf(1), math.Inf(-1), 1e308, 5e-324, 0.1, 100})
		big := rapid.SampledFrom([]int64{0, 1, -1, 300, math.MaxInt32, math.MinInt32})
		span := rapid.SampledFrom([]time.Duration{0, -time.Hour, 1, time.Second, 1000 * time.Hour, math.MaxInt64, math.MinInt64})
		now, waiters := llm.Instant(0), 0
		finish := func(le *Lease) {
			if v := le.held.ticket.Charge(); v[llm.Tokens] < 0 || v[llm.InputTokens] < 0 || v[llm.OutputTokens] < 0 {
				t.Fatalf("charged %+v", v)
			}
			c.sent(le, now)
			c.settle(le, llm.Usage{Input: big.Draw(t, "used"), Cached: big.Draw(t, "cached"), Output: big.Draw(t, "made")}, now)
		}
		serve := func() {
			for _, le := range drainDone(c, now) {
				waiters--
				if le.state == granted {
					finish(le)
				}
			}
		}
		for range rapid.IntRange(1, 20).Draw(t, "requests") {
			r := Request{
				Model: "m", Session: rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "session"),
				Weight: odd.Draw(t, "weight"), ClientWeight: odd.Draw(t, "client weight"), Priority: Priority(rapid.Int8().Draw(t, "priority")),
				Demand:  llm.Demand{Input: big.Draw(t, "input"), Output: big.Draw(t, "output"), MaxOutput: big.Draw(t, "cap"), Chars: big.Draw(t, "chars")},
				Bytes:   big.Draw(t, "bytes"),
				MaxWait: span.Draw(t, "max wait"), Timeout: span.Draw(t, "timeout"), RetryCount: int(big.Draw(t, "retry")), RetryKey: 7,
			}
			maxWait := c.patience(&r, now)
			if maxWait < 0 || maxWait > defaultMaxWait {
				t.Fatalf("may wait %v", maxWait)
			}
			if le, rejected := arrive(c, r, maxWait, now); rejected == nil {
				if waiters++; le.state == granted {
					waiters--
					finish(le)
				}
			}
			serve()
			now = now.Add(time.Duration(rapid.Int64Range(0, 3e9).Draw(t, "pass")))
		}
		for n := 0; waiters > 0; n++ {
			if n > 50_000 { // large ones save up in many small instalments
				t.Fatalf("%d wait for ever", waiters)
			}
			now = max(now, c.next())
			serve()
		}
		for client := range c.model("m", now).queue.Clients() {
			for s := range client.Sessions() {
				if lag := s.Lag() + client.Lag(); math.IsNaN(lag) || math.IsInf(lag, 0) || s.Sum != (llm.Load{}) || s.InFlight < 0 || client.Sum != (llm.Load{}) {
					t.Fatalf("%q: lag %v, %d in flight, sum %v", s.Name, lag, s.InFlight, s.Sum)
				}
			}
		}
		if c.waiting != 0 || c.bytes != 0 || c.sum != (llm.Load{}) || c.inflight != 0 {
			t.Fatalf("%d waiting, %d bytes, %v, %d in flight", c.waiting, c.bytes, c.sum, c.inflight)
		}
	})
}
