package provider

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// TestAccount_PublishedExamples holds the bucket against error texts that users of
// OpenAI posted in public issue threads: BuilderIO/micro-agent#86,
// MetaGPT#523 and semanser/codel#72.
func TestAccount_PublishedExamples(t *testing.T) {
	for _, tt := range []struct {
		limit, used, requested int64
		want                   string
	}{
		{30000, 29937, 385, "644ms"},
		{10000, 8554, 3082, "9.816s"},
		{30000, 14567, 24754, "18.642s"},
	} {
		t.Run(fmt.Sprintf("limit %d used %d requested %d says %s", tt.limit, tt.used, tt.requested, tt.want), func(t *testing.T) {
			a := NewAccount(AccountConfig{TPM: tt.limit})
			if v := a.Admit(epoch, Ask{MaxOutput: tt.used}); !v.OK {
				t.Fatalf("full account refused %d: %+v", tt.used, v)
			}
			v := a.Admit(epoch, Ask{MaxOutput: tt.requested})
			if v.OK || v.Permanent {
				t.Fatalf("verdict = %+v, want a refusal that waiting cures", v)
			}
			if got := duration(v.RetryAfter); got != tt.want {
				t.Errorf("retry after %s, want %s", got, tt.want)
			}
			if v.Limit != tt.limit || v.Used != tt.used || v.Requested != tt.requested || v.Dimension != "tokens" {
				t.Errorf("told Limit %d, Used %d, Requested %d on %s", v.Limit, v.Used, v.Requested, v.Dimension)
			}
			if early := a.Admit(epoch.Add(v.RetryAfter-time.Microsecond), Ask{MaxOutput: tt.requested}); early.OK {
				t.Errorf("admitted 1 µs before the time told")
			}
			if late := a.Admit(epoch.Add(v.RetryAfter), Ask{MaxOutput: tt.requested}); !late.OK {
				t.Errorf("refused at the time told: %+v", late)
			}
		})
	}
}

func TestAccount_Variants(t *testing.T) {
	ask := Ask{Input: 100, Chars: 480, MaxOutput: 300, N: 2}
	used := Used{Input: 100, Cached: 40, Output: 50}
	for _, tt := range []struct {
		name            string
		cfg             AccountConfig
		admitted, after int64 // tokens gone after admission and after settlement
	}{
		{"continuous charges the larger of max_tokens and characters, for good", AccountConfig{}, 600, 600},
		{"window charges the sum, for good", AccountConfig{Variant: Window}, 720, 720},
		{"reserve settles to the real usage", AccountConfig{Variant: Reserve}, 700, 150},
		{"reserve can leave cached tokens free", AccountConfig{Variant: Reserve, CachedFree: true}, 700, 110},
		{"postpaid charges at the end", AccountConfig{Variant: PostPaid}, 0, 150},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.TPM = 10000
			a := NewAccount(tt.cfg)
			if v := a.Admit(epoch, ask); !v.OK || v.Tokens.Remaining != 10000-tt.admitted {
				t.Errorf("after admission %+v, want %d gone", v, tt.admitted)
			}
			a.Settle(epoch, ask, used)
			if left := a.Levels(epoch).Tokens.Remaining; left != 10000-tt.after {
				t.Errorf("after settlement %d left, want %d gone", left, tt.after)
			}
		})
	}
	t.Run("without max_tokens continuous charges the characters alone", func(t *testing.T) {
		a := NewAccount(AccountConfig{TPM: 10000})
		if v := a.Admit(epoch, Ask{Input: 9, Chars: 41}); v.Charged != 11 {
			t.Errorf("charged %d, want 11", v.Charged)
		}
	})
	t.Run("without max_tokens reserve takes the default", func(t *testing.T) {
		a := NewAccount(AccountConfig{TPM: 10000, Variant: Reserve})
		if v := a.Admit(epoch, Ask{Input: 9}); v.Charged != 9+4096 {
			t.Errorf("charged %d, want %d", v.Charged, 9+4096)
		}
	})
	t.Run("postpaid goes into debt and admits nobody until it is paid", func(t *testing.T) {
		a := NewAccount(AccountConfig{TPM: 6000, Variant: PostPaid})
		a.Admit(epoch, ask)
		a.Settle(epoch, ask, Used{Output: 6500})
		v := a.Admit(epoch, ask)
		if want := 5010 * time.Millisecond; v.OK || v.RetryAfter != want || v.Tokens.Remaining != 0 || v.Used != 6500 {
			t.Errorf("verdict = %+v, want to wait %v", v, want)
		}
	})
}

