package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// inside are the ways in which providers say a rate limit under status 200.
var inside = []struct{ name, path, kind, body string }{
	{"the first event", "chat/completions", "text/event-stream", `data: {"error":{"code":"rate_limit_exceeded","message":"slow down"}}` + "\n\n"},
	{"with [DONE] behind it", "chat/completions", "text/event-stream", `data: {"error":{"code":429,"message":"Provider returned error","metadata":{"raw":"slow down"}}}` + "\n\n" + doneEvent},
	{"named", "chat/completions", "text/event-stream", "event: error\ndata: " + `{"message":"Rate limit reached for requests","type":"requests"}` + "\n\n"},
	{"as text", "chat/completions", "text/event-stream", `data: {"error":"Rate limit exceeded, please slow down"}` + "\n\n"},
	{"over two lines", "chat/completions", "text/event-stream", "data: {\"error\":\ndata: {\"type\":\"rate_limit_error\",\"message\":\"slow down\"}}\n\n"},
	{"in a choice", "chat/completions", "text/event-stream", `data: {"choices":[{"index":0,"delta":{},"error":{"code":429,"message":"x"},"finish_reason":"error"}]}` + "\n\n"},
	{"under another label", "completions", "application/json", `data: {"error":{"status":"RESOURCE_EXHAUSTED","code":429}}` + "\n\n"},
	{"a response that failed", "responses", "text/event-stream", "event: response.failed\ndata: " + `{"type":"response.failed","response":{"id":"r","status":"failed","error":{"code":"rate_limit_exceeded","message":"Rate limit reached"}}}` + "\n\n"},
	{"an error of responses", "responses", "text/event-stream", "event: error\ndata: " + `{"type":"error","code":"rate_limit_exceeded","message":"Rate limit reached"}` + "\n\n"},
	{"json", "chat/completions", "application/json", `{"error":{"code":429,"message":"x"}}`},
	{"json, as a string", "chat/completions", "application/json", `{"error":{"code":"429","message":"x"},"user_id":"u"}`},
	{"json, by its type", "embeddings", "application/json", `{"error":{"type":"rate_limit_error","message":"x"}}`},
	{"json, by its status", "chat/completions", "application/json", `{"error":{"status":429,"message":"x"}}`},
	{"json, nested", "chat/completions", "application/json", `{"error":{"error":{"code":"too_many_requests"}}}`},
	{"json, a list", "chat/completions", "application/json", `[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"x"}}]`},
	{"json, bare", "chat/completions", "application/json", `{"code":429,"message":"x"}`},
	{"json, a response", "responses", "application/json", `{"id":"r","status":"failed","error":{"code":"rate_limit_exceeded","message":"x"}}`},
	{"json, labelled as events", "chat/completions", "text/event-stream", `{"error":{"code":429,"message":"x"}}`},
}

// answered is a good answer of the kind that body is.
func answered(path, body string) string {
	stream := strings.Contains(body, "data: ")
	switch {
	case path == "responses" && stream:
		return created + wordEvent + completed
	case stream:
		return eventA + eventB + doneEvent
	}
	return jsonAnswer
}

