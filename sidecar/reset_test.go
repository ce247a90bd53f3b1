package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
	"github.com/openai/openai-go/responses"
	goopenai "github.com/sashabaranov/go-openai"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// A replayer answers every request with a recorded answer, as bytes on the wire,
// and breaks the connection where the test says.
type replayer struct {
	t       *testing.T
	address string
	wire    []byte       // status line, headers and body
	at      atomic.Int64 // bytes that are sent
	reset   atomic.Bool  // RST behind them, else FIN
}

func newReplayer(t *testing.T) *replayer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &replayer{t: t, address: listener.Addr().String()}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	return p
}

func (p *replayer) serve(conn *net.TCPConn) {
	defer conn.Close()
	// The request has a length, and nothing follows it: read to the end of its body.
	var head []byte
	buf := make([]byte, 4096)
	for want := -1; want < 0 || len(head) < want; {
		n, err := conn.Read(buf)
		head = append(head, buf[:n]...)
		if err != nil {
			return
		}
		if end := bytes.Index(head, []byte("\r\n\r\n")); end >= 0 && want < 0 {
			var length int
			if i := bytes.Index(head, []byte("Content-Length: ")); i >= 0 {
				_, _ = fmt.Sscan(string(head[i+16:]), &length)
			}
			want = end + 4 + length
		}
	}
	_, _ = conn.Write(p.wire[:p.at.Load()])
	if p.reset.Load() {
		_ = conn.SetLinger(0)
	}
}

// recording is the answer of the simulated provider to one call, framed anew.
func recording(t *testing.T, path, body string, chunked bool) []byte {
	t.Helper()
	_, base := sidecartest.Simulated(t, provider.Config{Seed: 5})
	a := sidecartest.Send(t, "POST", base+path, body, "Authorization", "Bearer sk-upstream-canary")
	if a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	var wire bytes.Buffer
	fmt.Fprintf(&wire, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\n", a.Header.Get("Content-Type"))
	if !chunked {
		fmt.Fprintf(&wire, "Content-Length: %d\r\n\r\n%s", len(a.Body), a.Body)
		return wire.Bytes()
	}
	wire.WriteString("Transfer-Encoding: chunked\r\n\r\n")
	for rest := a.Body; rest != ""; {
		event, after, _ := strings.Cut(rest, "\n\n")
		if rest = after; strings.HasPrefix(a.Header.Get("Content-Type"), "text/event-stream") {
			event += "\n\n"
		} else {
			event, rest = a.Body, ""
		}
		fmt.Fprintf(&wire, "%x\r\n%s\r\n", len(event), event)
	}
	wire.WriteString("0\r\n\r\n")
	return wire.Bytes()
}

// caller makes one call as a user of an SDK does, and says whether the SDK called
// it a success, and what it got.
type caller struct {
	name, path, body string
	call             func(t *testing.T, url string) (text string, err error)
}

var callers = []caller{
	{"openai-go chat stream", "/chat/completions", `{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"say 3 words"}]}`, func(t *testing.T, url string) (string, error) {
		c := openai.NewClient(option.WithBaseURL(url), option.WithMaxRetries(0), option.WithAPIKey("x"))
		stream := c.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{Model: "gpt-4o", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("say 3 words")}})
		defer stream.Close()
		text := ""
		for stream.Next() {
			if choices := stream.Current().Choices; len(choices) > 0 {
				text += choices[0].Delta.Content + "|" + choices[0].FinishReason
			}
		}
		return text, stream.Err()
	}},
	{"openai-go chat", "/chat/completions", `{"model":"gpt-4o","messages":[{"role":"user","content":"say 3 words"}]}`, func(t *testing.T, url string) (string, error) {
		c := openai.NewClient(option.WithBaseURL(url), option.WithMaxRetries(0), option.WithAPIKey("x"))
		r, err := c.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{Model: "gpt-4o", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("say 3 words")}})
		if err != nil {
			return "", err
		}
		return r.Choices[0].Message.Content, nil
	}},
	{"openai-go completions stream", "/completions", `{"model":"gpt-4o","stream":true,"prompt":"say 3 words"}`, func(t *testing.T, url string) (string, error) {
		c := openai.NewClient(option.WithBaseURL(url), option.WithMaxRetries(0), option.WithAPIKey("x"))
		stream := c.Completions.NewStreaming(t.Context(), openai.CompletionNewParams{Model: "gpt-4o", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("say 3 words")}})
		defer stream.Close()
		text := ""
		for stream.Next() {
			if choices := stream.Current().Choices; len(choices) > 0 {
				text += choices[0].Text + "|" + string(choices[0].FinishReason)
			}
		}
		return text, stream.Err()
	}},
	{"openai-go responses stream", "/responses", `{"model":"gpt-4o","stream":true,"input":"say 3 words"}`, func(t *testing.T, url string) (string, error) {
		c := openai.NewClient(option.WithBaseURL(url), option.WithMaxRetries(0), option.WithAPIKey("x"))
		stream := c.Responses.NewStreaming(t.Context(), responses.ResponseNewParams{Model: "gpt-4o", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("say 3 words")}})
		defer stream.Close()
		text := ""
		for stream.Next() {
			switch e := stream.Current().AsAny().(type) {
			case responses.ResponseTextDeltaEvent:
				text += e.Delta
			case responses.ResponseCompletedEvent:
				text += "|completed"
			}
		}
		return text, stream.Err()
	}},
	{"go-openai chat stream", "/chat/completions", `{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"say 3 words"}]}`, func(t *testing.T, url string) (string, error) {
		cfg := goopenai.DefaultConfig("x")
		cfg.BaseURL = url
		stream, err := goopenai.NewClientWithConfig(cfg).CreateChatCompletionStream(t.Context(), goopenai.ChatCompletionRequest{Model: "gpt-4o", Messages: []goopenai.ChatCompletionMessage{{Role: "user", Content: "say 3 words"}}})
		if err != nil {
			return "", err
		}
		defer stream.Close()
		for text := ""; ; {
			chunk, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return text, nil
			}
			if err != nil {
				return text, err
			}
			if len(chunk.Choices) > 0 {
				text += chunk.Choices[0].Delta.Content + "|" + string(chunk.Choices[0].FinishReason)
			}
		}
	}},
}

