package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

func TestProtocol_InterimAnswersPass(t *testing.T) {
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</x>; rel=preload")
		w.Header().Set("X-Echo", "Bearer sk-upstream-canary")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusProcessing)
		w.Header().Del("Link")
		w.Header().Del("X-Echo")
		_, _ = io.WriteString(w, `{"object":"list"}`)
	})
	s := start(t, base)
	var seen []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		seen = append(seen, fmt.Sprint(code, h.Get("Link"), h.Get("X-Echo")))
		return nil
	}})
	a, err := sidecartest.Try(ctx, "GET", s.URL+"/v1/models", "")
	if err != nil || a.StatusCode != 200 || a.Header.Get("Link") != "" || a.Header.Get("X-Request-Id") == "" {
		t.Errorf("answered %v, %v", a.Response, err)
	}
	if fmt.Sprint(seen) != "[103</x>; rel=preload 102</x>; rel=preload]" {
		t.Errorf("interim answers %q", seen)
	}
	_, reader := s.Raw("GET /v1/models HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
	if line, err := reader.ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") {
		t.Errorf("an HTTP/1.0 client, which knows none, got %q, %v", line, err)
	}
}

// TestProtocol_NoInterimBesideExpect: the goroutine that reads the body writes the 100
// that the client waits for, and the provider's 103 would get in between.
func TestProtocol_NoInterimBesideExpect(t *testing.T) {
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.Copy(w, r.Body)
	})
	s := start(t, base)
	conn, reader := s.Raw("POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if line, err := reader.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, _ = io.WriteString(conn, "hello")
	rest, err := io.ReadAll(reader)
	if err != nil || strings.Count(string(rest), "HTTP/1.1 ") != 1 || !strings.Contains(string(rest), "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(string(rest), "hello") {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestProtocol_TrailersPass(t *testing.T) {
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, eventA+usageEv+doneEvent)
		_ = http.NewResponseController(w).Flush() // a short answer would be sent with its length, and without trailers
		w.Header().Set(http.TrailerPrefix+"X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-Echo", "Bearer sk-upstream-canary")
	})
	a := sidecartest.Send(t, "POST", start(t, base).URL+"/v1/chat/completions", sidecartest.ChatStream)
	if a.Trailer.Get("X-Sum") != "1" || a.Trailer.Get("X-Echo") != "" {
		t.Errorf("trailers %v", a.Trailer)
	}
}

func TestProtocol_HeadKeepsItsHeaders(t *testing.T) {
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "1234") })
	a := sidecartest.Send(t, "HEAD", start(t, base).URL+"/v1/files/x/content", "")
	if a.StatusCode != 200 || a.ContentLength != 1234 || a.Body != "" {
		t.Errorf("%d, %d bytes declared, body %q", a.StatusCode, a.ContentLength, a.Body)
	}
}

// TestProtocol_ContinueIsSaidWhenTheBodyIsWanted checks that a client which asks
// first is told no before it sends, and yes only then.
func TestProtocol_ContinueIsSaidWhenTheBodyIsWanted(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "MAX_BODY_BYTES", "1KiB")
	head := "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: "
	conn, reader := s.Raw(fmt.Sprintf("%s%d\r\n\r\n", head, len(sidecartest.Chat)))
	if line, err := reader.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	_, _ = reader.ReadString('\n')
	_, _ = io.WriteString(conn, sidecartest.Chat)
	if resp, err := http.ReadResponse(reader, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("got %v, %v", resp, err)
	}
	_, reader = s.Raw(head + "4096\r\n\r\n")
	if line, err := reader.ReadString('\n'); err != nil || !strings.Contains(line, " 413 ") {
		t.Errorf("a body that is too large: %q, %v", line, err)
	}
}

func TestProtocol_HTTP10(t *testing.T) {
	cut := false
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, eventA)
		_ = http.NewResponseController(w).Flush()
		if cut {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, doneEvent)
	}))
	request := fmt.Sprintf("POST /v1/chat/completions HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", len(sidecartest.ChatStream), sidecartest.ChatStream)
	_, reader := s.Raw(request)
	whole, err := io.ReadAll(reader)
	head, body, _ := strings.Cut(string(whole), "\r\n\r\n")
	if err != nil || !strings.HasPrefix(head, "HTTP/1.0 200 OK") || strings.Contains(head, "chunked") || body != eventA+doneEvent {
		t.Errorf("got %q, %v", whole, err)
	}
	cut = true
	_, reader = s.Raw(request)
	if part, err := io.ReadAll(reader); err == nil {
		t.Errorf("a truncated answer ended like a whole one: %q", part)
	}
}

func TestProtocol_PipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base)
	one := "GET /v1/no/such/%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	post := fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", len(sidecartest.Chat), sidecartest.Chat)
	_, reader := s.Raw(fmt.Sprintf(one, 1) + post + fmt.Sprintf(one, 2))
	for i, want := range []string{"/no/such/1", `"usage"`, "/no/such/2"} {
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i+1, err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), want) {
			t.Errorf("answer %d: %s, %v; want %s in it", i+1, body, err, want)
		}
	}
}

