package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
	goopenai "github.com/sashabaranov/go-openai"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// An oddStream is an answer of a kind that upstreams really send.
type oddStream struct {
	name    string
	body    string
	unasked string // the body for a request without include_usage; "": the same
	left    string // what a client that did not ask gets of body; "": what it gets directly
	cut     bool   // the connection is cut behind the body
	apart   bool   // every byte is sent on its own
	booked  admin.SessionStatus
}

const (
	nullErrorA = "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"error\":null}\n\n"
	growingA   = "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1,\"total_tokens\":8}}\n\n"
	growingB   = "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"}}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"total_tokens\":9}}\n\n"
	zeroUsage  = "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0}}\n\n"
)

func oddStreams() []oddStream {
	nine, none := totals("", 7, 2, 1), totals("", 0, 0, 1)
	plain, unasked := eventA+eventB+usageEv+doneEvent, eventA+eventB+doneEvent
	crlf := strings.NewReplacer("\n", "\r\n").Replace
	return []oddStream{
		{name: "nothing odd", body: plain, unasked: unasked, booked: nine},
		{name: "carriage returns", body: crlf(plain), unasked: crlf(unasked), booked: nine},
		{name: "byte by byte", body: plain, unasked: unasked, apart: true, booked: nine},
		{name: "usage in the last chunk and behind it", body: eventA + growingB + usageEv + doneEvent, unasked: eventA + growingB + doneEvent, booked: nine},
		// Only the last usage chunk is known to be the splice's.
		{name: "usage chunk twice", body: eventA + eventB + usageEv + usageEv + doneEvent, unasked: unasked, left: plain, booked: nine},
		{name: "usage that grows with every chunk", body: growingA + growingB + doneEvent, booked: nine},
		{name: "zero usage", body: eventA + eventB + zeroUsage + doneEvent, unasked: unasked, booked: none},
		{name: "no [DONE]", body: eventA + eventB + usageEv, unasked: eventA + eventB, booked: nine},
		{name: "cut off", body: eventA + eventB, cut: true, booked: none},
		{name: "an error that is null", body: nullErrorA + eventB + usageEv + doneEvent, unasked: nullErrorA + eventB + doneEvent, booked: nine},
	}
}

// makes is what an SDK that asked for usage makes of the stream.
func (o oddStream) makes(sdk string) seen {
	s := seen{"ab", strings.Count(o.body, "data: {"), o.booked.TotalTokens, ""}
	switch {
	case o.cut:
		s.failed = io.ErrUnexpectedEOF.Error()
	case sdk == "openai-go" && strings.Contains(o.body, `"error":null`): // it looks for the member, not for its value
		s = seen{failed: "received error while streaming: "}
	}
	return s
}

// serve sends the stream as an upstream does.
func (o oddStream) serve(w http.ResponseWriter, r *http.Request) {
	asked, _ := io.ReadAll(r.Body)
	body := o.body
	if o.unasked != "" && !strings.Contains(string(asked), `"include_usage":true`) {
		body = o.unasked
	}
	w.Header().Set("Content-Type", "text/event-stream")
	step := len(body)
	if o.apart {
		step = 1
	}
	for ; body != ""; body = body[step:] {
		_, _ = io.WriteString(w, body[:step])
		_ = http.NewResponseController(w).Flush()
	}
	if o.cut {
		panic(http.ErrAbortHandler)
	}
}

// officialStream reads one stream with openai-go, communityStream with go-openai.
func officialStream(ctx context.Context, baseURL string, usage bool) (s seen) {
	c := openai.NewClient(option.WithBaseURL(baseURL), option.WithAPIKey("sk-upstream-canary"))
	params := openai.ChatCompletionNewParams{Model: "gpt-4o", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("say 2 words")}}
	if usage {
		params.StreamOptions.IncludeUsage = openai.Bool(true)
	}
	stream := c.Chat.Completions.NewStreaming(ctx, params)
	defer stream.Close()
	for stream.Next() {
		s.events++
		chunk := stream.Current()
		if len(chunk.Choices) > 0 {
			s.text += chunk.Choices[0].Delta.Content
		}
		if chunk.JSON.Usage.Valid() {
			s.tokens = chunk.Usage.TotalTokens
		}
	}
	s.failed = failure(stream.Err())
	return s
}

