package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

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
