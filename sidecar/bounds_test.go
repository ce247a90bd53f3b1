package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

func TestBody_BytesAreGivenBackWhenTheAnswerBegins(t *testing.T) {
	up, base := sidecartest.NewStepwise(t)
	s := start(t, base, "QUEUE_MAX_BYTES", "1KiB")
	long := strings.Replace(sidecartest.ChatStream, "say", strings.Repeat("x", 900)+" say", 1)
	first := sidecartest.Open(t, t.Context(), s.URL+"/v1/chat/completions", long) // its headers are here: no attempt can follow
	if second := sidecartest.Open(t, t.Context(), s.URL+"/v1/chat/completions", long); second.StatusCode != 200 {
		t.Errorf("the first body is still held: %d", second.StatusCode)
	}
	if third := sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", strings.Repeat(" ", 2000)); third.StatusCode != 413 {
		t.Errorf("a body that never fits: %d", third.StatusCode)
	}
	close(up.Pieces)
	_, _ = io.Copy(io.Discard, first.Body)
}

func TestBody_QueueFullOfBodiesRefuses(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{TTFT: time.Hour})
	s := start(t, base, "QUEUE_MAX_BYTES", "1KiB", "MAX_CONCURRENT_REQUESTS", "1", "DISCONNECT_POLICY", "cancel")
	long := strings.Replace(sidecartest.Chat, "say", strings.Repeat("x", 900)+" say", 1)
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _, _ = sidecartest.Try(ctx, "POST", s.URL+"/v1/chat/completions", long) }()
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 1 })
	if a := sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", long); a.StatusCode != 503 || sidecartest.ErrorOf(t, a) != "queue_full" {
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
	leave()
	<-done
}

func TestLedgerOnFailure_Refuses(t *testing.T) {
	t.Parallel()
	for policy, status := range map[string]int{"serve": 200, "refuse": 503} {
		t.Run(policy, func(t *testing.T) {
			_, base := sidecartest.Simulated(t, provider.Config{})
			cfg, err := configOf("OPENAI_API_KEY", "sk-upstream-canary", "OPENAI_BASE_URL", base, "LEDGER_ON_FAILURE", policy, "PORT", "0")
			if err != nil {
				t.Fatal(err)
			}
			s, address, stop, err := inProcess(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.ledger.Close(t.Context()); err != nil { // from here on it takes nothing
				t.Fatal(err)
			}
			url := "http://" + address + "/v1/chat/completions"
			if a := sidecartest.Send(t, "POST", url, sidecartest.Chat); a.StatusCode != 200 {
				t.Errorf("an answer that is billed was not delivered: %d %s", a.StatusCode, a.Body)
			}
			if a := sidecartest.Send(t, "POST", url, sidecartest.Chat); a.StatusCode != status || status == 503 && sidecartest.ErrorOf(t, a) != "ledger_unavailable" {
				t.Errorf("the next one: %d %s", a.StatusCode, a.Body)
			}
			_ = stop() // the ledger is closed already
		})
	}
}

// TestRecord_IsBeforeTheFirstByteOfAHeldAnswer needs an answer that no buffer
// of net/http holds.
func TestRecord_IsBeforeTheFirstByteOfAHeldAnswer(t *testing.T) {
	large := `{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3},"x":"` + strings.Repeat("x", 1<<20) + `"}`
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, large)
	}), sidecartest.SQLite(t)...)
	for i := range 10 {
		resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/s/chat/completions", sidecartest.Chat)
		sidecartest.Read(t, resp.Body, 1)
		if got := s.Status()["s"].RequestCount; got != int64(i+1) {
			t.Fatalf("%d answers have begun, %d are booked", i+1, got)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
}

func TestRecord_IsBeforeTheEndHoweverMuchFollowsIt(t *testing.T) {
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, eventA+usageEv+doneEvent+strings.Repeat(": after the end\n", 100_000))
	}))
	resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/s/chat/completions", strings.Replace(sidecartest.ChatStream, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1))
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if lines.Text() == "data: [DONE]" && s.Status()["s"].TotalTokens != 9 {
			t.Fatal("[DONE] is out, nothing is booked")
		}
	}
}

func TestClient_ThatHalfClosesIsCutNotCompleted(t *testing.T) {
	up, base := sidecartest.NewStepwise(t)
	s := start(t, base, "DISCONNECT_POLICY", "cancel")
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", len(sidecartest.ChatStream), sidecartest.ChatStream)
	up.Pieces <- eventA
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	sidecartest.Read(t, resp.Body, len(eventA))
	_ = conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a clean end behind %q", rest)
	}
}

func TestClient_QueuedUploadThatLeavesIsNotSent(t *testing.T) {
	sim, base := sidecartest.Simulated(t, provider.Config{TTFT: time.Hour})
	s := start(t, base, "MAX_CONCURRENT_REQUESTS", "1", "DISCONNECT_POLICY", "cancel")
	first, leaveFirst := context.WithCancel(t.Context())
	second, leaveSecond := context.WithCancel(t.Context())
	defer leaveSecond()
	done := make(chan struct{}, 2)
	ask := func(ctx context.Context, path string) {
		_, _ = sidecartest.Try(ctx, "POST", s.URL+path, sidecartest.Chat)
		done <- struct{}{}
	}
	go ask(first, "/v1/chat/completions")
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 1 })
	go ask(second, "/v1/moderations")
	s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 1 })
	leaveSecond()
	<-done
	s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 0 })
	leaveFirst()
	<-done
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 0 })
	if n := len(sim.Ledger()); n != 1 {
		t.Errorf("%d requests reached the upstream, want 1", n)
	}
}

func TestPeek_ReadsWhatIsGzipped(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{Faults: []provider.Fault{provider.Quota()}})
	s := start(t, base)
	if a := sidecartest.Send(t, "GET", s.URL+"/v1/models", "", "Accept-Encoding", "gzip"); a.StatusCode != 429 {
		t.Errorf("insufficient_quota was waited for: %d", a.StatusCode)
	}
}

func TestOutcome_InStreamErrorIsNotComplete(t *testing.T) {
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, eventA+"data: {\"error\":{\"message\":\"boom\",\"type\":\"server_error\"}}\n\n"+doneEvent)
	}))
	sidecartest.Open(t, t.Context(), s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream)
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 0 })
	if rows := s.Rows("s"); len(rows) != 1 || rows[0].Outcome != ledger.UpstreamError.String() {
		t.Errorf("rows %+v", rows)
	}
}
