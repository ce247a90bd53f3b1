package provider_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// ask sends one request straight to the handler.
func ask(s *provider.Server, method, path, body string, header ...string) *http.Response {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result()
}

func text(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// errorOf decodes an OpenAI-shaped error.
func errorOf(t *testing.T, r *http.Response) (e struct{ Message, Type, Param, Code string }) {
	t.Helper()
	var body struct{ Error json.RawMessage }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		t.Fatalf("error body: %v", err)
	}
	var members map[string]any
	if err := json.Unmarshal(body.Error, &members); err != nil {
		t.Fatalf("error object: %v", err)
	}
	for _, key := range []string{"message", "type", "param", "code"} {
		if _, ok := members[key]; !ok {
			t.Errorf("error object lacks %q: %s", key, body.Error)
		}
	}
	_ = json.Unmarshal(body.Error, &e)
	return e
}

func TestServer_Refusals(t *testing.T) {
	s := provider.New(provider.Config{Keys: []string{"sk-good"}, Models: []string{"gpt-4o", "org/m"}, Aliases: map[string]string{"latest": "gpt-4o"}})
	for _, tt := range []struct {
		name, method, path, body, key string
		status                        int
		message, param, code          string
	}{
		{"no key", "POST", "/v1/chat/completions", hello, "", 401, "You didn't provide an API key", "", ""},
		{"wrong key", "GET", "/v1/models", "", "sk-bad", 401, "Incorrect API key provided", "", "invalid_api_key"},
		{"broken JSON", "POST", "/v1/responses", `{"model":`, "sk-good", 400, "We could not parse the JSON body", "", ""},
		{"no model", "POST", "/v1/embeddings", `{"input":"x"}`, "sk-good", 400, "you must provide a model parameter", "", ""},
		{"no messages", "POST", "/v1/chat/completions", `{"model":"gpt-4o"}`, "sk-good", 400, "Missing required parameter: 'messages'", "messages", "missing_required_parameter"},
		{"wrong type", "POST", "/v1/chat/completions", `{"model":"gpt-4o","messages":[],"stream":"yes"}`, "sk-good", 400, "Invalid type for 'stream'", "stream", "invalid_type"},
		{"unknown model", "POST", "/v1/chat/completions", hello, "sk-good", 404, "The model `m` does not exist", "", "model_not_found"},
		{"unknown route", "POST", "/v1/nothing", "", "sk-good", 404, "Invalid URL (POST /v1/nothing)", "", ""},
		{"wrong method", "GET", "/v1/chat/completions", "", "sk-good", 405, "Not allowed to GET", "", "method_not_supported"},
		{"unknown file", "GET", "/v1/files/file-9", "", "sk-good", 404, "No such File object: file-9", "id", ""},
		{"no multipart", "POST", "/v1/files", "x", "sk-good", 400, "Content-Type must be multipart/form-data", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var header []string
			if tt.key != "" {
				header = []string{"Authorization", "Bearer " + tt.key}
			}
			r := ask(s, tt.method, tt.path, tt.body, header...)
			e := errorOf(t, r)
			if r.StatusCode != tt.status || !strings.HasPrefix(e.Message, tt.message) || e.Param != tt.param || e.Code != tt.code {
				t.Errorf("%d %+v", r.StatusCode, e)
			}
			entries := s.Ledger()
			if last := entries[len(entries)-1]; last.Accepted || last.Status != tt.status || !last.Done {
				t.Errorf("ledger: %+v", last)
			}
		})
	}
	t.Run("azure's api-key is a key, and an alias a model", func(t *testing.T) {
		r := ask(s, "POST", "/v1/chat/completions", strings.Replace(hello, `"m"`, `"latest"`, 1), "api-key", "sk-good")
		if body := text(t, r); r.StatusCode != 200 || !strings.Contains(body, `"model": "gpt-4o"`) {
			t.Errorf("%d %s", r.StatusCode, body)
		}
	})
	t.Run("azure's prefix is part of its dialect", func(t *testing.T) {
		for dialect, want := range map[provider.Dialect]int{provider.Azure: 200, provider.OpenAI: 404} {
			s := provider.New(provider.Config{Dialect: dialect})
			if r := ask(s, "POST", "/openai/v1/chat/completions", hello); r.StatusCode != want {
				t.Errorf("dialect %d: %d, want %d", dialect, r.StatusCode, want)
			}
		}
	})
	t.Run("a model's encoded slash is understood", func(t *testing.T) {
		r := ask(s, "GET", "/v1/models/org%2Fm", "", "api-key", "sk-good")
		if body := text(t, r); !strings.Contains(body, `"id": "org/m"`) {
			t.Errorf("%d %s", r.StatusCode, body)
		}
	})
}