// TestProtocol_SplitBytesStayAsTheyAre sends an answer byte by byte, among them
// the halves of characters and bytes that are none.
func TestProtocol_SplitBytesStayAsTheyAre(t *testing.T) {
	text := "data: {\"choices\":[{\"delta\":{\"content\":\"é€😀 \xff\xfe \xe2\x82\"}}]}\r\n\r\n: \xf0\x9f\n\n" + usageEv + doneEvent
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range len(text) {
			_, _ = io.WriteString(w, text[i:i+1])
			_ = http.NewResponseController(w).Flush()
		}
	}))
	a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", strings.Replace(sidecartest.ChatStream, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1))
	if a.Body != text {
		t.Errorf("got %q\nwant %q", a.Body, text)
	}
	if rows := s.Rows("s"); len(rows) != 1 || rows[0].UsageSource != "exact" {
		t.Errorf("rows %+v", rows)
	}
}

// TestUpload_TrickleIsCut sends a byte every twenty seconds: each gap is short
// enough, the whole is not.
func TestUpload_TrickleIsCut(t *testing.T) {
	for _, upload := range []struct{ name, head string }{
		{"held", fmt.Sprintf("POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n", chatPath)},
		{"streamed", "POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"},
	} {
		t.Run(upload.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := handlerBubble(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
				defer b.Stop()
				conn, err := b.Dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				answered := make(chan string, 1)
				go func() { // net.Pipe has no buffer: the answer has to be read
					answer, _ := io.ReadAll(conn)
					answered <- string(answer)
				}()
				started := time.Now()
				_, err = io.WriteString(conn, upload.head)
				for err == nil && time.Since(started) < time.Hour {
					time.Sleep(20 * time.Second)
					_, err = conn.Write([]byte{'x'})
				}
				if took := time.Since(started); took > 2*httpapi.BodyPatience {
					t.Errorf("a trickling body was read for %v", took)
				}
				if text := <-answered; upload.name == "held" && !strings.Contains(text, `"body_unreadable"`) {
					t.Errorf("answered %q", text)
				}
				time.Sleep(time.Minute)
				if n := b.server.limits.InFlight() + int(b.server.proxy.Load().Memory.All); n != 0 {
					t.Errorf("%d places and bytes are still held", n)
				}
			})
		})
	}
	t.Run("a slow provider is not the client's fault", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const size = 1 << 20
			got := 0
			b := handlerBubble(t, func(_ http.ResponseWriter, r *http.Request) {
				p := make([]byte, 16<<10)
				for {
					n, err := r.Body.Read(p)
					got += n
					if err != nil {
						return
					}
					time.Sleep(5 * time.Second)
				}
			})
			defer b.Stop()
			resp := b.Post(t, t.Context(), "/v1/files", string(bytes.Repeat([]byte{'x'}, size)))
			if resp.StatusCode != 200 || got != size {
				t.Errorf("%d after %d bytes", resp.StatusCode, got)
			}
		})
	})
}

// TestBody_EncodedRequestsPassUndecoded: nothing of ours unpacks a client's
// bytes, so there is no bomb to defuse.
func TestBody_EncodedRequestsPassUndecoded(t *testing.T) {
	var seen, encoding string
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen, encoding = string(body), r.Header.Get("Content-Encoding")
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`)
	}))
	packed := "\x1f\x8b\x08 not really"
	a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", packed, "Content-Encoding", "gzip")
	if a.StatusCode != 200 || seen != packed || encoding != "gzip" || s.Status()["s"].TotalTokens != 3 {
		t.Errorf("%d, the provider got %q %q", a.StatusCode, seen, encoding)
	}
}

func TestLoop_IsBrokenByNameAndByLength(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base)
	hops := func(n int) string { return strings.Repeat("1.1 llm-queue-proxy-abc, ", n) + "1.1 other" }
	if a := sidecartest.Send(t, "GET", s.URL+"/v1/models", "", "Via", hops(maxHops)); a.StatusCode != 200 {
		t.Errorf("%d hops: %d %s", maxHops, a.StatusCode, a.Body)
	}
	if a := sidecartest.Send(t, "GET", s.URL+"/v1/models", "", "Via", hops(maxHops+1)); a.StatusCode != 508 || sidecartest.ErrorOf(t, a) != "loop_detected" {
		t.Errorf("%d hops: %d %s", maxHops+1, a.StatusCode, a.Body)
	}
	var front *sidecartest.Sidecar
	base = sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) { // leads back, as a wrong OPENAI_BASE_URL does
		req, _ := http.NewRequestWithContext(r.Context(), "GET", front.URL+"/v1/models", nil)
		req.Header = r.Header
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})
	front = start(t, base)
	if a := sidecartest.Send(t, "GET", front.URL+"/v1/models", ""); a.StatusCode != 508 {
		t.Errorf("a loop: %d %s", a.StatusCode, a.Body)
	}
}
