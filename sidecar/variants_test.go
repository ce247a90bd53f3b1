package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// TestVariants_NoClientSeesA429 offers 1.3 times the limit to a provider of each
// family, over HTTP and in virtual time. In so short a run the few 429s of the
// first minute, from which slices and windows are learned, weigh most.
func TestVariants_NoClientSeesA429(t *testing.T) {
	const rpm = 600
	length, warmUp := 8*time.Minute, 3*time.Minute
	if testing.Short() {
		length, warmUp = 2*time.Minute, time.Minute
	}
	for _, test := range []struct {
		name    string
		account provider.AccountConfig
		profile string
		told    bool
		share   float64 // of attempts that may meet a 429
	}{
		{"a: charged at admission", provider.AccountConfig{Variant: provider.Continuous, RPM: rpm, TPM: 120_000}, "openai", true, 0.001},
		{"a': charged per fixed minute", provider.AccountConfig{Variant: provider.Window, RPM: rpm, TPM: 160_000, RPMQuantum: time.Second}, "azure", true, 0.001},
		{"b: reserved and settled", provider.AccountConfig{Variant: provider.Reserve, RPM: rpm, TPM: 90_000}, "auto", false, 0.001},
		{"c: charged by use", provider.AccountConfig{Variant: provider.PostPaid, RPM: rpm, TPM: 90_000}, "auto", false, 0.001},
		{"requests judged by the second", provider.AccountConfig{Variant: provider.Reserve, RPM: rpm, TPM: 10_000_000, RPMQuantum: time.Second}, "auto", false, 0.001},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				settings := []string{"PROVIDER_PROFILE", test.profile}
				if test.told {
					settings = append(settings, "RATE_LIMIT_PER_MIN", fmt.Sprint(rpm), "TOKEN_LIMIT_PER_MIN", fmt.Sprint(test.account.TPM))
				}
				b := newBubble(t, provider.Config{
					Account: test.account, TTFT: 300 * time.Millisecond, TokenInterval: 20 * time.Millisecond, Jitter: 0.5, Seed: 3,
				}, settings...)
				defer b.Stop()
				r := b.overload(t, rpm*1.3, length, warmUp)
				t.Logf("%+v", r)
				if r.client429 != 0 || r.failed != 0 {
					t.Errorf("clients saw %d 429s and %d failures", r.client429, r.failed)
				}
				// Of two minutes, the two or three that a start may cost are more.
				if r.share > test.share && !testing.Short() {
					t.Errorf("%.3f %% of the attempts met a 429, want at most %.1f %%", 100*r.share, 100*test.share)
				}
			})
		})
	}
}

// TestVariants_AutoFollowsTheDialect asks a provider of each dialect, with auto: the
// group must end up charging as that provider does. Good answers tell the dialect,
// and a 429 alone does too.
func TestVariants_AutoFollowsTheDialect(t *testing.T) {
	for _, test := range []struct {
		name    string
		dialect provider.Dialect
		variant provider.Variant
		want    string
	}{
		{"many speak openai's", provider.OpenAI, provider.Continuous, "reserve"},
		{"azure", provider.Azure, provider.Window, "azure"},
		{"anthropic", provider.Anthropic, provider.Reserve, "anthropic"},
		{"a server of one's own", provider.Silent, provider.PostPaid, "reserve"},
	} {
		account := provider.AccountConfig{Variant: test.variant, RPM: 600, TPM: 100_000}
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, provider.Config{Dialect: test.dialect, Account: account})
				defer b.Stop()
				if got := b.profileAfter(t, 1); got != test.want {
					t.Errorf("after a good answer auto charges as %q, want %q", got, test.want)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				// A model has a group of its own once it has answered: the first answer and
				// the last say nothing of the dialect.
				answers := 0
				silent := provider.New(provider.Config{Dialect: provider.Silent, Account: account})
				telling := provider.New(provider.Config{Dialect: test.dialect, Account: account, Faults: []provider.Fault{provider.Throttle(time.Second)}})
				b := handlerBubble(t, func(w http.ResponseWriter, r *http.Request) {
					if answers++; answers == 2 {
						telling.ServeHTTP(w, r)
					} else {
						silent.ServeHTTP(w, r)
					}
				})
				defer b.Stop()
				if got := b.profileAfter(t, 2); got != test.want || telling.Totals().Throttled != 1 {
					t.Errorf("after a 429 auto charges as %q, want %q", got, test.want)
				}
			})
		})
	}
}

// profileAfter makes calls and returns the profile of their model's group.
func (b *bubble) profileAfter(t *testing.T, calls int) string {
	t.Helper()
	for range calls {
		if status, _, text, err := b.Ask(t.Context(), "s", sidecartest.Chat); err != nil || status != 200 {
			t.Fatalf("%d %s %v", status, text, err)
		}
	}
	resp, err := b.Client.Get("http://127.0.0.1/queue/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var status admin.QueueStatus
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		t.Fatal(err)
	}
	for _, g := range status.Groups {
		if g.Name == "gpt-4o" {
			return g.Profile
		}
	}
	t.Fatalf("the model has no group: %+v", status)
	return ""
}

type overloadResult struct {
	attempts, throttled int64
	share               float64
	accepted            float64 // a minute, after warm-up
	tokens              float64 // billed a minute, after warm-up
	client429, failed   int64
}

// overload lets 40 sessions make perMinute calls together for length.
func (b *bubble) overload(t *testing.T, perMinute float64, length, warmUp time.Duration) overloadResult {
	t.Helper()
	const sessions = 40
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	var client429, failed atomic.Int64
	for i := range sessions {
		calls.Go(func() {
			random := rand.New(rand.NewPCG(17, uint64(i)))
			mean := sessions / perMinute * float64(time.Minute)
			for {
				select {
				case <-time.After(time.Duration(random.ExpFloat64() * mean)):
				case <-ctx.Done():
					return
				}
				body := fmt.Sprintf(`{"model":"gpt-4o","max_tokens":%d,"messages":[{"role":"user","content":"%d: %s say %d words"}]}`,
					200+random.IntN(200), random.IntN(1e6), strings.Repeat("fairness ", random.IntN(120)), 20+random.IntN(160))
				calls.Go(func() {
					switch status, _, _, err := b.Ask(ctx, fmt.Sprint("s", i), body); {
					case err != nil && ctx.Err() != nil:
					case err != nil:
						failed.Add(1)
					case status == 429:
						client429.Add(1)
					case status != 200 && status != 503:
						failed.Add(1)
					}
				})
			}
		})
	}
	<-time.After(warmUp)
	warm := b.sim.Totals()
	<-time.After(length - warmUp)
	end := b.sim.Totals()
	cancel()
	calls.Wait()
	minutes := (length - warmUp).Minutes()
	return overloadResult{
		attempts: end.Requests, throttled: end.Throttled, share: float64(end.Throttled) / float64(end.Requests),
		accepted:  float64(end.Accepted-warm.Accepted) / minutes,
		tokens:    float64(end.PromptTokens+end.CompletionTokens-warm.PromptTokens-warm.CompletionTokens) / minutes,
		client429: client429.Load(), failed: failed.Load(),
	}
}