func TestServer_Limits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := provider.New(provider.Config{Account: provider.AccountConfig{RPM: 3, TPM: 6000}, Organization: "org-test"})
		send := func(maxTokens int) *http.Response {
			return ask(s, "POST", "/v1/chat/completions", fmt.Sprintf(`{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"max_tokens":%d}`, maxTokens))
		}
		header := func(r *http.Response, names ...string) (values []string) {
			for _, n := range names {
				values = append(values, r.Header.Get(n))
			}
			return values
		}
		r := send(4000)
		want := []string{"3", "2", "20s", "6000", "2000", "40s"}
		if d := cmp.Diff(want, header(r, "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
			"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")); d != "" {
			t.Errorf("headers (-want +got):\n%s", d)
		}
		if !strings.HasPrefix(r.Header.Get("x-request-id"), "req_") || r.Header.Get("openai-processing-ms") == "" {
			t.Errorf("headers %v", r.Header)
		}

		r = send(2385)
		e := errorOf(t, r)
		if r.StatusCode != 429 || e.Type != "tokens" || e.Code != "rate_limit_exceeded" ||
			e.Message != "Rate limit reached for gpt-4o in organization org-test on tokens per min (TPM): Limit 6000, Used 4000, Requested 2385. "+
				"Please try again in 3.85s. Visit https://platform.openai.com/account/rate-limits to learn more." {
			t.Errorf("%d %+v", r.StatusCode, e)
		}
		if d := cmp.Diff([]string{"3850", "4"}, header(r, "retry-after-ms", "retry-after")); d != "" {
			t.Errorf("hints (-want +got):\n%s", d)
		}
		<-time.After(3850 * time.Millisecond) // virtual
		if r := send(2385); r.StatusCode != 200 || r.Header.Get("x-ratelimit-remaining-tokens") != "0" {
			t.Errorf("after waiting as told: %d %v", r.StatusCode, r.Header)
		}

		r = send(6001)
		if e := errorOf(t, r); r.StatusCode != 429 || r.Header.Get("retry-after") != "" ||
			!strings.HasPrefix(e.Message, "Request too large for gpt-4o in organization org-test on tokens per min (TPM): Limit 6000, Requested 6001.") {
			t.Errorf("%d %+v", r.StatusCode, e)
		}

		<-time.After(3 * time.Minute)
		for range 3 {
			send(1)
		}
		if e := errorOf(t, send(1)); e.Type != "requests" || !strings.Contains(e.Message, "on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s.") {
			t.Errorf("%+v", e)
		}
		if totals := s.Totals(); totals.Throttled != 3 || totals.Accepted != 5 || totals.Delivered != 5 {
			t.Errorf("totals %+v", totals)
		}
	})
}

func TestServer_Dialects(t *testing.T) {
	for _, tt := range []struct {
		dialect   provider.Dialect
		remaining string
		message   string
		hinted    bool
	}{
		{provider.Azure, "0", "have exceeded call rate limit of your current OpenAI S0 pricing tier. Please retry after 60 seconds.", true},
		{provider.Silent, "", "Please try again in 1m0s.", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := provider.New(provider.Config{Dialect: tt.dialect, Account: provider.AccountConfig{RPM: 1}})
			ask(s, "POST", "/v1/chat/completions", hello)
			r := ask(s, "POST", "/v1/chat/completions", hello)
			e := errorOf(t, r)
			if r.StatusCode != 429 || !strings.Contains(e.Message, tt.message) || r.Header.Get("x-ratelimit-remaining-requests") != tt.remaining ||
				r.Header.Get("x-ratelimit-limit-requests") != "" || (r.Header.Get("retry-after") != "") != tt.hinted {
				t.Errorf("%+v %v", e, r.Header)
			}
		})
	}
}

