package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// refusing serves 429s with that body and those headers, while refuse says so.
func refusing(body string, header map[string]string, refuse func(n int64) bool) (http.HandlerFunc, *atomic.Int64) {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		if !refuse(n.Add(1)) {
			fmt.Fprint(w, `{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
			return
		}
		for name, value := range header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(429)
		fmt.Fprint(w, body)
	}, &n
}

func ever(int64) bool { return true }

func TestRefused_KnownWordsPassAtOnceUnchanged(t *testing.T) {
	for _, body := range []string{
		`{"error":{"message":"Monthly spending limit reached","type":"rate_limit_error","code":"rate_limit_exceeded"}}`,
		`{"code":"The prepaid balance of this account is used up","error":"payment"}`,
		`{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"{\"error\":\"insufficient_credits\"}"}}}`,
	} {
		synctest.Test(t, func(t *testing.T) {
			serve, n := refusing(body, map[string]string{"Retry-After": "1"}, ever)
			b := handlerBubble(t, serve)
			defer b.Stop()
			resp := b.Post(t, t.Context(), "/v1/chat/completions", sidecartest.Chat)
			defer resp.Body.Close()
			got, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != 429 || string(got) != body || resp.Header.Get("X-Should-Retry") != "false" || n.Load() != 1 {
				t.Errorf("%d %v %s after %d attempts", resp.StatusCode, resp.Header, got, n.Load())
			}
		})
	}
}

func TestRefused_UnknownWordsPassAfterFiveSpacedTries(t *testing.T) {
	const body = `{"error":{"message":"The flux of this tenant is saturated","code":"E_FLUX"}}`
	synctest.Test(t, func(t *testing.T) {
		serve, n := refusing(body, nil, ever)
		b := handlerBubble(t, serve)
		defer b.Stop()
		status, waited, text, err := b.Ask(t.Context(), "s", sidecartest.Chat)
		if err != nil || status != 429 || text != body || waited < 75*time.Second || waited > 100*time.Second || n.Load() < 5 || n.Load() > 10 {
			t.Errorf("%d %s after %v and %d attempts, %v", status, text, waited, n.Load(), err)
		}
		if status, waited, _, _ := b.Ask(t.Context(), "s", sidecartest.Chat); status != 429 || waited > time.Second {
			t.Errorf("the next one: %d after %v", status, waited)
		}
	})
	// A client that waits for less is told by us, in the provider's words.
	synctest.Test(t, func(t *testing.T) {
		serve, _ := refusing(body, nil, ever)
		b := handlerBubble(t, serve, "QUEUE_MAX_WAIT", "20s")
		defer b.Stop()
		if status, _, text, _ := b.Ask(t.Context(), "s", sidecartest.Chat); status != 503 || !strings.Contains(text, "E_FLUX: The flux of this tenant is saturated") {
			t.Errorf("%d %s", status, text)
		}
	})
}

// TestRefused_AMinutesLimitIsWaitedOut has a limit that others use up for longer than
// what is not understood is tried.
func TestRefused_AMinutesLimitIsWaitedOut(t *testing.T) {
	for name, body := range map[string]string{
		"gemini":  `[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier","quotaValue":"15"}]}]}}]`,
		"cohere":  `{"message":"You are using a Trial key, which is limited to 40 API calls / minute."}`,
		"bare":    `{"error":{"message":"Rate limit reached","type":"rate_limit_error"}}`,
		"nothing": ``,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				serve, n := refusing(body, nil, func(int64) bool { return time.Since(began) < 100*time.Second })
				b := handlerBubble(t, serve)
				defer b.Stop()
				if status, waited, text, err := b.Ask(t.Context(), "s", sidecartest.Chat); err != nil || status != 200 || waited > 140*time.Second {
					t.Errorf("%d %s after %v and %d attempts, %v", status, text, waited, n.Load(), err)
				}
			})
		})
	}
}

func TestRefused_ADayThatIsOverIsToldWithItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(15 * time.Hour)
		reset := fmt.Sprint(end.UnixMilli())
		for name, serve := range map[string]struct {
			body   string
			header map[string]string
		}{
			"in headers":  {`{"error":{"message":"Rate limit exceeded","code":429}}`, map[string]string{"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}},
			"in the body": {`{"error":{"message":"Rate limit exceeded: free-models-per-day","code":429,"metadata":{"headers":{"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"` + reset + `"}}}}`, nil},
		} {
			handle, n := refusing(serve.body, serve.header, ever)
			b := handlerBubble(t, handle)
			for range 3 {
				resp := b.Post(t, t.Context(), "/v1/chat/completions", sidecartest.Chat)
				text, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				var e struct {
					Error struct{ Code, Message string }
				}
				_ = json.Unmarshal(text, &e)
				if resp.StatusCode != 503 || e.Error.Code != "daily_limit" || resp.Header.Get("X-Should-Retry") != "false" || !strings.Contains(e.Error.Message, end.UTC().Format("2006-01-02T15:04")) || !strings.Contains(e.Error.Message, "Rate limit exceeded") {
					t.Errorf("%s: %d %v %s", name, resp.StatusCode, resp.Header, text)
				}
			}
			if n.Load() != 1 {
				t.Errorf("%s: %d requests were sent, and each counts", name, n.Load())
			}
			b.Stop()
		}
	})
}

