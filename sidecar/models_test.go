package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// chatOf is a small request of a model.
func chatOf(model string) string {
	return fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hi"}],"max_tokens":5}`, model)
}

const goodChat = `{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":5,"total_tokens":10}}`

// send makes a request as a client, and returns its status and how long it took.
func (b *bubble) send(ctx context.Context, method, path, body, key string) (int, time.Duration, error) {
	begun := time.Now()
	req, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1"+path, strings.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := b.Client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, time.Since(begun), err
}

// TestModels_ANewModelsPauseStopsNoOther: in a fresh process one model is refused before
// any has answered; another one goes on.
func TestModels_ANewModelsPauseStopsNoOther(t *testing.T) {
	for name, refusal := range map[string]struct {
		status       int
		after, error string
	}{
		"Retry-After: 50":          {429, "50", `{"error":{"message":"Rate limit reached","code":"rate_limit_exceeded"}}`},
		"no hint at all":           {429, "", `{"error":{"message":"slow down"}}`},
		"a day's limit":            {429, "", `{"error":{"message":"Rate limit reached for refused on tokens per day (TPD): Limit 100000, Used 100000, Requested 60. Please try again in 7h12m","code":"rate_limit_exceeded"}}`},
		"hours, and no limit said": {429, "25920", `{"error":{"message":"Too many requests, try again in 7h12m"}}`},
		"503 with a hint":          {503, "50", `{"error":{"message":"overloaded"}}`},
	} {
		for _, settings := range [][]string{nil, {"RATE_LIMIT_PER_MIN", "60"}, {"TOKEN_LIMIT_PER_MIN", "100000", "RATE_LIMIT_PER_MIN", "0"}} {
			t.Run(fmt.Sprint(name, settings), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBubbleOver(t, sidecartest.Serving(func(w http.ResponseWriter, r *http.Request) {
						body, _ := io.ReadAll(r.Body)
						w.Header().Set("Content-Type", "application/json")
						if !strings.Contains(string(body), `"refused"`) {
							_, _ = io.WriteString(w, goodChat)
							return
						}
						if refusal.after != "" {
							w.Header().Set("Retry-After", refusal.after)
						}
						w.WriteHeader(refusal.status)
						_, _ = io.WriteString(w, refusal.error)
					}), settings...)
					defer b.Stop()
					ctx, cancel := context.WithCancel(t.Context())
					var refused sync.WaitGroup
					for range 5 {
						refused.Go(func() { _, _, _ = b.send(ctx, "POST", "/v1/chat/completions", chatOf("refused"), "") })
					}
					for i := range 10 {
						<-time.After(3 * time.Second)
						status, took, err := b.send(t.Context(), "POST", "/v1/session/other/chat/completions", chatOf(fmt.Sprint("healthy-", i%3)), "")
						if err != nil || status != 200 || took > time.Second {
							t.Errorf("a healthy model: %d after %v, %v", status, took, err)
						}
					}
					cancel()
					refused.Wait()
				})
			})
		}
	}
}

// TestModels_AClientGetsNoMoreByAskingForMore models under a cap over all.
func TestModels_AClientGetsNoMoreByAskingForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		served := map[string]*atomic.Int64{"broad": {}, "narrow": {}}
		b := newBubbleOver(t, sidecartest.Serving(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			name, _, _ := strings.Cut(strings.SplitN(string(body), `"user":"`, 2)[1], `"`)
			served[name].Add(1)
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, goodChat)
		}), "RATE_LIMIT_PER_MIN", "600", "CLIENT_API_KEYS", "broad=sk-broad-client,narrow=sk-narrow-client")
		defer b.Stop()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var calls sync.WaitGroup
		for i := range 300 { // as many wait of each at any time
			for _, name := range []string{"broad", "narrow"} {
				model := "m0"
				if name == "broad" {
					model = fmt.Sprint("m", i%5)
				}
				body := strings.Replace(chatOf(model), `{`, fmt.Sprintf(`{"user":%q,`, name), 1)
				calls.Go(func() {
					for ctx.Err() == nil {
						_, _, _ = b.send(ctx, "POST", "/v1/chat/completions", body, "sk-"+name+"-client")
					}
				})
			}
		}
		calls.Wait()
		broad, narrow := served["broad"].Load(), served["narrow"].Load()
		if broad+narrow < 1150 || float64(broad) > 1.05*float64(narrow) || float64(narrow) > 1.05*float64(broad) {
			t.Errorf("served %d of five models and %d of one, want as many", broad, narrow)
		}
	})
}