func TestAccount_Limits(t *testing.T) {
	admit := func(a *Account, at time.Duration) Verdict { return a.Admit(epoch.Add(at), Ask{Input: 10}) }
	t.Run("requests are a bucket of their own", func(t *testing.T) {
		a := NewAccount(AccountConfig{RPM: 2, TPM: 1000})
		admit(a, 0)
		admit(a, 0)
		v := admit(a, 10*time.Second)
		if v.OK || v.Dimension != "requests" || v.RetryAfter != 20*time.Second || v.Limit != 2 || v.Used != 2 || v.Requested != 1 {
			t.Errorf("verdict = %+v", v)
		}
		if v := admit(a, 30*time.Second); !v.OK {
			t.Errorf("refused when refilled: %+v", v)
		}
	})
	t.Run("a refusal charges nothing, unless refusals count", func(t *testing.T) {
		for _, count := range []bool{false, true} {
			a := NewAccount(AccountConfig{RPM: 10, TPM: 100, CountRefused: count})
			a.Admit(epoch, Ask{Input: 100})
			v := a.Admit(epoch, Ask{Input: 100})
			want := map[bool]int64{false: 9, true: 8}[count]
			if v.OK || v.Requests.Remaining != want || v.Tokens.Remaining != 0 {
				t.Errorf("count refused %v: %+v, want %d requests left", count, v, want)
			}
		}
	})
	t.Run("more than the capacity is refused for ever", func(t *testing.T) {
		a := NewAccount(AccountConfig{TPM: 30000, Burst: 6 * time.Second})
		if v := a.Admit(epoch, Ask{MaxOutput: 3001}); !v.Permanent || v.OK || v.Requested != 3001 {
			t.Errorf("verdict = %+v", v)
		}
		if v := a.Admit(epoch, Ask{MaxOutput: 3000}); !v.OK {
			t.Errorf("the capacity itself was refused: %+v", v)
		}
	})
	t.Run("slices of a second admit their part", func(t *testing.T) {
		a := NewAccount(AccountConfig{RPM: 600, RPMQuantum: time.Second})
		for i := range 10 {
			if v := admit(a, 300*time.Millisecond); !v.OK {
				t.Fatalf("request %d: %+v", i+1, v)
			}
		}
		v := admit(a, 400*time.Millisecond)
		if v.OK || v.RetryAfter != 600*time.Millisecond || v.Used != v.Limit {
			t.Errorf("11th request of the second: %+v", v)
		}
		if v := admit(a, time.Second); !v.OK {
			t.Errorf("first of the next second: %+v", v)
		}
	})
	t.Run("a window resets on the minute", func(t *testing.T) {
		a := NewAccount(AccountConfig{TPM: 1000, Variant: Window, DefaultMaxTokens: 90})
		for range 10 {
			admit(a, 50*time.Second)
		}
		if v := admit(a, 50*time.Second); v.OK || v.RetryAfter != 10*time.Second {
			t.Errorf("verdict = %+v", v)
		}
		if v := admit(a, 60*time.Second); !v.OK || v.Tokens.Remaining != 900 {
			t.Errorf("verdict = %+v", v)
		}
	})
	t.Run("input and output tokens are limited apart", func(t *testing.T) {
		a := NewAccount(AccountConfig{ITPM: 1000, OTPM: 500, Variant: Reserve})
		ask := Ask{Input: 100, MaxOutput: 400}
		a.Admit(epoch, ask)
		if v := a.Admit(epoch, ask); v.OK || v.Dimension != "output_tokens" {
			t.Errorf("verdict = %+v", v)
		}
		a.Settle(epoch, ask, Used{Input: 100, Output: 10})
		if v := a.Admit(epoch, ask); !v.OK {
			t.Errorf("verdict after settlement = %+v", v)
		}
	})
	t.Run("refill is exact over many steps shorter than its unit", func(t *testing.T) {
		a := NewAccount(AccountConfig{TPM: unit}) // one token a microsecond
		a.Admit(epoch, Ask{Input: unit})
		now := epoch
		for range 1000 {
			now = now.Add(1500 * time.Nanosecond)
			a.Levels(now)
		}
		if left := a.Levels(now).Tokens.Remaining; left != 1500 {
			t.Errorf("%d tokens after 1.5 ms, want 1500", left)
		}
	})
	t.Run("days are windows", func(t *testing.T) {
		a := NewAccount(AccountConfig{RPM: 100, RPD: 1})
		admit(a, 0)
		if v := admit(a, 0); v.OK || v.Per != "day" || v.RetryAfter != 12*time.Hour {
			t.Errorf("verdict = %+v", v)
		}
	})
}

