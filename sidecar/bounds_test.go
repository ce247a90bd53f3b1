package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
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
	answers := make(chan *http.Response)
	ask := func() { answers <- sidecartest.Open(t, t.Context(), s.URL+"/v1/chat/completions", long) }
	go ask()
	up.Pieces <- eventA
	first := <-answers // its first event is here: no attempt can follow
	go ask()
	for second := (*http.Response)(nil); second == nil; {
		select {
		case up.Pieces <- eventA: // of either answer
		case second = <-answers:
			if second.StatusCode != 200 {
				t.Errorf("the first body is still held: %d", second.StatusCode)
			}
		}
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

// TestMemory_AnswersFlowWhereItIsShort: an answer that finds no room is passed on as it
// comes, all but its end, and is booked before that.
func TestMemory_AnswersFlowWhereItIsShort(t *testing.T) {
	const usage = `,"usage":{"prompt_tokens":7,"completion_tokens":3}`
	begin := `{"x":"` + strings.Repeat("x", 2<<20) + `"` + usage
	rest := make(chan struct{})
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, begin)
		_ = http.NewResponseController(w).Flush()
		<-rest
		_, _ = io.WriteString(w, "}")
	})
	s := start(t, base, "QUEUE_MAX_BYTES", "1MiB")
	resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/s/chat/completions", sidecartest.Chat)
	if got := sidecartest.Read(t, resp.Body, 2<<20-64<<10); got != begin[:len(got)] { // though its end has not come
		t.Error("the bytes changed")
	}
	if s.Status()["s"].RequestCount != 0 {
		t.Error("it is booked before its end")
	}
	close(rest)
	if tail, err := io.ReadAll(resp.Body); err != nil || !strings.HasSuffix(string(tail), usage+"}") {
		t.Errorf("%v, the end is %.60q", err, tail[max(0, len(tail)-60):])
	}
	if row := s.Status()["s"]; row.RequestCount != 1 || row.TotalTokens != 10 {
		t.Errorf("%+v", row)
	}
	if n := s.Metric(`held_bytes_short_total{kind="answers"}`); n == "0" {
		t.Error("nothing says that memory was short")
	}
	s.AtRest()
}

// TestMemory_AnswersLeaveRoomForRequests: answers that are held whole take half of the
// memory at most, and a request finds the rest. They are shown.
func TestMemory_AnswersLeaveRoomForRequests(t *testing.T) {
	rest, half := make(chan struct{}), make(chan struct{}, 10)
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		if strings.Contains(string(text), "hold") {
			_, _ = io.WriteString(w, `{"x":"`+strings.Repeat("x", 400<<10)+`"`)
			_ = http.NewResponseController(w).Flush()
			half <- struct{}{}
			<-rest
			_, _ = io.WriteString(w, "}")
		}
	})
	s := start(t, base, "QUEUE_MAX_BYTES", "2MiB")
	var answers sync.WaitGroup
	for range 10 {
		answers.Go(func() {
			a, err := sidecartest.Try(t.Context(), "POST", s.URL+"/v1/chat/completions", strings.Replace(sidecartest.Chat, "say", "hold", 1))
			if err != nil || len(a.Body) < 400<<10 {
				t.Errorf("%d bytes, %v", len(a.Body), err)
			}
		})
	}
	for range 10 {
		<-half
	}
	var queue struct{ Memory map[string]int64 }
	sidecartest.Eventually(t, "answers are held", func() bool {
		a := sidecartest.Send(t, "GET", s.URL+"/queue/status", "")
		if err := json.Unmarshal([]byte(a.Body), &queue); err != nil {
			t.Fatal(err)
		}
		return queue.Memory["answers"] > 400<<10
	})
	if m := queue.Memory; m["answers"] > 1<<20 || m["limit"] != 2<<20 || m["held"] < m["answers"] || m["overhead"] == 0 {
		t.Errorf("%v", m)
	}
	body := strings.Replace(sidecartest.Chat, "5 words", strings.Repeat("x", 900<<10), 1)
	if a := sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", body); a.StatusCode != 200 {
		t.Errorf("a request of less than half: %d %s", a.StatusCode, a.Body)
	}
	body = strings.Replace(body, "x", strings.Repeat("x", 1000<<10), 1)
	if a := sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", body); a.StatusCode != 503 || sidecartest.ErrorOf(t, a) != "queue_full" || a.Header.Get("Retry-After") == "" {
		t.Errorf("a request of nearly all: %d %s", a.StatusCode, a.Body)
	}
	close(rest)
	answers.Wait()
	s.AtRest()
}