func communityStream(ctx context.Context, baseURL string, usage bool) (s seen) {
	cfg := goopenai.DefaultConfig("sk-upstream-canary")
	cfg.BaseURL = baseURL
	request := goopenai.ChatCompletionRequest{Model: "gpt-4o", Messages: []goopenai.ChatCompletionMessage{{Role: "user", Content: "say 2 words"}}}
	if usage {
		request.StreamOptions = &goopenai.StreamOptions{IncludeUsage: true}
	}
	stream, err := goopenai.NewClientWithConfig(cfg).CreateChatCompletionStream(ctx, request)
	if err != nil {
		return seen{failed: err.Error()}
	}
	defer stream.Close()
	for {
		chunk, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.failed = err.Error()
			}
			return s
		}
		s.events++
		if len(chunk.Choices) > 0 {
			s.text += chunk.Choices[0].Delta.Content
		}
		if chunk.Usage != nil {
			s.tokens = int64(chunk.Usage.TotalTokens)
		}
	}
}

// TestWire_OddStreamsLookAsWithoutTheSidecar: what an SDK makes of an odd stream
// is its own affair, but it must make the same of it behind the sidecar, to the
// byte, and the usage must be booked whatever the stream looks like.
func TestWire_OddStreamsLookAsWithoutTheSidecar(t *testing.T) {
	sdks := map[string]func(context.Context, string, bool) seen{"openai-go": officialStream, "go-openai": communityStream}
	for _, odd := range oddStreams() {
		t.Run(odd.name, func(t *testing.T) {
			base := sidecartest.Scripted(t, odd.serve)
			s := start(t, base)
			var want []admin.SessionStatus
			for name, call := range sdks {
				for _, usage := range []bool{true, false} {
					session := fmt.Sprintf("%s-%v", name, usage)
					want = append(want, odd.booked)
					want[len(want)-1].SessionID = session
					direct := call(t.Context(), base, usage)
					through := call(t.Context(), s.URL+"/v1/session/"+session, usage)
					if direct != through && (usage || odd.left == "") {
						t.Errorf("%s: directly %+v, through the sidecar %+v", session, direct, through)
					}
					if made := odd.makes(name); usage && through != made {
						t.Errorf("%s: %+v, want %+v", session, through, made)
					}
				}
			}
			for _, usage := range []bool{true, false} {
				body, sent := sidecartest.ChatStream, cmp.Or(odd.left, odd.unasked, odd.body)
				if usage {
					body, sent = strings.Replace(body, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1), odd.body
				}
				got, err := io.ReadAll(sidecartest.Open(t, t.Context(), s.URL+"/v1/chat/completions", body).Body)
				if diff := gocmp.Diff(sent, string(got)); diff != "" || (err != nil) != odd.cut {
					t.Errorf("usage %v: %v, bytes differ (-want +got):\n%s", usage, err, diff)
				}
			}
			// An SDK may stop at an error in the stream; the rest is booked when it is over.
			s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 0 })
			status := s.Status()
			for _, booked := range want {
				if got := status[booked.SessionID]; got != booked {
					t.Errorf("booked %+v, want %+v", got, booked)
				}
				source := "exact" // zero usage is usage
				if odd.cut {
					source = "none"
				}
				if rows := s.Rows(booked.SessionID); len(rows) != 1 || rows[0].UsageSource != source {
					t.Errorf("%s: rows %+v, want one of source %s", booked.SessionID, rows, source)
				}
			}
		})
	}
}

// TestWire_SplitsAtEveryByte sends a stream in two parts, parted at each byte.
func TestWire_SplitsAtEveryByte(t *testing.T) {
	body := eventA + strings.ReplaceAll(eventB, "\n", "\r\n") + usageEv + doneEvent
	var at atomic.Int64
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, body[:at.Load()])
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, body[at.Load():])
	})
	s := start(t, base)
	calls := int64(0)
	for i := range len(body) {
		at.Store(int64(i))
		want := seen{"ab", 2, 0, ""}
		if got := officialStream(t.Context(), s.URL+"/v1/session/s", false); got != want {
			t.Fatalf("parted at byte %d: %+v, want %+v", i, got, want)
		}
		calls++
	}
	if got := s.Status()["s"]; got != totals("s", 7*calls, 2*calls, calls) {
		t.Errorf("booked %+v of %d calls", got, calls)
	}
}