func TestAccount_ForeignUse(t *testing.T) {
	a := NewAccount(AccountConfig{RPM: 600, TPM: 60000, Foreign: Foreign{Share: 0.3, After: time.Minute, Seed: 1}})
	own := func(from, to time.Duration) (n int) {
		for at := from; at < to; at += 10 * time.Millisecond {
			if a.Admit(epoch.Add(at), Ask{Input: 1}).OK {
				n++
			}
		}
		return n
	}
	if n := own(0, time.Minute); n < 1190 {
		t.Errorf("alone: %d of 1200 admitted", n)
	}
	if n := own(time.Minute, 11*time.Minute); n < 4000 || n > 4700 {
		t.Errorf("beside 30 %% of others: %d of 6000 admitted, want about 4200", n)
	}
}

// TestAccount_Conserves: nothing is admitted beyond capacity and refill in any window,
// and whoever waits as told is admitted when nobody else comes.
func TestAccount_Conserves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := AccountConfig{
			RPM:     rapid.Int64Range(1, 100).Draw(t, "rpm"),
			TPM:     rapid.Int64Range(100, 1_000_000).Draw(t, "tpm"),
			Variant: rapid.SampledFrom([]Variant{Continuous, Reserve}).Draw(t, "variant"),
			Burst:   rapid.SampledFrom([]time.Duration{0, time.Second, 15 * time.Second}).Draw(t, "burst"),
		}
		a := NewAccount(cfg)
		type grant struct {
			at     time.Duration
			tokens int64
		}
		var grants []grant
		var now time.Duration
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "step"))
			ask := Ask{Input: rapid.Int64Range(1, 2000).Draw(t, "input"), MaxOutput: rapid.Int64Range(1, 2000).Draw(t, "max")}
			v := a.Admit(epoch.Add(now), ask)
			if v.OK {
				grants = append(grants, grant{now, v.Charged})
				continue
			}
			if v.Permanent {
				continue
			}
			now += v.RetryAfter
			if v = a.Admit(epoch.Add(now), ask); !v.OK {
				t.Fatalf("refused after waiting as told: %+v", v)
			}
			grants = append(grants, grant{now, v.Charged})
		}
		capacity := scale(cfg.TPM, a.cfg.Burst)
		for i := range grants {
			var sum int64
			for j := i; j < len(grants); j++ {
				sum += grants[j].tokens
				most := float64(capacity) + float64(cfg.TPM)*(grants[j].at-grants[i].at).Minutes()
				if float64(sum) > most+1 {
					t.Fatalf("%d tokens granted from %v to %v, at most %.0f exist", sum, grants[i].at, grants[j].at, most)
				}
			}
		}
	})
}

func BenchmarkAccount_Admit(b *testing.B) {
	a := NewAccount(AccountConfig{RPM: 1e9, TPM: 1e10})
	now := epoch
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Microsecond)
		a.Admit(now, Ask{Input: 10, MaxOutput: 10})
	}
}