func TestServer_AnthropicDialect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := provider.New(provider.Config{
			Dialect: provider.Anthropic, Account: provider.AccountConfig{Variant: provider.Reserve, ITPM: 1000, OTPM: 600, DefaultMaxTokens: 400},
		})
		r := ask(s, "POST", "/v1/chat/completions", hello)
		reset, err := time.Parse(time.RFC3339, r.Header.Get("anthropic-ratelimit-output-tokens-reset"))
		if err != nil || reset.Before(time.Now()) || r.Header.Get("anthropic-ratelimit-output-tokens-remaining") != "200" ||
			r.Header.Get("anthropic-ratelimit-input-tokens-limit") != "1000" || r.Header.Get("x-ratelimit-limit-requests") != "" {
			t.Errorf("%v, headers %v", err, r.Header)
		}
		r = ask(s, "POST", "/v1/chat/completions", strings.Replace(hello, `{`, `{"max_tokens":590,`, 1))
		if e := errorOf(t, r); r.StatusCode != 429 || e.Type != "rate_limit_error" || r.Header.Get("retry-after") != "1" || r.Header.Get("retry-after-ms") != "" {
			t.Errorf("%+v %v", e, r.Header)
		}
	})
}

func TestServer_DialectsTellWhoseTheyAre(t *testing.T) {
	for dialect, want := range map[provider.Dialect]string{
		provider.OpenAI:    "Openai-Organization Openai-Processing-Ms Openai-Version X-Request-Id",
		provider.Azure:     "Apim-Request-Id Azureml-Model-Session Openai-Processing-Ms X-Ms-Client-Request-Id X-Ms-Region X-Request-Id",
		provider.Anthropic: "Anthropic-Organization-Id Openai-Version Request-Id",
		provider.Silent:    "X-Request-Id",
	} {
		r := ask(provider.New(provider.Config{Dialect: dialect}), "POST", "/v1/chat/completions", hello)
		var got []string
		for name := range r.Header {
			if !strings.HasPrefix(name, "Content-") {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if d := cmp.Diff(strings.Fields(want), got); d != "" {
			t.Errorf("dialect %d (-want +got):\n%s", dialect, d)
		}
	}
}

func TestServer_MaxConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := provider.New(provider.Config{MaxConcurrent: 2, TTFT: time.Second})
		var done sync.WaitGroup
		for range 2 {
			done.Go(func() { ask(s, "POST", "/v1/chat/completions", hello) })
		}
		synctest.Wait()
		if r := ask(s, "POST", "/v1/chat/completions", hello); r.StatusCode != 429 {
			t.Errorf("third at once: %d", r.StatusCode)
		}
		done.Wait()
		if r := ask(s, "POST", "/v1/chat/completions", hello); r.StatusCode != 200 {
			t.Errorf("afterwards: %d", r.StatusCode)
		}
	})
}

