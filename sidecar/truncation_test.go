package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// A sample is a good stream. From whole on it may end: what is missing then says
// nothing more.
type sample struct {
	name, path, body string
	whole            int
}

func samples() []sample {
	chat := eventA + eventB + usageEv + doneEvent
	bare := eventA + eventA + doneEvent
	counted := eventA + usageEv + doneEvent
	two := strings.ReplaceAll(eventB, `"index":0`, `"index":1`)
	crlf := strings.NewReplacer("\n", "\r\n").Replace
	return []sample{
		{"chat", "chat/completions", chat, len(eventA + eventB)},
		{"chat with only [DONE]", "chat/completions", bare, len(eventA+eventA) + len("data: [DONE]")},
		{"chat with only usage", "chat/completions", counted, len(eventA + usageEv[:len(usageEv)-1])},
		{"chat of two choices", "chat/completions?n=2", eventA + strings.ReplaceAll(eventA, `"index":0`, `"index":1`) + eventB + two, len(eventA)*2 + len(eventB+two)},
		{"chat with carriage returns", "chat/completions", crlf(eventA + eventB), len(crlf(eventA+eventB)) - 1}, // a CR ends a line, too
		{"completions", "completions", strings.ReplaceAll(eventA+eventB, `"delta":{"content":`, `"text":{"x":`), len(strings.ReplaceAll(eventA+eventB, `"delta":{"content":`, `"text":{"x":`))},
		{"responses", "responses", created + wordEvent + completed, len(created + wordEvent + completed)},
	}
}

// TestTruncation_IsToldAtEveryByte ends each stream cleanly at every byte, in every
// framing: whoever gets less than the whole must see that it is less. The framings
// other than chunks are tried around the ends of lines.
func TestTruncation_IsToldAtEveryByte(t *testing.T) {
	for _, framing := range framings {
		t.Run(framing, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var now atomic.Pointer[served]
				b := newBubbleWired(t, sidecartest.Wiring{
					Up: provider.NewPipe(), Down: provider.NewPipe(), HTTP2: framing == "http2",
					Provider: sidecartest.Serving(func(w http.ResponseWriter, r *http.Request) { now.Load().send(w, r, framing) }),
				}, "RATE_LIMIT_PER_MIN", "0")
				defer b.Stop()
				told := 0
				for _, s := range samples() {
					path, many := strings.CutSuffix(s.path, "?n=2")
					body := strings.Replace(sidecartest.ChatStream, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1)
					if many {
						body = strings.Replace(body, `"stream":true`, `"n":2,"stream":true`, 1)
					}
					for at := 0; at <= len(s.body); at++ {
						if framing != "chunked" && at%13 != 0 && !strings.Contains(s.body[max(0, at-2):min(len(s.body), at+2)], "\n") {
							continue
						}
						now.Store(&served{shape: shape{pieces: []string{s.body[:at/2], s.body[at/2 : at]}}, label: "text/event-stream"})
						session := fmt.Sprint("s", nextSession())
						resp := b.Post(t, t.Context(), "/v1/session/"+session+"/"+path, body)
						got, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						whole := at >= s.whole
						outcome := "complete"
						switch {
						case whole && (err != nil || resp.StatusCode != 200 || string(got) != s.body[:at]):
							t.Errorf("%s, whole at byte %d: %d %v %q", s.name, at, resp.StatusCode, err, got)
						case !whole:
							told++
							outcome = "truncated"
							if err == nil && (resp.StatusCode != 502 || !strings.Contains(string(got), "upstream_truncated")) || err != nil && !strings.HasPrefix(s.body, string(got)) {
								t.Errorf("%s, ended at byte %d: %d %v %q", s.name, at, resp.StatusCode, err, got)
							}
						}
						synctest.Wait()
						page, err := b.server.ledger.Requests(t.Context(), session, ledger.RecordQuery{})
						if err != nil || len(page.Records) != 1 || page.Records[0].Outcome.String() != outcome {
							t.Errorf("%s, ended at byte %d: %v, rows %+v, want %s", s.name, at, err, page.Records, outcome)
						}
					}
				}
				time.Sleep(time.Minute) // of virtual time: the provider ends its last answer
				if told < 150 {
					t.Errorf("only %d streams were too short: the test does not test much", told)
				}
			})
		})
	}
}
