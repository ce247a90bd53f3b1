package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

const (
	eventA    = "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n"
	eventB    = "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n"
	usageEv   = "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"total_tokens\":9}}\n\n"
	doneEvent = "data: [DONE]\n\n"
)

func TestStream_IsLiveAndItsEndWaitsForTheLedger(t *testing.T) {
	for _, wants := range []bool{false, true} {
		t.Run(fmt.Sprintf("client asked for usage: %v", wants), func(t *testing.T) {
			up, base := sidecartest.NewStepwise(t)
			s := start(t, base, sidecartest.SQLite(t)...)
			body := sidecartest.ChatStream
			if wants {
				body = strings.Replace(body, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1)
			}
			resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/s/chat/completions", body)
			// The answer's headers are there before its first byte, and each event before the next is made.
			up.Pieces <- eventA
			if got := sidecartest.Read(t, resp.Body, len(eventA)); got != eventA {
				t.Fatalf("first event %q", got)
			}
			up.Pieces <- eventB[:20]
			up.Pieces <- eventB[20:]
			if got := sidecartest.Read(t, resp.Body, len(eventB)); got != eventB {
				t.Fatalf("second event %q", got)
			}
			up.Pieces <- usageEv
			up.Pieces <- doneEvent
			if got := s.Status()["s"]; got.RequestCount != 0 {
				t.Fatalf("booked before the end: %+v", got)
			}
			close(up.Pieces)
			rest, err := io.ReadAll(resp.Body)
			want := doneEvent
			if wants {
				want = usageEv + doneEvent
			}
			if err != nil || string(rest) != want {
				t.Errorf("end %q, %v; want %q", rest, err, want)
			}
			if got := s.Status()["s"]; got != totals("s", 7, 2, 1) {
				t.Errorf("booked %+v", got)
			}
		})
	}
}

// TestStream_EndIsNotSentBeforeTheRecord reads the ledger at the very moment the
// last byte arrives.
func TestStream_EndIsNotSentBeforeTheRecord(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, sidecartest.SQLite(t)...)
	for i := range 20 {
		resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream)
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			if lines.Text() == "data: [DONE]" {
				if got := s.Status()["s"].RequestCount; got != int64(i+1) {
					t.Fatalf("%d answers are out, %d are booked", i+1, got)
				}
			}
		}
	}
}

func TestStream_ClientThatLeavesMidAnswer(t *testing.T) {
	for policy, want := range map[string]struct{ outcome, source string }{
		"drain": {"client_gone", "exact"}, "cancel": {"client_gone", "none"},
	} {
		t.Run(policy, func(t *testing.T) {
			up, base := sidecartest.NewStepwise(t)
			s := start(t, base, "DISCONNECT_POLICY", policy)
			ctx, leave := context.WithCancel(t.Context())
			resp := sidecartest.Open(t, ctx, s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream)
			up.Pieces <- eventA
			sidecartest.Read(t, resp.Body, len(eventA))
			leave()
			if policy == "drain" {
				for !strings.Contains(sidecartest.Send(t, "GET", s.URL+"/metrics", "").Body, "llm_queue_proxy_drains 1") {
					<-time.After(time.Millisecond)
				}
				for _, piece := range []string{eventB, usageEv, doneEvent} {
					up.Pieces <- piece
				}
				close(up.Pieces)
			} else {
				<-up.Closed
			}
			s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 0 })
			rows := s.Rows("s")
			if len(rows) != 1 || rows[0].Outcome != want.outcome || rows[0].UsageSource != want.source {
				t.Errorf("rows %+v, want %+v", rows, want)
			}
		})
	}
}

func TestStream_TruncatedAnswersAreCutOff(t *testing.T) {
	for name, fault := range map[string]provider.Fault{
		"cut": provider.CutAfterBytes(1000), "reset": provider.ResetAfterBytes(1000),
	} {
		t.Run(name, func(t *testing.T) {
			_, base := sidecartest.Simulated(t, provider.Config{Faults: []provider.Fault{fault}})
			s := start(t, base)
			resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream)
			body, err := io.ReadAll(resp.Body)
			if !errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(string(body), "[DONE]") {
				t.Errorf("read %q, %v; want an unexpected end", body, err)
			}
			s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 0 })
			if rows := s.Rows("s"); len(rows) != 1 || rows[0].Outcome != "truncated" || rows[0].UsageSource != "none" {
				t.Errorf("rows %+v", rows)
			}
		})
	}
	t.Run("a clean end without [DONE] stays as it is", func(t *testing.T) {
		_, base := sidecartest.Simulated(t, provider.Config{Faults: []provider.Fault{provider.NoDone()}})
		s := start(t, base)
		resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream)
		body, err := io.ReadAll(resp.Body)
		if err != nil || strings.Contains(string(body), "[DONE]") {
			t.Errorf("read %q, %v", body, err)
		}
	})
}