// TestServer_Expect: what a test computes beforehand is what the answer says.
func TestServer_Expect(t *testing.T) {
	s := provider.New(provider.Config{Seed: 7})
	bodies := map[string]string{
		"plain":     `{"model":"m","messages":[{"role":"user","content":"Hello there, friends!"}]}`,
		"parts":     `{"model":"m","n":2,"max_tokens":5.0,"messages":[{"role":"user","name":"a","content":[{"type":"text","text":"look"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}`,
		"directive": `{"model":"m","messages":[{"role":"user","content":"say 33 words, think 4 tokens, cached 2 tokens"}]}`,
	}
	usages := map[string]int64{}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			want, err := s.Expect("/v1/chat/completions", []byte(body))
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				Choices []struct{ Message struct{ Content string } }
				Usage   struct {
					Prompt     int64 `json:"prompt_tokens"`
					Completion int64 `json:"completion_tokens"`
					Details    struct {
						Cached int64 `json:"cached_tokens"`
					} `json:"prompt_tokens_details"`
				}
			}
			if err := json.NewDecoder(ask(s, "POST", "/v1/chat/completions", body).Body).Decode(&got); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, provider.Used{Input: got.Usage.Prompt, Cached: got.Usage.Details.Cached, Output: got.Usage.Completion}); d != "" {
				t.Errorf("usage (-expected +got):\n%s", d)
			}
			usages[name] = want.Output
			// Splicing in an option, as a proxy may, changes neither text nor usage.
			spliced, err := s.Expect("/v1/chat/completions", []byte(`{"stream":true,"stream_options":{"include_usage":true},`+body[1:]))
			if err != nil || spliced != want {
				t.Errorf("spliced: %+v, %v", spliced, err)
			}
		})
	}
	if usages["parts"] != 10 || usages["directive"] != 37 {
		t.Errorf("completion tokens %v", usages)
	}
	if n, err := provider.PromptTokens("/v1/chat/completions", []byte(bodies["plain"])); n != 3+3+6 || err != nil {
		t.Errorf("prompt tokens %d, %v", n, err)
	}
}

func TestCountTokens(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0, " \n\t": 0, "word": 1, "sixsix": 1, "sevenup": 2, "a1b2": 4, "Hello, wörld!": 4, "1234567": 2, "日本": 1, "—": 1, "\xff": 1,
	} {
		if got := provider.CountTokens(text); got != want {
			t.Errorf("CountTokens(%q) = %d, want %d", text, got, want)
		}
	}
}

// serve runs s behind a pipe, inside a synctest bubble.
func serve(t *testing.T, s *provider.Server) *http.Client {
	t.Helper()
	pipe := provider.NewPipe()
	closeAll := s.Serve(pipe)
	transport := &http.Transport{DialContext: pipe.DialContext}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := closeAll(); err != nil {
			t.Error(err)
		}
	})
	return &http.Client{Transport: transport}
}

const streamed = `{"model":"m","stream":true,"messages":[{"role":"user","content":"say 20 words"}]}`

func TestServer_StreamsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := provider.New(provider.Config{TTFT: 300 * time.Millisecond, TokenInterval: 10 * time.Millisecond})
		client := serve(t, s)
		start := time.Now()
		resp, err := client.Post("http://provider/v1/chat/completions", "application/json", strings.NewReader(streamed))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if d := time.Since(start); d != 300*time.Millisecond {
			t.Errorf("headers after %v", d)
		}
		one := make([]byte, 1)
		if _, err := resp.Body.Read(one); err != nil || time.Since(start) != 300*time.Millisecond {
			t.Errorf("first byte after %v, %v", time.Since(start), err)
		}
		rest, err := io.ReadAll(resp.Body)
		if d := time.Since(start); err != nil || d != 500*time.Millisecond || !bytes.HasSuffix(rest, []byte("data: [DONE]\n\n")) {
			t.Errorf("all after %v, %v", d, err)
		}
	})
}

