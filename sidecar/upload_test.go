package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// impatient is a provider that answers each request as soon as it has its head,
// and reads no body.
func impatient(t *testing.T, answer string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				head := bufio.NewReader(conn)
				for line := ""; line != "\r\n"; {
					if line, err = head.ReadString('\n'); err != nil {
						return
					}
				}
				_, _ = io.WriteString(conn, answer)
			}()
		}
	}()
	return "http://" + listener.Addr().String() + "/v1"
}

// An answer that comes before the upload is over is handed on at once, not with
// the client's next bytes: it is mostly a refusal, and the client may stop.
func TestUpload_EarlyAnswerIsNotHeldBack(t *testing.T) {
	t.Parallel()
	const refusal = `{"error":{"message":"too large","type":"invalid_request_error","code":null}}`
	base := impatient(t, fmt.Sprintf("HTTP/1.1 413 Too Large\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(refusal), refusal))
	const head = "POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\n"
	for _, upload := range []struct{ name, text string }{
		{"declared", head + "Content-Length: 10000000\r\n\r\nsome of it"},
		{"chunked", head + "Transfer-Encoding: chunked\r\n\r\na\r\nsome of it\r\n"},
		{"that would end soon", head + "Content-Length: 300000\r\n\r\n" + strings.Repeat("x", 200000)},
		{"not begun", head + "Content-Length: 10000000\r\n\r\n"},
		{"that waits to be wanted", head + "Expect: 100-continue\r\nContent-Length: 10000000\r\n\r\n"},
	} {
		t.Run(upload.name, func(t *testing.T) {
			s := start(t, base)
			conn, reader := s.Raw(upload.text)
			_ = conn.SetReadDeadline(time.Now().Add(4 * time.Second)) // less than bodyRest
			resp, err := http.ReadResponse(reader, nil)
			for err == nil && resp.StatusCode == 100 {
				resp, err = http.ReadResponse(reader, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != 413 || string(body) != refusal || err != nil || !resp.Close {
				t.Errorf("%d %q %v, closes: %v", resp.StatusCode, body, err, resp.Close)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A client that is busy sending gets the refusal, not a broken pipe.
func TestUpload_EarlyAnswerReachesAClientThatSendsOn(t *testing.T) {
	s := start(t, impatient(t, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}"))
	resp, err := http.Post(s.URL+"/v1/files", "application/octet-stream", io.LimitReader(zeros{}, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(text) != "{}" || err != nil {
		t.Errorf("%d %q %v", resp.StatusCode, text, err)
	}
}

// An upload and its answer may go side by side.
func TestUpload_AnswerFlowsWhileItIsSent(t *testing.T) {
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		p := make([]byte, 64)
		for {
			n, err := r.Body.Read(p)
			_, _ = w.Write(p[:n])
			_ = rc.Flush()
			if err != nil {
				return
			}
		}
	})
	s := start(t, base)
	sent, upload := io.Pipe()
	resp, err := http.Post(s.URL+"/v1/audio/echo", "application/octet-stream", sent)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for i := range 3 {
		word := fmt.Sprintf("word %d", i)
		if _, err := io.WriteString(upload, word); err != nil {
			t.Fatal(err)
		}
		if got := sidecartest.Read(t, resp.Body, len(word)); got != word {
			t.Errorf("got %q for %q", got, word)
		}
	}
	upload.Close()
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Errorf("the end: %q, %v", rest, err)
	}
}

// Who sent all of an upload keeps the connection.
func TestUpload_ConnectionIsKeptBehindIt(t *testing.T) {
	base := sidecartest.Scripted(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	s := start(t, base)
	_, reader := s.Raw("POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 300000\r\n\r\n" + strings.Repeat("x", 300000) +
		"GET /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	for range 2 {
		resp, err := http.ReadResponse(reader, nil)
		if err != nil || resp.StatusCode != 200 || resp.Close {
			t.Fatalf("%v %v", resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
}

// A small upload is sent again after a 429, whether it declared its length or not,
// and a large one cannot be: its 429 is handed on.
func TestUpload_SmallOnesAreKeptForAnotherAttempt(t *testing.T) {
	const most = 256 << 10
	for _, upload := range []struct {
		name   string
		bytes  int
		parts  int // that it is sent in, 0 = its length is declared
		status int
	}{
		{"declared", 1000, 0, 200},
		{"chunked", 1000, 1, 200},
		{"chunked, in many parts", 100_000, 50, 200},
		{"chunked, as large as may be", most, 3, 200},
		{"chunked, empty", 0, 1, 200},
		{"chunked, too large", most + 1, 3, 429},
		{"declared, too large", most + 1, 0, 429},
	} {
		for _, early := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, refused early %v", upload.name, early), func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				var got []string
				base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					defer mu.Unlock()
					if len(got) == 0 && early {
						got = append(got, "")
						_ = http.NewResponseController(w).EnableFullDuplex()
						w.Header().Set("Connection", "close") // net/http reads no next request behind half a body
					} else {
						body, _ := io.ReadAll(r.Body)
						got = append(got, string(body))
					}
					if len(got) == 1 {
						w.Header().Set("Retry-After-Ms", "10")
						w.WriteHeader(429)
						_, _ = io.WriteString(w, `{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}`)
					}
				})
				s := start(t, base)
				sent := strings.Repeat("0123456789abcdef", upload.bytes/16+1)[:upload.bytes]
				var body io.Reader = strings.NewReader(sent)
				if upload.parts > 0 {
					body = inParts(sent, upload.parts)
				}
				resp, err := http.Post(s.URL+"/v1/files", "application/octet-stream", body)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != upload.status {
					t.Errorf("answered %d, want %d", resp.StatusCode, upload.status)
				}
				mu.Lock()
				defer mu.Unlock()
				if upload.status == 200 && (len(got) != 2 || got[1] != sent) {
					t.Errorf("%d attempts, the last of %d bytes; want 2, and %d bytes", len(got), len(got[len(got)-1]), len(sent))
				}
				if upload.status == 429 && len(got) != 1 {
					t.Errorf("%d attempts, want one", len(got))
				}
				s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 0 })
				if n := s.Metric("body_bytes"); n != "0" {
					t.Errorf("%s bytes are still held", n)
				}
			})
		}
	}
}

// inParts is a body without a length.
func inParts(s string, parts int) io.Reader {
	r, w := io.Pipe()
	go func() {
		step := max(len(s)/parts, 1)
		for len(s) > 0 {
			n := min(step, len(s))
			if _, err := io.WriteString(w, s[:n]); err != nil {
				return
			}
			s = s[n:]
		}
		w.Close()
	}()
	return r
}

// An upload whose client waits for an answer before it sends on gets the refusal,
// after a while.
func TestUpload_RefusedInTheMiddleOfAConversation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := handlerBubble(t, func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			_ = rc.EnableFullDuplex()
			_, _ = r.Body.Read(make([]byte, 64))
			w.WriteHeader(429)
		})
		defer b.Stop()
		sent, upload := io.Pipe()
		defer upload.Close()
		go func() { _, _ = io.WriteString(upload, "hello") }()
		started := time.Now()
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://127.0.0.1/v1/audio/echo", sent)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := b.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if took := time.Since(started); resp.StatusCode != 429 || took > 6*time.Second {
			t.Errorf("%d after %v", resp.StatusCode, took)
		}
	})
}