// TestInside_RateLimitIsWaitedFor: a rate limit that comes in the place of an answer is
// a 429, whatever its status says, and whatever signs of life came before it.
func TestInside_RateLimitIsWaitedFor(t *testing.T) {
	for _, life := range []string{"", "\n\n  \n", ": OPENROUTER PROCESSING\n\n"} {
		for _, late := range []bool{false, true} {
			for _, in := range inside {
				if strings.HasPrefix(life, ":") && !strings.Contains(in.body, "data:") {
					continue // comments are no part of JSON
				}
				t.Run(fmt.Sprintf("%s behind %q, late %v", in.name, life, late), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						asked := 0
						b := handlerBubble(t, func(w http.ResponseWriter, r *http.Request) {
							asked++
							_, _ = io.Copy(io.Discard, r.Body)
							w.Header().Set("Content-Type", in.kind)
							flush := func() { _ = http.NewResponseController(w).Flush() }
							flush()
							_, _ = io.WriteString(w, life)
							flush()
							if late {
								time.Sleep(5 * time.Second)
							}
							if asked == 1 {
								_, _ = io.WriteString(w, in.body)
							} else {
								_, _ = io.WriteString(w, answered(in.path, in.body))
							}
						})
						defer b.Stop()
						body := sidecartest.Chat
						if strings.Contains(in.body, "data:") {
							body = sidecartest.ChatStream
						}
						resp := b.Post(t, t.Context(), "/v1/session/s/"+in.path, body)
						got, err := io.ReadAll(resp.Body)
						want := answered(in.path, in.body)
						if err != nil || resp.StatusCode != 200 || !strings.HasSuffix(string(got), want) || strings.Contains(string(got), "429") {
							t.Errorf("%d %v %q, want %q", resp.StatusCode, err, got, want)
						}
						if blanks := strings.ReplaceAll(strings.TrimSuffix(string(got), want), life, ""); life != "" && blanks != "" {
							t.Errorf("beside the answer came %q", blanks)
						}
						if asked != 2 {
							t.Errorf("the provider was asked %d times, want 2", asked)
						}
						rowsOf(t, b, "complete", 2)
					})
				})
			}
		}
	}
}

// rowsOf compares the one row of session s.
func rowsOf(t *testing.T, b *bubble, outcome string, attempts int) ledger.Record {
	t.Helper()
	synctest.Wait()
	page, err := b.server.ledger.Requests(t.Context(), "s", ledger.RecordQuery{})
	if err != nil || len(page.Records) != 1 {
		t.Fatalf("%d rows, %v", len(page.Records), err)
	}
	row := page.Records[0]
	if row.Outcome.String() != outcome || row.Attempts != attempts {
		t.Errorf("booked as %s after %d attempts, want %s after %d", row.Outcome, row.Attempts, outcome, attempts)
	}
	return row
}

// TestInside_LaterItIsPassedOn: once a part of the answer has left, the rate limit
// goes on to the client as it came, and others wait as after a 429.
func TestInside_LaterItIsPassedOn(t *testing.T) {
	for _, c := range []struct{ name, path, before, refusal string }{
		{"chat", "chat/completions", eventA, `data: {"error":{"code":"rate_limit_exceeded","message":"Please try again in 20s"}}` + "\n\n"},
		{"openrouter", "chat/completions", eventA, `data: {"id":"x","error":{"code":429,"message":"Please try again in 20s"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}` + "\n\n" + doneEvent},
		{"responses", "responses", created + wordEvent, "event: response.failed\ndata: " + `{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"Please try again in 20s"}}}` + "\n\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				b := handlerBubble(t, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					w.Header().Set("Content-Type", "text/event-stream")
					if asked++; asked > 1 {
						_, _ = io.WriteString(w, answered(c.path, "data: "))
						return
					}
					_, _ = io.WriteString(w, c.before)
					_ = http.NewResponseController(w).Flush()
					time.Sleep(time.Second)
					_, _ = io.WriteString(w, c.refusal)
				})
				defer b.Stop()
				got, err := io.ReadAll(b.Post(t, t.Context(), "/v1/session/s/"+c.path, sidecartest.ChatStream).Body)
				if err != nil || string(got) != c.before+c.refusal || asked != 1 {
					t.Errorf("%v %q, asked %d times", err, got, asked)
				}
				if row := rowsOf(t, b, "upstream_error", 1); row.Refused {
					t.Error("it is booked as if nothing had been made")
				}
				started := time.Now()
				_, _ = io.ReadAll(b.Post(t, t.Context(), "/v1/session/next/"+c.path, sidecartest.ChatStream).Body)
				if waited := time.Since(started); waited < 18*time.Second || waited > 30*time.Second {
					t.Errorf("the next one waited %v, want some 20 s", waited)
				}
			})
		})
	}
}