// TestWire_GrowingUsageDoesNotHoldTheStreamBack reads each event before the next
// is made, though any of them might be the last that carries usage.
func TestWire_GrowingUsageDoesNotHoldTheStreamBack(t *testing.T) {
	up, base := sidecartest.NewStepwise(t)
	s := start(t, base)
	c := openai.NewClient(option.WithBaseURL(s.URL+"/v1/session/s"), option.WithMaxRetries(0))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // a stream that is held back fails, instead of hanging
	defer cancel()
	stream := c.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
		Model: "gpt-4o", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("say 2 words")},
	})
	defer stream.Close()
	for i, event := range []string{growingA, growingB} {
		up.Pieces <- event
		if !stream.Next() || stream.Current().Usage.CompletionTokens != int64(i+1) {
			t.Fatalf("event %d: %+v, %v", i, stream.Current(), stream.Err())
		}
	}
	up.Pieces <- doneEvent
	close(up.Pieces)
	if stream.Next() || stream.Err() != nil {
		t.Errorf("behind the end: %+v, %v", stream.Current(), stream.Err())
	}
	if got := s.Status()["s"]; got != totals("s", 7, 2, 1) {
		t.Errorf("booked %+v", got)
	}
}

// TestWire_SuccessIsNotSentAgain: openai-go obeys x-should-retry even on a 200,
// and pays for an answer three times.
func TestWire_SuccessIsNotSentAgain(t *testing.T) {
	for name, stream := range map[string]bool{"answer": false, "stream": true} {
		t.Run(name, func(t *testing.T) {
			var posts atomic.Int64
			base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
				posts.Add(1)
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("X-Should-Retry", "true")
				w.Header().Set("Retry-After-Ms", "1") // else the SDK takes its time
				if stream {
					w.Header().Set("Content-Type", "text/event-stream")
					_, _ = io.WriteString(w, eventA+eventB+usageEv+doneEvent)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}`)
			})
			call := func(baseURL string) int64 {
				posts.Store(0)
				if stream {
					officialStream(t.Context(), baseURL, true)
					return posts.Load()
				}
				c := openai.NewClient(option.WithBaseURL(baseURL), option.WithAPIKey("k"))
				_, _ = c.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
					Model: "gpt-4o", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("say 2 words")},
				})
				return posts.Load()
			}
			if n := call(base); n != 3 {
				t.Errorf("directly, the SDK sends %d times; this test is for one that sends 3 times", n)
			}
			s := start(t, base)
			if n := call(s.URL + "/v1/session/s"); n != 1 {
				t.Errorf("through the sidecar, the SDK sends %d times, want once", n)
			}
			if got := s.Status()["s"]; got != totals("s", 7, 2, 1) {
				t.Errorf("booked %+v", got)
			}
		})
	}
}

// TestWire_TruncatedJSONIsOneErrorAndOneRequest: an answer that breaks off may have
// been paid for, so neither the sidecar nor the SDK's own retries ask again.
func TestWire_TruncatedJSONIsOneErrorAndOneRequest(t *testing.T) {
	var posts atomic.Int64
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "500")
		_, _ = io.WriteString(w, `{"id":"x","choices":[`)
	})
	s := start(t, base)
	c := openai.NewClient(option.WithBaseURL(s.URL+"/v1/session/s"), option.WithAPIKey("k"))
	_, err := c.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
		Model: "gpt-4o", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("say 2 words")},
	})
	var api *openai.Error
	if !errors.As(err, &api) || api.StatusCode != http.StatusBadGateway || api.Code != "upstream_truncated" || posts.Load() != 1 {
		t.Errorf("%d requests, error %v; want one, and upstream_truncated", posts.Load(), err)
	}
	if rows := s.Rows("s"); len(rows) != 1 || rows[0].UsageSource != "none" {
		t.Errorf("rows %+v", rows)
	}
}