func TestServer_ClientLeaves(t *testing.T) {
	for _, body := range []string{streamed, strings.Replace(streamed, "true", "false", 1)} {
		synctest.Test(t, func(t *testing.T) {
			s := provider.New(provider.Config{
				TTFT: 300 * time.Millisecond, TokenInterval: 10 * time.Millisecond,
				Account: provider.AccountConfig{TPM: 60000, Variant: provider.Reserve},
			})
			client := serve(t, s)
			ctx, cancel := context.WithTimeout(t.Context(), 355*time.Millisecond)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://provider/v1/chat/completions", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if resp, err := client.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			s.Wait()
			e := s.Ledger()[0]
			if !e.Left || e.Delivered || !e.Accepted || e.CompletionTokens != 5 || e.Duration != 355*time.Millisecond {
				t.Errorf("entry %+v", e)
			}
			if totals := s.Totals(); totals.InFlight != 0 || totals.Left != 1 || totals.CompletionTokens != 5 {
				t.Errorf("totals %+v", totals)
			}
			// What was reserved and not generated is free again: 9 tokens for the prompt, 5 generated.
			<-time.After(time.Second)
			r := ask(s, "POST", "/v1/chat/completions", hello)
			if got := r.Header.Get("x-ratelimit-remaining-tokens"); got != fmt.Sprint(60000-9-4096) {
				t.Errorf("%s tokens left", got)
			}
		})
	}
}

func TestServer_AccountsByModel(t *testing.T) {
	s := provider.New(provider.Config{
		Account:  provider.AccountConfig{RPM: 1},
		Accounts: map[string]provider.AccountConfig{"big": {RPM: 2}},
		Aliases:  map[string]string{"big-latest": "big"},
	})
	var got []int
	for _, model := range []string{"m", "m", "other", "big", "big-latest", "big"} {
		got = append(got, ask(s, "POST", "/v1/chat/completions", strings.Replace(hello, `"m"`, `"`+model+`"`, 1)).StatusCode)
	}
	if d := cmp.Diff([]int{200, 429, 200, 200, 200, 429}, got); d != "" {
		t.Errorf("statuses (-want +got):\n%s", d)
	}
}

func TestServer_LedgerBounded(t *testing.T) {
	s := provider.New(provider.Config{MaxEntries: 10})
	for range 35 {
		ask(s, "POST", "/v1/chat/completions", hello)
	}
	entries := s.Ledger()
	if n := len(entries); n < 10 || n >= 20 || entries[n-1].ID != 35 || !entries[0].Done || s.Totals().Delivered != 35 {
		t.Errorf("%d entries, totals %+v", n, s.Totals())
	}
}

var usageMember = regexp.MustCompile(`"usage":\{[^}]*"completion_tokens":(\d+)`)

