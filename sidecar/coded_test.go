package main

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

type flushWriter interface {
	io.WriteCloser
	Flush() error
}

var codings = map[string]func(w io.Writer) flushWriter{
	"gzip":    func(w io.Writer) flushWriter { return gzip.NewWriter(w) },
	"deflate": func(w io.Writer) flushWriter { return zlib.NewWriter(w) },
	"br":      func(w io.Writer) flushWriter { return brotli.NewWriter(w) },
	"zstd":    func(w io.Writer) flushWriter { z, _ := zstd.NewWriter(w); return z },
}

const (
	codedAnswer = `{"id":"x","model":"m","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}}`
	codedFirst  = `data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"hi"}}]}` + "\n\n"
	codedRest   = `data: {"id":"x","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n" +
		`data: {"id":"x","choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}}` + "\n\ndata: [DONE]\n\n"
)

// A provider that compresses has its usage booked all the same. Its bytes reach the client as they are, and its events
// when they come.
func TestCoded_IsBooked(t *testing.T) {
	for name, coder := range codings {
		t.Run(name, func(t *testing.T) {
			var sent bytes.Buffer
			next := make(chan struct{}, 1)
			base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				w.Header().Set("Content-Encoding", name)
				sent.Reset()
				c := coder(io.MultiWriter(w, &sent))
				if !bytes.Contains(body, []byte(`"stream":true`)) {
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(c, codedAnswer)
					_ = c.Close()
					return
				}
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(c, codedFirst)
				_ = c.Flush()
				_ = http.NewResponseController(w).Flush()
				select {
				case <-next: // the client has the first event
				case <-r.Context().Done():
				}
				_, _ = io.WriteString(c, codedRest)
				_ = c.Close()
			})
			s := start(t, base)
			a := sidecartest.Send(t, "POST", s.URL+"/v1/session/json/chat/completions", sidecartest.Chat, "Accept-Encoding", name)
			if a.StatusCode != 200 || a.Header.Get("Content-Encoding") != name || a.Body != sent.String() {
				t.Errorf("%d %v, %d bytes of %d", a.StatusCode, a.Header, len(a.Body), sent.Len())
			}

			req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/v1/session/stream/chat/completions", bytes.NewReader([]byte(sidecartest.ChatStream)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Accept-Encoding", name)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			first := make([]byte, 1)
			if _, err := io.ReadFull(resp.Body, first); err != nil {
				t.Fatal(err)
			}
			next <- struct{}{}
			rest, err := io.ReadAll(resp.Body)
			if err != nil || string(first)+string(rest) != sent.String() {
				t.Errorf("%d bytes of %d, %v", 1+len(rest), sent.Len(), err)
			}
			for _, session := range []string{"json", "stream"} {
				if r := s.Rows(session)[0]; r.UsageSource != "exact" || deref(r.PromptTokens) != 1000 || deref(r.CompletionTokens) != 100 || r.Outcome != "complete" || r.AnsweredModel != "m" {
					t.Errorf("%s: %+v", session, r)
				}
			}
		})
	}
}

// A 200 with an error in it costs nothing: no budget is drawn on, and nothing counts as unknown. That holds for one
// that is passed on, and for a rate limit that is waited out in vain.
func TestBudget_WhatIsRefusedInsideIsFree(t *testing.T) {
	for name, refusal := range map[string]string{
		"an error":     `{"error":{"message":"it failed","type":"server_error","param":null,"code":"server_error"}}`,
		"a rate limit": `{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if bytes.Contains(body, []byte(`"stream":true`)) {
					w.Header().Set("Content-Type", "text/event-stream")
					_, _ = io.WriteString(w, "data: "+refusal+"\n\ndata: [DONE]\n\n")
					return
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, refusal)
			})
			s := start(t, base, append(withFile(t, `sessions: [{match: "*", budget: {tokens: 20, per: ever}}]`), "QUEUE_MAX_WAIT", "300ms")...)
			for range 3 {
				for _, body := range []string{sidecartest.Chat, sidecartest.ChatStream} {
					a := sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", body)
					if a.StatusCode == http.StatusPaymentRequired {
						t.Fatalf("refused requests used the budget up: %s; rows %+v", a.Body, s.Rows("a"))
					}
				}
			}
			if rows := s.SessionsPage(); len(rows) != 1 || rows[0].UnknownUsageCount != 0 {
				t.Errorf("sessions %+v; want nothing unknown", rows)
			}
			if rows := s.Usage("session=a").Rows; len(rows) > 1 || len(rows) == 1 && rows[0].UnknownUsageCount != 0 {
				t.Errorf("usage %+v; want nothing unknown", rows)
			}
		})
	}
}