func TestStream_UpstreamThatKnowsNoStreamOptions(t *testing.T) {
	asked := 0
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), "stream_options") {
			asked++
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error","param":"stream_options","code":null}}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, eventA+doneEvent)
	})
	s := start(t, base)
	for range 3 {
		resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream)
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != eventA+doneEvent {
			t.Errorf("read %q, %v", body, err)
		}
	}
	if asked != 1 {
		t.Errorf("asked with stream_options %d times, want once", asked)
	}
	if rows := s.Rows("s"); len(rows) != 3 || rows[0].UsageSource != "none" || rows[0].Outcome != "complete" {
		t.Errorf("rows %+v", rows)
	}
}

func TestStream_HeartbeatWhileItWaits(t *testing.T) {
	t.Parallel()
	up, base := sidecartest.NewStepwise(t)
	s := start(t, base, "MAX_CONCURRENT_REQUESTS", "1", "QUEUE_HEARTBEAT", "1s")
	resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/a/chat/completions", sidecartest.ChatStream)
	up.Pieces <- eventA
	sidecartest.Read(t, resp.Body, len(eventA))

	waiting := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/b/chat/completions", sidecartest.ChatStream) // 200 at once: the headers come with the first beat
	if got := sidecartest.Read(t, waiting.Body, 2); got != " \n" || waiting.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" || waiting.Header.Get("X-Accel-Buffering") != "no" {
		t.Errorf("beat %q, headers %v", got, waiting.Header)
	}
	up.Pieces <- usageEv + doneEvent
	close(up.Pieces)
	rest, err := io.ReadAll(waiting.Body)
	if len(rest) != 0 || !errors.Is(err, io.ErrUnexpectedEOF) { // its own answer has no end
		t.Errorf("read %q, %v", rest, err)
	}
}

func TestShutdown_FinishesStreamsAndExitsWith0(t *testing.T) {
	up, base := sidecartest.NewStepwise(t)
	file := filepath.Join(t.TempDir(), "sessions.db")
	s := start(t, base, "REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", file)
	resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream)
	up.Pieces <- eventA
	sidecartest.Read(t, resp.Body, len(eventA))

	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop() }()
	for len(s.Log.Lines("draining")) == 0 {
		<-time.After(time.Millisecond)
	}
	up.Pieces <- eventB
	if got := sidecartest.Read(t, resp.Body, len(eventB)); got != eventB {
		t.Errorf("after the signal: %q", got)
	}
	up.Pieces <- usageEv + doneEvent
	close(up.Pieces)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != doneEvent {
		t.Errorf("end %q, %v", rest, err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stopped with %v", err)
	}
	_, base = sidecartest.Simulated(t, provider.Config{})
	if got := start(t, base, "REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", file).Status()["s"]; got.TotalTokens != 9 {
		t.Errorf("after the restart: %+v", got)
	}
}

func TestShutdown_RefusesWhatCannotFinish(t *testing.T) {
	t.Parallel()
	up, base := sidecartest.NewStepwise(t)
	s := start(t, base, "MAX_CONCURRENT_REQUESTS", "1", "SHUTDOWN_GRACE", "1s")
	resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/a/chat/completions", sidecartest.ChatStream)
	up.Pieces <- eventA
	sidecartest.Read(t, resp.Body, len(eventA))
	queued := make(chan sidecartest.Answer, 1)
	go func() {
		a, err := sidecartest.Try(t.Context(), "POST", s.URL+"/v1/session/b/chat/completions", sidecartest.Chat)
		if err == nil {
			queued <- a
		}
		close(queued)
	}()
	s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 1 })
	if err := s.Stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if a := <-queued; a.Response == nil || a.StatusCode != 503 || sidecartest.ErrorOf(t, a) != "shutting_down" || a.Header.Get("Retry-After") == "" {
		t.Errorf("the queued request got %+v", a)
	}
}