func TestServer_Faults(t *testing.T) {
	asked := strings.Replace(streamed, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1)
	s, base := provider.Start(t, provider.Config{})
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	send := func(body string, f provider.Fault) (*http.Response, string, error) {
		s.Script(f)
		resp, err := client.Post(base+"/chat/completions", "application/json", strings.NewReader(body))
		if err != nil {
			return nil, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp, string(b), err
	}
	entry := func() provider.Entry {
		s.Wait()
		all := s.Ledger()
		return all[len(all)-1]
	}
	_, whole, err := send(asked, provider.Sound())
	if err != nil || strings.Count(whole, "data: ") != 24 || !entry().Delivered {
		t.Fatalf("sound stream: %v\n%s", err, whole)
	}
	t.Run("statuses replace the answer and bill nothing", func(t *testing.T) {
		for _, tt := range []struct {
			fault  provider.Fault
			status int
			retry  string
		}{
			{provider.Status(503, http.Header{"retry-after": {"7"}}, `{"error":{}}`), 503, "7"},
			{provider.ServerError(500), 500, ""},
			{provider.Overloaded(1500 * time.Millisecond), 503, "2"},
			{provider.Throttle(20 * time.Second), 429, "20"},
			{provider.Quota(), 429, ""},
			{provider.TooLarge(), 429, ""},
			{provider.Garbage(), 200, ""},
		} {
			before := s.Totals()
			resp, _, err := send(hello, tt.fault)
			if err != nil || resp.StatusCode != tt.status || resp.Header.Get("Retry-After") != tt.retry {
				t.Errorf("%v: %v %v", tt.fault, resp, err)
			}
			e, after := entry(), s.Totals()
			if e.Accepted || e.Status != tt.status || e.Fault != tt.fault.String() || after.PromptTokens != before.PromptTokens {
				t.Errorf("%v: ledger %+v", tt.fault, e)
			}
		}
	})
	t.Run("throttle's numbers agree with its time", func(t *testing.T) {
		_, body, _ := send(hello, provider.Throttle(20*time.Second))
		if !strings.Contains(body, "Limit 30000, Used 30000, Requested 10000. Please try again in 20s.") {
			t.Error(body)
		}
	})
	t.Run("hangup gives no byte", func(t *testing.T) {
		if _, _, err := send(hello, provider.Hangup()); err == nil {
			t.Error("answered")
		}
	})
	t.Run("cut and reset break the body, end does not", func(t *testing.T) {
		for _, tt := range []struct {
			fault  provider.Fault
			broken bool
		}{
			{provider.CutAfterBytes(100), true},
			{provider.ResetAfterBytes(100), true},
			{provider.EndAfterBytes(100), false},
		} {
			_, body, err := send(asked, tt.fault)
			if (err != nil) != tt.broken || len(body) > 100 || (!tt.broken && len(body) != 100) {
				t.Errorf("%v: %d bytes, %v", tt.fault, len(body), err)
			}
			if reset := errors.Is(err, syscall.ECONNRESET); reset != (tt.fault.String() == "reset") {
				t.Errorf("%v: %v", tt.fault, err)
			}
			if e := entry(); e.Delivered || !e.Accepted || e.PromptTokens == 0 {
				t.Errorf("%v: ledger %+v", tt.fault, e)
			}
		}
	})
	t.Run("stalls delay", func(t *testing.T) {
		for _, f := range []provider.Fault{provider.Stall(30 * time.Millisecond), provider.StallAfterBytes(100, 30*time.Millisecond)} {
			start := time.Now()
			_, body, err := send(asked, f)
			if err != nil || len(body) != len(whole) || time.Since(start) < 30*time.Millisecond {
				t.Errorf("%v: %v, %d bytes in %v", f, err, len(body), time.Since(start))
			}
		}
	})
	t.Run("usage is missing, zero, doubled or everywhere", func(t *testing.T) {
		for _, tt := range []struct {
			fault provider.Fault
			want  []string // completion tokens in order, first and last five at most
		}{
			{provider.Sound(), []string{"20"}},
			{provider.NoUsage(), nil},
			{provider.ZeroUsage(), []string{"0"}},
			{provider.UsageTwice(), []string{"20", "20"}},
		} {
			_, body, err := send(asked, tt.fault)
			var got []string
			for _, m := range regexp.MustCompile(`"usage":\{.*?"completion_tokens":(\d+)`).FindAllStringSubmatch(body, -1) {
				got = append(got, m[1])
			}
			if d := cmp.Diff(tt.want, got); d != "" || err != nil || !entry().Delivered || entry().CompletionTokens != 20 {
				t.Errorf("%v: %v (-want +got):\n%s", tt.fault, err, d)
			}
		}
		_, body, _ := send(asked, provider.UsageEverywhere())
		if n := len(usageMember.FindAllString(body, -1)); n != 23 {
			t.Errorf("%d usages in %s", n, body)
		}
		_, body, _ = send(hello, provider.NoUsage())
		if strings.Contains(body, "usage") {
			t.Error(body)
		}
	})
	t.Run("no done ends without the terminal event", func(t *testing.T) {
		_, body, err := send(asked, provider.NoDone())
		if err != nil || strings.Contains(body, "[DONE]") || !strings.Contains(body, `"completion_tokens":20`) || entry().Delivered {
			t.Errorf("%v %s", err, body)
		}
	})
	t.Run("inserted bytes come before the end", func(t *testing.T) {
		_, body, err := send(asked, provider.Insert(": comment\n\ndata: {broken\n\n"))
		if err != nil || !strings.HasSuffix(body, ": comment\n\ndata: {broken\n\ndata: [DONE]\n\n") {
			t.Errorf("%v %s", err, body)
		}
	})
	t.Run("gzip comes though nobody asked", func(t *testing.T) {
		for _, request := range []string{asked, hello} {
			resp, body, err := send(request, provider.GzipAnyway())
			if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
				t.Fatalf("%v %v", resp, err)
			}
			z, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(z); err != nil || (request == asked && len(b) != len(whole)) || !bytes.Contains(b, []byte(`completion_tokens`)) {
				t.Errorf("%v: %s", err, b)
			}
		}
	})
	t.Run("headers, interim statuses and a closed connection leave the answer sound", func(t *testing.T) {
		for _, f := range []provider.Fault{
			provider.WithHeader(http.Header{"X-Echo": {"secret"}}), provider.Interim(103), provider.CloseAfter(),
		} {
			resp, body, err := send(asked, f)
			if err != nil || len(body) != len(whole) || !entry().Delivered {
				t.Errorf("%v: %v", f, err)
			}
			if f.String() == "close after" && !resp.Close {
				t.Error("connection kept")
			}
			if f.String() == "header" && resp.Header.Get("X-Echo") != "secret" {
				t.Error("header missing")
			}
		}
	})
	t.Run("no headers holds until the client leaves", func(t *testing.T) {
		s.Script(provider.NoHeaders())
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/chat/completions", strings.NewReader(hello))
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			t.Error("answered")
		}
		if e := entry(); !e.Left || !e.Accepted || e.Status != 0 {
			t.Errorf("ledger %+v", e)
		}
	})
}