// TestInside_WhatIsNoRateLimitIsPassedOn, at once, unchanged, and it costs no budget.
func TestInside_WhatIsNoRateLimitIsPassedOn(t *testing.T) {
	for _, body := range []string{
		`data: {"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","code":"insufficient_quota"}}` + "\n\n",
		`data: {"error":{"message":"the model is on fire","type":"server_error","code":"500"}}` + "\n\n" + doneEvent,
		`{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}`,
		`{"error":{"message":"no such tool","code":400}}`,
		"\n\n" + `{"error":{"message":"no such tool"}}`,
		`{"error":"it is broken"}`,
		`{"object":"error","message":"it is broken","code":50001}`,
	} {
		t.Run(body, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				b := handlerBubble(t, func(w http.ResponseWriter, r *http.Request) {
					asked++
					_, _ = io.Copy(io.Discard, r.Body)
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, body)
				}, "RATE_LIMIT_PER_MIN", "0", "CONFIG_FILE", sidecartest.WriteFile(t, "config.yaml", "sessions:\n  - {match: \"s\", budget: {tokens: 500, per: ever}}\n"))
				defer b.Stop()
				for i := range 50 { // whose estimates would use up the budget many times
					started := time.Now()
					resp := b.Post(t, t.Context(), "/v1/session/s/chat/completions", sidecartest.ChatStream)
					got, err := io.ReadAll(resp.Body)
					if err != nil || resp.StatusCode != 200 || string(got) != body || asked != i+1 || time.Since(started) > 100*time.Millisecond {
						t.Fatalf("answer %d: %d %v %q after %v, asked %d times", i, resp.StatusCode, err, got, time.Since(started), asked)
					}
				}
				page, err := b.server.ledger.Requests(t.Context(), "s", ledger.RecordQuery{})
				if err != nil || len(page.Records) != 50 || page.Records[0].Outcome != ledger.UpstreamError || page.Records[0].UsageKnown {
					t.Errorf("%d rows, %v, %+v", len(page.Records), err, page.Records[0])
				}
			})
		})
	}
}

// TestInside_ANewAnswerMustFitWhatIsOut: behind headers with a length no other answer
// can come, nor one of another kind.
func TestInside_ANewAnswerMustFitWhatIsOut(t *testing.T) {
	const refusal = `data: {"error":{"code":429,"message":"x"}}` + "\n\n"
	for _, c := range []struct {
		name   string
		length bool
		second func(w http.ResponseWriter)
		got    string // "" = cut
		asked  int
	}{
		{"a length is out", true, nil, " \n" + refusal, 1},
		{"an error follows", false, func(w http.ResponseWriter) { w.WriteHeader(500) }, "", 2},
		{"json follows", false, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, jsonAnswer)
		}, "", 2},
		{"another coding follows", false, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, "xxx")
		}, "", 2},
		{"events under another label follow", false, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, eventA+eventB+doneEvent)
		}, " \n" + eventA + eventB + doneEvent, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				b := handlerBubble(t, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					if asked++; asked > 1 {
						c.second(w)
						return
					}
					w.Header().Set("Content-Type", "text/event-stream")
					if c.length {
						w.Header().Set("Content-Length", fmt.Sprint(2+len(refusal)))
					}
					_, _ = io.WriteString(w, " \n")
					_ = http.NewResponseController(w).Flush()
					time.Sleep(2 * time.Second)
					_, _ = io.WriteString(w, refusal)
				})
				defer b.Stop()
				body := strings.Replace(sidecartest.ChatStream, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1)
				resp := b.Post(t, t.Context(), chatPath, body)
				got, err := io.ReadAll(resp.Body)
				if (err == nil) != (c.got != "") || c.got != "" && string(got) != c.got || asked != c.asked {
					t.Errorf("%v %q, asked %d times", err, got, asked)
				}
			})
		})
	}
}
