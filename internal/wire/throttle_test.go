package wire

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

func openAIError(message, typ, code string) string { return string(ErrorBody(message, typ, "", code)) }

// levels is Signal.Levels, for literals.
type levels = [llm.NumDimensions]llm.Level

func TestParseThrottle_Bodies(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name   string
		header http.Header
		body   string
		kind   ThrottleKind
		want   llm.Signal
	}{
		{
			"openai tokens per minute", nil,
			openAIError("Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29937, Requested 385. Please try again in 644ms. Visit https://platform.openai.com/account/rate-limits to learn more.", "tokens", "rate_limit_exceeded"),
			Curable,
			llm.Signal{Dimension: llm.Tokens, Group: "gpt-4o", Limit: 30000, Used: 29937, Requested: 385, RetryAfter: 644 * time.Millisecond, HasRetryAfter: true},
		},
		{
			"openai without the sentence of the wait", nil,
			openAIError("Rate limit reached for gpt-4 (for limit gpt-4-long) in organization org-x on tokens per min (TPM): Limit 30,000, Used 14,567, Requested 24,754.", "tokens", "rate_limit_exceeded"),
			Curable,
			llm.Signal{Dimension: llm.Tokens, Group: "gpt-4-long", Limit: 30000, Used: 14567, Requested: 24754, RetryAfter: 18642 * time.Millisecond, HasRetryAfter: true},
		},
		{
			"openai requests per day", nil,
			openAIError("Rate limit reached for gpt-4o-mini in organization org-x on requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.", "requests", "rate_limit_exceeded"),
			Curable,
			llm.Signal{Dimension: llm.RequestsDay, Group: "gpt-4o-mini", Limit: 200, Used: 200, Requested: 1, RetryAfter: 7*time.Minute + 12*time.Second, HasRetryAfter: true},
		},
		{
			"openai's older form", nil,
			openAIError("Rate limit reached for default-gpt-3.5-turbo in organization org-x on requests per min. Limit: 3 / min. Current: 4 / min. Please try again in 20s.", "requests", ""),
			Curable,
			llm.Signal{Dimension: llm.Requests, Group: "default-gpt-3.5-turbo", Limit: 3, Used: 4, RetryAfter: 20 * time.Second, HasRetryAfter: true},
		},
		{
			"openai too large", nil,
			openAIError("Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 30601. The input or output tokens must be reduced in order to run successfully.", "tokens", "rate_limit_exceeded"),
			TooLarge,
			llm.Signal{Dimension: llm.Tokens, Group: "gpt-4o", Limit: 30000, Requested: 30601},
		},
		{
			"openai quota", nil,
			openAIError("You exceeded your current quota, please check your plan and billing details.", "insufficient_quota", "insufficient_quota"),
			Quota,
			llm.Signal{},
		},
		{
			"headers come before the message",
			http.Header{"Retry-After-Ms": {"700"}, "Retry-After": {"1"}},
			openAIError("Please try again in 20s.", "", "rate_limit_exceeded"),
			Curable,
			llm.Signal{RetryAfter: 700 * time.Millisecond, HasRetryAfter: true},
		},
		{
			"azure",
			http.Header{"Retry-After": {"45"}},
			`{"error":{"code":"429","message":"Your requests to gpt-4.1-nano for gpt-4.1-nano in Sweden Central have exceeded the token rate limit for your current AIServices S0 pricing tier. Please retry after 46 seconds."}}`,
			Curable,
			llm.Signal{Dimension: llm.Tokens, Group: "gpt-4.1-nano", RetryAfter: 45 * time.Second, HasRetryAfter: true},
		},
		{
			"azure without headers", nil,
			`{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation have exceeded call rate limit of your current OpenAI S0 pricing tier. Please retry after 3 seconds."}}`,
			Curable,
			llm.Signal{Dimension: llm.Requests, RetryAfter: 3 * time.Second, HasRetryAfter: true},
		},
		{
			"azure with a reset header only",
			http.Header{"X-Rate-Limit-Reset-Tokens": {"12"}, "X-Ratelimit-Remaining-Requests": {"-1"}},
			`{"error":{"code":"429","message":"Exceeded token rate limit."}}`,
			Curable,
			llm.Signal{Levels: levels{llm.Tokens: {Reset: 12 * time.Second, HasReset: true}}, Dimension: llm.Tokens, RetryAfter: 12 * time.Second, HasRetryAfter: true},
		},
		{
			"groq", nil,
			openAIError("Rate limit reached for model `llama-3.2-90b` in organization `org_xxx` on tokens per minute (TPM): Limit 7000, Used 6148, Requested ~6895. Please try again in 1m0.363142857s. Visit https://console.groq.com/docs/rate-limits for more information.", "tokens", "rate_limit_exceeded"),
			Curable,
			llm.Signal{Dimension: llm.Tokens, Group: "llama-3.2-90b", Limit: 7000, Used: 6148, Requested: 6895, RetryAfter: 60363142857 * time.Nanosecond, HasRetryAfter: true},
		},
		{
			"groq promises what time cannot give", nil,
			openAIError("Rate limit reached for model `m` in organization `o` on tokens per minute (TPM): Limit 7000, Used 0, Requested ~12903. Please try again in 50s.", "tokens", "rate_limit_exceeded"),
			TooLarge,
			llm.Signal{Dimension: llm.Tokens, Group: "m", Limit: 7000, Requested: 12903, RetryAfter: 50 * time.Second, HasRetryAfter: true},
		},
		{
			"anthropic",
			http.Header{"Retry-After": {"12"}},
			`{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit of 30,000 input tokens per minute (org: x, model: claude-sonnet-4-6)."}}`,
			Curable,
			llm.Signal{Dimension: llm.InputTokens, Group: "claude-sonnet-4-6", Limit: 30000, RetryAfter: 12 * time.Second, HasRetryAfter: true},
		},
		{
			"google", nil,
			`[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"x"},{"@type":"RetryInfo","retryDelay":"34.5s"}]}}]`,
			Curable,
			llm.Signal{RetryAfter: 34500 * time.Millisecond, HasRetryAfter: true},
		},
		{
			"mistral", nil,
			`{"object":"error","message":"Requests rate limit exceeded","type":"rate_limited","param":null,"code":"1300"}`,
			Curable,
			llm.Signal{},
		},
		{"text", nil, "Too Many Requests", Curable, llm.Signal{}},
		{"a string", nil, `{"error":"Too many concurrent requests"}`, Curable, llm.Signal{Dimension: llm.Concurrent}},
		{"nothing", nil, "", Curable, llm.Signal{}},
		{
			"overloaded with a hint",
			http.Header{"Retry-After": {"1.5"}},
			`{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`,
			Curable,
			llm.Signal{RetryAfter: 1500 * time.Millisecond, HasRetryAfter: true},
		},
		{
			"absurd numbers",
			http.Header{"Retry-After": {"99999999999"}},
			openAIError("Limit 99999999999999999999, Used -5. Please try again in 99999999999d.", "", ""),
			Curable,
			llm.Signal{},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kind, got := ParseThrottle("", tt.header, []byte(tt.body), now)
			if kind != tt.kind {
				t.Errorf("kind %v, want %v", kind, tt.kind)
			}
			if got.Said == "" && tt.body != "" {
				t.Error("nothing of it can be quoted")
			}
			got.Said, got.Period = "", 0 // see the tests of their own
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestParseRateLimit_Headers(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	limit := func(limit, remaining int64, reset time.Duration) llm.Level {
		return llm.Level{Limit: limit, Remaining: remaining, Reset: reset, HasLimit: true, HasRemaining: true, HasReset: true}
	}
	of := func(period time.Duration, l llm.Level) llm.Level {
		l.Period = period
		return l
	}
	tests := []struct {
		name   string
		header map[string]string
		want   llm.Signal
	}{
		{"none", map[string]string{"Content-Type": "text/html", "X-Upload-Limit": "5"}, llm.Signal{}},
		{"openai", map[string]string{
			"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499", "x-ratelimit-reset-requests": "120ms",
			"x-ratelimit-limit-tokens": "30000", "x-ratelimit-remaining-tokens": "12000", "x-ratelimit-reset-tokens": "36s",
		}, llm.Signal{Levels: levels{llm.Requests: limit(500, 499, 120*time.Millisecond), llm.Tokens: limit(30000, 12000, 36*time.Second)}}},
		{"openai's daily requests", map[string]string{
			"x-ratelimit-limit-requests": "10000", "x-ratelimit-remaining-requests": "9999", "x-ratelimit-reset-requests": "8.64s",
		}, llm.Signal{Levels: levels{llm.RequestsDay: limit(10000, 9999, 8640*time.Millisecond)}}},
		{"groq's daily requests", map[string]string{
			"x-ratelimit-limit-requests": "14400", "x-ratelimit-remaining-requests": "14370", "x-ratelimit-reset-requests": "2m59.56s",
			"x-ratelimit-limit-tokens": "18000", "x-ratelimit-remaining-tokens": "17997", "x-ratelimit-reset-tokens": "7.66ms", "retry-after": "2",
		}, llm.Signal{Levels: levels{
			llm.RequestsDay: limit(14400, 14370, 179560*time.Millisecond), llm.Tokens: limit(18000, 17997, 7660*time.Microsecond),
		}, RetryAfter: 2 * time.Second, HasRetryAfter: true}},
		{
			"azure",
			map[string]string{"x-ratelimit-remaining-requests": "-1", "x-ratelimit-remaining-tokens": "0", "x-rate-limit-reset-tokens": "17"},
			llm.Signal{Levels: levels{llm.Tokens: llm.Level{HasRemaining: true, HasReset: true, Reset: 17 * time.Second}}},
		},
		{"anthropic", map[string]string{
			"anthropic-ratelimit-input-tokens-limit": "30000", "anthropic-ratelimit-input-tokens-remaining": "29000", "anthropic-ratelimit-input-tokens-reset": "2026-03-01T12:00:02Z",
			"anthropic-ratelimit-output-tokens-remaining": "8000", "anthropic-ratelimit-requests-reset": "2026-03-01T11:59:59Z",
		}, llm.Signal{Profile: "anthropic", Levels: levels{
			llm.InputTokens: limit(30000, 29000, 2*time.Second), llm.OutputTokens: llm.Level{Remaining: 8000, HasRemaining: true}, llm.Requests: llm.Level{HasReset: true},
		}}},
		{"cerebras", map[string]string{
			"x-ratelimit-limit-requests-day": "1440", "x-ratelimit-remaining-requests-day": "1437", "x-ratelimit-reset-requests-day": "12345.5",
			"x-ratelimit-limit-tokens-minute": "60000", "x-ratelimit-remaining-tokens-minute": "59000", "x-ratelimit-reset-tokens-minute": "30.25",
			"x-ratelimit-limit-requests-hour": "3", "x-ratelimit-limit-tokens-day": "1000000",
		}, llm.Signal{Levels: levels{
			llm.RequestsDay: limit(1440, 1437, 12345500*time.Millisecond), llm.Tokens: of(time.Minute, limit(60000, 59000, 30250*time.Millisecond)),
			llm.Requests:  {Limit: 3, HasLimit: true, Period: time.Hour},
			llm.TokensDay: llm.Level{Limit: 1000000, HasLimit: true},
		}}},
		{
			"openrouter",
			map[string]string{"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "1772366430000"},
			llm.Signal{Levels: levels{llm.Requests: limit(20, 3, 30*time.Second)}},
		},
		{
			"the draft standard",
			map[string]string{"RateLimit-Limit": "100, 100;w=60", "RateLimit-Remaining": "40", "RateLimit-Reset": "36"},
			llm.Signal{Levels: levels{llm.Requests: limit(100, 40, 36*time.Second)}},
		},
		{"mistral, fireworks, together", map[string]string{
			"x-ratelimit-limit-req-minute": "60", "x-ratelimit-limit-tokens-prompt": "5", "x-ratelimit-limit-tokens-generated": "6", "x-tokenlimit-remaining": "7",
		}, llm.Signal{Levels: levels{
			llm.Requests: llm.Level{Limit: 60, HasLimit: true}, llm.InputTokens: llm.Level{Limit: 5, HasLimit: true}, llm.OutputTokens: llm.Level{Limit: 6, HasLimit: true},
			llm.Tokens: llm.Level{Remaining: 7, HasRemaining: true},
		}}},
		{
			"two names for one number",
			map[string]string{"x-ratelimit-remaining-tokens": "9", "x-ratelimit-remaining-tokens-minute": "5"},
			llm.Signal{Levels: levels{llm.Tokens: llm.Level{Remaining: 5, HasRemaining: true}}},
		},
		{"nonsense", map[string]string{
			"x-ratelimit-limit-tokens": "0", "x-ratelimit-remaining-tokens": "99999999999999999999", "x-ratelimit-reset-tokens": "99999h",
			"x-ratelimit-limit-requests": "NaN", "x-ratelimit-remaining-requests": "Inf", "x-ratelimit-reset-requests": "-5s", "retry-after": "soon", "retry-after-ms": "-1",
			"x-ratelimit-limit-project-tokens": "7", "x-ratelimit-remaining-images": "7",
		}, llm.Signal{}},
		{"retry-after as a date", map[string]string{"Retry-After": "Sun, 01 Mar 2026 12:00:07 GMT"}, llm.Signal{RetryAfter: 7 * time.Second, HasRetryAfter: true}},
		{"retry-after in the past", map[string]string{"Retry-After": "Sun, 01 Mar 2026 11:00:07 GMT"}, llm.Signal{HasRetryAfter: true}},
		{"retry-after as a duration", map[string]string{"Retry-After": "2m1s"}, llm.Signal{RetryAfter: 121 * time.Second, HasRetryAfter: true}},
	}
	for _, tt := range tests {
		for _, canonical := range []bool{true, false} {
			h := http.Header{}
			for k, v := range tt.header {
				if canonical || strings.HasPrefix(strings.ToLower(k), "retry") {
					h.Set(k, v)
				} else {
					h[k] = []string{v}
				}
			}
			got := ParseRateLimit("", h, now)
			for d := range got.Levels {
				if minute := got.Levels[d].Period == time.Minute; (minute || llm.Dimension(d).Daily()) && tt.want.Levels[d].Period == 0 {
					got.Levels[d].Period = 0 // it goes without saying
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s: -want +got\n%s", tt.name, diff)
			}
		}
	}
}

func TestRetryAfter_ReadsWhatProvidersSend(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		header http.Header
		want   time.Duration
		ok     bool
	}{
		{nil, 0, false},
		{http.Header{"Retry-After": {"2"}}, 2 * time.Second, true},
		{http.Header{"Retry-After": {" 0.5 "}}, 500 * time.Millisecond, true},
		{http.Header{"Retry-After-Ms": {"1500"}, "Retry-After": {"9"}}, 1500 * time.Millisecond, true},
		{http.Header{"Retry-After-Ms": {"-1"}, "Retry-After": {"9"}}, 9 * time.Second, true},
		{http.Header{"Retry-After": {now.Add(3 * time.Second).Format(http.TimeFormat)}}, 3 * time.Second, true},
		{http.Header{"Retry-After": {now.Add(3 * time.Second).Format(time.RFC3339)}}, 3 * time.Second, true},
		{http.Header{"Retry-After": {now.Add(-time.Hour).Format(http.TimeFormat)}}, 0, true},
		{http.Header{"Retry-After": {"soon"}}, 0, false},
		{http.Header{"Retry-After": {"-1"}}, 0, false},
		{http.Header{"Retry-After": {"NaN"}, "Retry-After-Ms": {"Inf"}}, 0, false},
		{http.Header{"Retry-After": {"Fri, 31 Dec 9999 23:59:59 GMT"}}, 0, false},
	} {
		if got, ok := RetryAfter(tt.header, now); got != tt.want || ok != tt.ok {
			t.Errorf("%v: %v %v, want %v %v", tt.header, got, ok, tt.want, tt.ok)
		}
	}
}

func TestLevel_WindowIsWhatTheResetImplies(t *testing.T) {
	l := llm.Level{Limit: 500, Remaining: 400, Reset: 12 * time.Second, HasLimit: true, HasRemaining: true, HasReset: true}
	if got := window(&l); got != time.Minute {
		t.Errorf("window %v, want 1m", got)
	}
	if got := window(&llm.Level{Limit: 5, HasLimit: true}); got != 0 {
		t.Errorf("window of an unknown level %v", got)
	}
}

func TestErrorBody_IsOpenAIShaped(t *testing.T) {
	got := string(ErrorBody("a \"b\"\n", "server_error", "", "queue_full"))
	if want := `{"error":{"message":"a \"b\"\n","type":"server_error","param":null,"code":"queue_full"}}`; got != want {
		t.Errorf("got %s", got)
	}
	if !json.Valid(ErrorBody("\xff", "", "p", "")) {
		t.Error("not JSON")
	}
}