// TestServer_CutsAtEveryByte: a fault's byte count is exact, on either framing.
func TestServer_CutsAtEveryByte(t *testing.T) {
	s := provider.New(provider.Config{})
	for _, body := range []string{
		strings.Replace(streamed, "say 20", "say 2", 1), strings.Replace(hello, "say 20", "say 2", 1),
	} {
		whole := text(t, ask(s, "POST", "/v1/chat/completions", body))
		for n := range len(whole) {
			s.Script(provider.EndAfterBytes(int64(n)))
			// The id and the time differ from request to request, their length does not.
			if got := text(t, ask(s, "POST", "/v1/chat/completions", body)); len(got) != n {
				t.Fatalf("cut at %d: %d bytes", n, len(got))
			}
		}
	}
}

// TestServer_LedgerEqualsUsage: over many concurrent requests, the sum of what clients were
// told is what the ledger says, and a full account never goes over its limit.
func TestServer_LedgerEqualsUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rpm = 120
		s := provider.New(provider.Config{
			TTFT: 50 * time.Millisecond, TokenInterval: time.Millisecond, Jitter: 0.5,
			Account: provider.AccountConfig{RPM: rpm, TPM: 100000},
		})
		client := serve(t, s)
		client.Transport.(*http.Transport).MaxIdleConnsPerHost = 100
		var mu sync.Mutex
		var told, accepted, throttled int64
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				for j := range 10 {
					body := fmt.Sprintf(`{"model":"m","stream":%v,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"request %d %d"}]}`, j%2 == 0, i, j)
					resp, err := client.Post("http://provider/v1/chat/completions", "application/json", strings.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					mu.Lock()
					if resp.StatusCode == 200 {
						accepted++
						m := regexp.MustCompile(`"total_tokens": ?(\d+)`).FindSubmatch(b)
						var n int64
						_, _ = fmt.Sscan(string(m[1]), &n)
						told += n
					} else {
						throttled++
					}
					mu.Unlock()
					if err != nil {
						t.Error(err)
					}
					<-time.After(time.Second)
				}
			})
		}
		all.Wait()
		totals := s.Totals()
		if totals.Accepted != accepted || totals.Delivered != accepted || totals.Throttled != throttled || totals.PromptTokens+totals.CompletionTokens != told {
			t.Errorf("clients: %d answers, %d refusals, %d tokens; ledger: %+v", accepted, throttled, told, totals)
		}
		if throttled == 0 || math.Abs(float64(accepted)-(rpm+rpm*10.5/60)) > 5 {
			t.Errorf("%d accepted in about 10.5 s at %d rpm", accepted, rpm)
		}
	})
}
