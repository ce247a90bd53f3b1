package wire

import (
	"net/http"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// The bodies are those that providers and gateways are reported to send. What they say
// has to be understood wherever in the body it stands.
func TestParseThrottle_WhatWaitingDoesNotCure(t *testing.T) {
	for _, body := range []string{
		openAIError("You exceeded your current quota, please check your plan and billing details.", "insufficient_quota", "insufficient_quota"),
		openAIError("You exceeded your current quota, please check your plan and billing details.", "", ""),
		openAIError("Billing hard limit has been reached", "invalid_request_error", "billing_hard_limit_reached"),
		openAIError("Your account is not active, please check your billing details on our website.", "billing_not_active", "billing_not_active"),
		openAIError("Monthly spending limit reached", "rate_limit_error", "rate_limit_exceeded"),
		openAIError("You have reached your monthly spend limit of $50.00.", "tokens", "spend_limit_reached"),
		openAIError("Your balance is used up.", "", ""),
		openAIError("All credits have been used up. Please try again later.", "too_many_requests", "429"),
		openAIError("Your credits are exhausted", "", "credits_exhausted"),
		openAIError("Account suspended: contact support", "", ""),
		openAIError("This organization has been disabled.", "invalid_request_error", ""),
		openAIError("Your API key has expired.", "", ""),
		openAIError("Budget has been exceeded! Current cost: 0.53, Max budget: 0.5", "budget_exceeded", "429"),
		openAIError("用户额度不足, 剩余额度: ＄0.000000 (request id: 2024)", "new_api_error", "insufficient_user_quota"),
		openAIError("您的账户余额不足，请充值", "", "1113"),
		`{"error":{"code":"1113","message":"Insufficient balance or no resource package. Please recharge."}}`,
		`{"error":{"code":1113,"message":"账户已欠费"}}`,
		`{"error":{"message":"Your account org-1 <ak-2> is suspended, please check your plan and billing details","type":"exceeded_current_quota_error"}}`,
		`{"code":"Some resource has been exhausted","error":"Your team 1f2 has either used all available credits or reached its monthly spending limit. To continue making API requests, please purchase more credits or raise your spending limit."}`,
		`{"code":"You have run out of credits","error":"forbidden"}`,
		`{"code":"The prepaid balance of this account is exhausted","type":"api_error"}`,
		`{"type":"error","error":{"type":"rate_limit_error","message":"Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."}}`,
		`{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2027-01-01 at 00:00 UTC."}}`,
		`{"message":"Trial key limit: you are limited to 1000 API calls / month. Upgrade to a production key.","id":"1"}`,
		`{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"{\"error\":{\"message\":\"Insufficient funds in wallet\"}}","provider_name":"x"}}}`,
		`{"error":{"message":"limit","metadata":{"reason":"insufficient_credits"}}}`,
		`{"errors":[{"code":3040,"message":"Payment required: your prepaid balance is empty"}]}`,
		`[{"error":{"code":429,"message":"Quota exceeded for metric: generate_content_free_tier_requests, limit: 0, model: gemini-2.5-pro\nPlease retry in 33.1s.","status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"33s"}]}}]`,
		`{"detail":"Your subscription has been cancelled"}`,
		`{"base_resp":{"status_code":1008,"status_msg":"insufficient balance"}}`,
		`{"error":"Guthaben aufgebraucht"}`,
		`{"error":"Votre solde est insuffisant"}`,
		`{"error":{"message":"Saldo insuficiente"}}`,
		`{"error":{"message":"クレジットが不足しています"}}`,
		`{"error":{"message":"На вашем счёте недостаточно средств"}}`,
		`{"code":"Arrearage","message":"Access denied, please make sure your account is in good standing."}`,
		`{"error":{"code":"AccountOverdueError","message":"The request failed because your account has an overdue balance."}}`,
		`{"error":{"code":"SetLimitExceeded","message":"Your account [2] has reached the set inference limit for the [m] model, and the model service has been paused."}}`,
		"Your prepaid credits have run out.",
		"<html><head><style>p{color:red}</style></head><body><h1>429</h1><p>Spending limit reached for this key</p></body></html>",
	} {
		for _, h := range []http.Header{nil, {"Retry-After": {"30"}}} {
			kind, s := ParseThrottle("", h, []byte(body), time.Now())
			if hinted := h != nil; kind != Quota && (!hinted || !planAndBilling.MatchString(body)) {
				t.Errorf("kind %d (period %v), hinted %v: %s", kind, s.Period, hinted, body)
			}
		}
	}
}

func TestParseThrottle_WhatWaitingCures(t *testing.T) {
	gemini := func(id, extra string) string {
		return `[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details. For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"generativelanguage.googleapis.com/generate_content_free_tier_requests","quotaId":"` + id + `","quotaDimensions":{"location":"global","model":"gemini-2.0-flash"},"quotaValue":"15"}]}` + extra + `]}}]`
	}
	const minute, hour = time.Minute, time.Hour
	for _, tt := range []struct {
		body      string
		dimension llm.Dimension
		period    time.Duration
		wait      time.Duration // 0 = none told
	}{
		{gemini("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", ""), llm.Requests, minute, 0},
		{gemini("GenerateContentInputTokensPerModelPerMinute-FreeTier", ""), llm.InputTokens, minute, 0},
		{gemini("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", `,{"retryDelay":"34s"}`), llm.Requests, minute, 34 * time.Second},
		{gemini("GenerateRequestsPerHourPerProject", ""), llm.Requests, hour, 0},
		{`{"error":{"code":429,"message":"Quota exceeded for aiplatform.googleapis.com/generate_content_requests_per_minute_per_project_per_base_model with base model: gemini-2.0. Please submit a quota increase request.","status":"RESOURCE_EXHAUSTED"}}`, llm.Requests, minute, 0},
		{openAIError("Rate limit exceeded: free-models-per-min", "", "429"), llm.None, minute, 0},
		{openAIError("Rate limit of 10 per 60s exceeded for UserByModelByMinute. Please wait 7 seconds before retrying.", "", "RateLimitReached"), llm.None, minute, 7 * time.Second},
		{openAIError("You are using a Trial key, which is limited to 40 API calls / minute. You can continue to use the Trial key for free or upgrade to a Production key with higher rate limits.", "", ""), llm.None, minute, 0},
		{openAIError("You have used all 100 credits of this minute", "", ""), llm.None, minute, 0},
		{openAIError("Hourly limit reached", "", ""), llm.None, hour, 0},
		{openAIError("Rate limit reached for m on requests per min. Limit: 3 / min. Please try again in 20s. You can increase your rate limit by adding a payment method to your account at https://platform.openai.com/account/billing.", "requests", ""), llm.Requests, minute, 20 * time.Second},
		{openAIError("Requests rate limit exceeded", "", "1300"), llm.None, 0, 0},
		{openAIError("Rate limit reached", "", "rate_limit_exceeded"), llm.None, 0, 0},
		{openAIError("Quota exhausted", "", "Throttling.RateQuota"), llm.None, 0, 0},
		{openAIError("The engine is currently overloaded, please try again later", "engine_overloaded_error", ""), llm.None, 0, 0},
		{openAIError("当前分组上游负载已饱和，请求过多，请稍后再试", "", ""), llm.None, 0, 0},
		{`{"code":"Some resource has been exhausted","error":"Too many requests for team 1f2 and model grok-4. Your team's rate limit is - Requests per Second (actual/limit): 9/8, Requests per Minute (actual/limit): 480/480. Upgrade at https://console.x.ai"}`, llm.Requests, time.Second, 0},
		{`{"statusCode":429,"message":"Rate limit is exceeded. Try again in 8 seconds."}`, llm.None, 0, 8 * time.Second},
		{`{"error":{"message":"busy","retry_after":12}}`, llm.None, 0, 12 * time.Second},
		{`{"error":{"message":"strange words","retry_after_ms":1500}}`, llm.None, 0, 1500 * time.Millisecond},
		{`{"error":{"message":"Quota will be replenished in 00:01:30"}}`, llm.None, 0, 90 * time.Second},
		{`{"error":{"message":"Provider returned error","metadata":{"raw":"Rate limit reached. Please try again in 2s"}}}`, llm.None, 0, 2 * time.Second},
		{"", llm.None, 0, 0},
		{"Too Many Requests", llm.None, 0, 0},
		{`{"error":{"message":"","code":429}}`, llm.None, 0, 0},
	} {
		kind, s := ParseThrottle("", nil, []byte(tt.body), time.Now())
		if kind != Curable || s.Dimension != tt.dimension || s.Period != tt.period || s.RetryAfter != tt.wait || s.HasRetryAfter != (tt.wait > 0) {
			t.Errorf("kind %d, limit %q of %v, wait %v %v, want %q of %v, %v: %s", kind, s.Dimension, s.Period, s.RetryAfter, s.HasRetryAfter, tt.dimension, tt.period, tt.wait, tt.body)
		}
	}
}

func TestParseThrottle_LimitsOfADay(t *testing.T) {
	now := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	in15h := "1795911600000" // 2026-11-29T00:20Z
	headers := `"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"` + in15h + `"`
	until := 15*time.Hour + 20*time.Minute
	for _, tt := range []struct {
		name      string
		header    http.Header
		body      string
		dimension llm.Dimension
		wait      time.Duration
	}{
		{"openrouter, headers", http.Header{"X-Ratelimit-Limit": {"50"}, "X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {in15h}}, openAIError("Rate limit exceeded", "", "429"), llm.RequestsDay, until},
		{"openrouter, body", nil, `{"error":{"message":"Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day","code":429,"metadata":{"headers":{` + headers + `},"provider_name":null}},"user_id":"user_1"}`, llm.RequestsDay, until},
		{"a body's headers without a word", nil, `{"error":{"message":"Rate limit exceeded","code":429,"metadata":{"headers":{` + headers + `}}}}`, llm.RequestsDay, until},
		{"a body's headers in seconds", nil, `{"error":{"message":"x","code":429},"headers":{"x-ratelimit-limit-requests":50,"x-ratelimit-remaining-requests":0,"x-ratelimit-reset-requests":"55200"}}`, llm.RequestsDay, until},
		{"gemini, a short delay beside the day", nil, `[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details. Please retry in 34.07s.","status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaMetric":"generativelanguage.googleapis.com/generate_content_free_tier_requests","quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier","quotaValue":"50"},{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier","quotaValue":"5"}]},{"retryDelay":"34s"}]}}]`, llm.RequestsDay, 23 * time.Hour},
		{"gemini, tokens", nil, `{"error":{"code":429,"message":"Quota.","details":[{"violations":[{"quotaId":"GenerateContentInputTokensPerModelPerDay"}]}]}}`, llm.TokensDay, 23 * time.Hour},
		{"groq", nil, openAIError("Rate limit reached for model `m` on tokens per day (TPD): Limit 100000, Used 99900, Requested 1100. Please try again in 14m24s.", "tokens", "rate_limit_exceeded"), llm.TokensDay, 14*time.Minute + 24*time.Second},
		{"github", nil, openAIError("Rate limit of 50 per 86400s exceeded for UserByModelByDay. Please wait 40200 seconds before retrying.", "", "RateLimitReached"), llm.RequestsDay, 40200 * time.Second},
		{"in hours", nil, openAIError("Daily limit reached. Try again in 7 hours.", "", ""), llm.RequestsDay, 7 * time.Hour},
		{"until a date", nil, openAIError("You hit your daily request limit, which resets at 2026-11-29T00:20:00Z", "", ""), llm.RequestsDay, until},
		{"until a date in words", nil, openAIError("Rate limit exceeded. Limit type: requests per day. Limit resets at: 2026-11-29 00:20:00 UTC", "", ""), llm.RequestsDay, until},
		{"bedrock", nil, `{"message":"Too many tokens per day, please wait before trying again."}`, llm.TokensDay, 0},
		{"cerebras", nil, `{"message":"Requests per day limit exceeded - too many requests sent.","type":"too_many_requests_error","param":"quota","code":"request_quota_exceeded"}`, llm.RequestsDay, 0},
		{"cloudflare", nil, `{"errors":[{"message":"AiError: you have used up your daily free allocation of 10,000 neurons, please upgrade to the paid plan.","code":4006}]}`, llm.RequestsDay, 0},
		{"members", nil, `{"error":{"type":"daily_limit_reached","message":"limit reached","resets_in_seconds":3600}}`, llm.RequestsDay, time.Hour},
		{"codes in another script", nil, `{"error":{"message":"今日调用次数已达上限"}}`, llm.RequestsDay, 0},
	} {
		kind, s := ParseThrottle("", tt.header, []byte(tt.body), now)
		if kind != Curable || s.Dimension != tt.dimension || s.RetryAfter != tt.wait {
			t.Errorf("%s: kind %d, %q of %v, wait %v, want %q and %v", tt.name, kind, s.Dimension, s.Period, s.RetryAfter, tt.dimension, tt.wait)
		}
	}
}

func TestParseThrottle_WordsThatTellNeither(t *testing.T) {
	for _, body := range []string{
		openAIError("The flux of this tenant is saturated", "gateway_error", "E_FLUX"),
		openAIError("Quota exceeded", "", ""),
		openAIError("Denied by policy 7", "", "policy_denied"),
		`{"error":"nope"}`,
		"Computer says no",
	} {
		if kind, s := ParseThrottle("", nil, []byte(body), time.Now()); kind != Unclear {
			t.Errorf("kind %d (%+v): %s", kind, s, body)
		}
		// A hint to wait is an answer to the question.
		if kind, _ := ParseThrottle("", http.Header{"Retry-After": {"7"}}, []byte(body), time.Now()); kind != Curable {
			t.Errorf("with a hint kind %d: %s", kind, body)
		}
	}
}

func TestParseThrottleInside_TellsLimitsFromOtherErrors(t *testing.T) {
	for _, tt := range []struct {
		object string
		kind   ThrottleKind
		ok     bool
	}{
		{`{"error":{"code":"rate_limit_exceeded","message":"Rate limit reached on tokens per min (TPM): Limit 30000, Used 29937, Requested 385. Please try again in 644ms."}}`, Curable, true},
		{`{"type":"response.failed","response":{"status":"failed","error":{"code":"rate_limit_exceeded","message":"Rate limit reached"}}}`, Curable, true},
		{`{"error":{"message":"Rate limit exceeded: free-models-per-min.","code":429}}`, Curable, true},
		{`{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, Curable, true},
		{`{"error":{"code":"insufficient_quota","message":"You exceeded your current quota"}}`, Quota, true},
		{`{"base_resp":{"status_code":1008,"status_msg":"insufficient balance"}}`, Quota, true},
		{`{"error":{"code":"429","message":"flux"}}`, Unclear, true},
		{`{"error":{"code":"server_error","message":"The server had an error while processing your request."}}`, 0, false},
		{`{"error":{"code":400,"message":"Invalid value for 'temperature'"}}`, 0, false},
		{`{"error":{"code":"context_length_exceeded","message":"This model's maximum context length is 8192 tokens."}}`, 0, false},
		{`{"error":{"code":502,"message":"Provider returned error"}}`, 0, false},
	} {
		kind, s, ok := ParseThrottleInside("", nil, []byte(tt.object), time.Now())
		if kind != tt.kind || ok != tt.ok || ok != (s.Said != "") {
			t.Errorf("kind %d, ok %v, said %q: %s", kind, ok, s.Said, tt.object)
		}
	}
}