// TestModels_ControlCallsWaitForNoQueue: they go at once past a full one, sixteen of a
// client at a time, and are shown.
func TestModels_ControlCallsWaitForNoQueue(t *testing.T) {
	for _, settings := range [][]string{{"RATE_LIMIT_PER_MIN", "6"}, {"MAX_CONCURRENT_REQUESTS", "1"}, {"TOKEN_LIMIT_PER_MIN", "100", "RATE_LIMIT_PER_MIN", "0"}} {
		t.Run(settings[0], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slow, controls := make(chan struct{}), atomic.Int64{}
				b := newBubbleOver(t, sidecartest.Serving(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body) // until then the context does not see the connection's end
					switch {
					case strings.HasSuffix(r.URL.Path, "/slow"):
						controls.Add(1)
						select {
						case <-slow:
						case <-r.Context().Done():
						}
					case strings.HasSuffix(r.URL.Path, "completions"):
						select {
						case <-time.After(20 * time.Second):
						case <-r.Context().Done():
						}
						w.Header().Set("Content-Type", "application/json")
						_, _ = io.WriteString(w, goodChat)
					}
				}), settings...)
				defer b.Stop()
				ctx, cancel := context.WithCancel(t.Context())
				var calls sync.WaitGroup
				for range 15 {
					calls.Go(func() { _, _, _ = b.send(ctx, "POST", "/v1/chat/completions", chatOf("m"), "") })
				}
				<-time.After(time.Second)
				for _, call := range [][2]string{
					{"GET", "/v1/models"},
					{"GET", "/v1/session/s/responses/resp_1"},
					{"POST", "/v1/responses/resp_1/cancel"},
					{"DELETE", "/v1/files/f"},
					{"HEAD", "/v1/models"},
					{"POST", "/v1/files"},
				} {
					if status, took, err := b.send(t.Context(), call[0], call[1], "", ""); err != nil || status != 200 || took > 100*time.Millisecond {
						t.Errorf("%s %s: %d after %v, %v", call[0], call[1], status, took, err)
					}
				}
				for range 17 {
					calls.Go(func() { _, _, _ = b.send(ctx, "GET", "/v1/files/slow", "", "") })
				}
				<-time.After(time.Second)
				if n := controls.Load(); n != 16 {
					t.Errorf("%d control calls of a client are in flight", n)
				}
				var status admin.QueueStatus
				resp, err := b.Client.Get("http://127.0.0.1/queue/status")
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(json.NewDecoder(resp.Body).Decode(&status), resp.Body.Close()); err != nil {
					t.Error(err)
				}
				shown := false
				for _, g := range status.Groups {
					shown = shown || g.Name == "(control)" && g.InFlight == 16 && g.Waiting == 1
				}
				if !shown {
					t.Errorf("the status has no sixteen control calls: %+v", status.Groups)
				}
				slow <- struct{}{}
				if synctest.Wait(); controls.Load() != 17 {
					t.Error("one has ended, and the seventeenth still waits")
				}
				close(slow)
				ask, done := context.WithTimeout(t.Context(), time.Minute)
				defer done()
				if status, took, err := b.send(ask, "POST", "/v1/images/unknown", "{}", ""); settings[0] == "RATE_LIMIT_PER_MIN" && err == nil && status == 200 && took < time.Second {
					t.Errorf("what may cost goes before the queue: %d after %v, %v", status, took, err)
				}
				cancel()
				calls.Wait()
			})
		})
	}
}