// TestReset_AtEveryByteNoSDKSeesSuccess breaks recorded answers at every byte, by
// RST and by FIN, chunked and not. A success that an SDK reports must be the
// whole text; and where the whole answer has come it must be a success.
func TestReset_AtEveryByteNoSDKSeesSuccess(t *testing.T) {
	t.Parallel()
	step := 1
	if testing.Short() {
		step = 7
	}
	for _, c := range callers {
		for _, chunked := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, chunked %v", c.name, chunked), func(t *testing.T) {
				p := newReplayer(t)
				p.wire = recording(t, c.path, c.body, chunked)
				s := start(t, "http://"+p.address+"/v1", "QUEUE_MAX_WAIT", "1s")
				url := s.URL + "/v1/session/s"
				p.at.Store(int64(len(p.wire)))
				want, err := c.call(t, url)
				if err != nil || want == "" {
					t.Fatalf("the whole answer: %q, %v", want, err)
				}
				truncated, whole := 0, 0
				for at := 0; at < len(p.wire); at += step {
					p.at.Store(int64(at))
					p.reset.Store(at%2 == 0)
					switch got, err := c.call(t, url); {
					case err != nil:
						truncated++
					case got != want:
						t.Fatalf("broken at byte %d of %d (RST %v): the SDK took %q for success, the whole is %q", at, len(p.wire), p.reset.Load(), got, want)
					default:
						whole++ // only the end of the framing was missing
					}
				}
				t.Logf("%d offsets: %d errors, %d whole answers", truncated+whole, truncated, whole)
				if truncated < len(p.wire)/step*8/10 {
					t.Errorf("only %d of %d offsets were errors", truncated, len(p.wire)/step)
				}
				http.DefaultTransport.(*http.Transport).CloseIdleConnections()
				s.AtRest()
			})
		}
	}
}