func TestRefused_AReloadWithAChangedLimitEndsTheDay(t *testing.T) {
	var paid atomic.Bool
	serve, n := refusing(`{"error":{"message":"Rate limit reached for gpt-4o on tokens per day (TPD): Limit 100000, Used 99900, Requested 1100. Please try again in 14m24s.","type":"tokens","code":"rate_limit_exceeded"}}`, nil, func(int64) bool { return !paid.Load() })
	file := sidecartest.WriteFile(t, "config.yaml", "limits: [{model: '*', tokens_per_day: 100000}]\n")
	s := start(t, sidecartest.Scripted(t, serve), "CONFIG_FILE", file)
	ask := func() sidecartest.Answer {
		return sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", sidecartest.Chat)
	}
	for range 2 {
		if a := ask(); a.StatusCode != 503 || sidecartest.ErrorOf(t, a) != "daily_limit" {
			t.Fatalf("%d %s", a.StatusCode, a.Body)
		}
	}
	paid.Store(true)
	rewrite(t, file, "limits: [{model: '*', tokens_per_day: 500000}]\n")
	s.Hangup(true)
	if a := ask(); a.StatusCode != 200 || n.Load() != 2 {
		t.Errorf("%d %s after %d attempts", a.StatusCode, a.Body, n.Load())
	}
}

// TestRefused_NoSecretIsQuoted: what a provider says goes to the log and to others.
func TestRefused_NoSecretIsQuoted(t *testing.T) {
	const key = "plainlookingkey"
	body := `{"error":{"message":"Daily limit of ` + key + `, sk-proj-abcdefghijkl, org-Ab12Cd34 and jane@example.org reached","code":429}}`
	serve, _ := refusing(body, nil, ever)
	s := start(t, sidecartest.Scripted(t, serve), "OPENAI_API_KEY", key)
	a := sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", sidecartest.Chat)
	if a.StatusCode != 503 || !strings.Contains(a.Body, "Daily limit of") {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	line := fmt.Sprint(s.Log.Await(t, "request", 1)[0])
	if !strings.Contains(line, "Daily limit of") {
		t.Errorf("the log says %s", line)
	}
	for _, secret := range []string{key, "abcdefghijkl", "Ab12Cd34", "jane@"} {
		if strings.Contains(a.Body+line, secret) {
			t.Errorf("%q is quoted: %s\n%s", secret, a.Body, line)
		}
	}
}

func TestRefused_TheLogQuotesWhatIsPassedOn(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{Faults: []provider.Fault{provider.Quota()}})
	s := start(t, base)
	sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", sidecartest.Chat)
	if line := s.Log.Await(t, "request", 1)[0]; !strings.Contains(fmt.Sprint(line["provider_said"]), "insufficient_quota: You exceeded your current quota") {
		t.Errorf("the log says %v", line)
	}
}

// TestRefused_UnderTheDefaultCapConcernsOneModel: the cap that stands in for limits that
// nobody knows is not the limit that a 429 is about.
func TestRefused_UnderTheDefaultCapConcernsOneModel(t *testing.T) {
	serve, _ := refusing(`{"error":{"message":"Rate limit reached for requests"}}`, map[string]string{"Retry-After": "50"}, ever)
	synctest.Test(t, func(t *testing.T) {
		b := handlerBubble(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Test") != "" {
				serve(w, r)
				return
			}
			fmt.Fprint(w, `{}`)
		})
		defer b.Stop()
		before := b.server.limits.Forecast(limit.Request{Model: "healthy", Demand: llm.Demand{Input: 1}})
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://127.0.0.1/v1/chat/completions", strings.NewReader(sidecartest.Chat))
		req.Header.Set("X-Test", "refuse")
		req.Header.Set("X-Queue-Timeout", "1s")
		resp, err := b.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if after := b.server.limits.Forecast(limit.Request{Model: "healthy", Demand: llm.Demand{Input: 1}}); resp.StatusCode != 503 || after.Wait > before.Wait {
			t.Errorf("%d; another model would wait %v, and %v before", resp.StatusCode, after.Wait, before.Wait)
		}
	})
}
