package sidecartest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// An Answer is a response read whole.
type Answer struct {
	*http.Response
	Body string
}

// Send makes one request; headers come as name, value pairs.
func Send(t *testing.T, method, url, body string, headers ...string) Answer {
	t.Helper()
	a, err := Try(t.Context(), method, url, body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Try is Send for requests that may fail, from any goroutine.
func Try(ctx context.Context, method, url, body string, headers ...string) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	if body == "" {
		req.Body = nil
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return Answer{resp, string(text)}, err
}

// ErrorOf reads the OpenAI-shaped error of an answer.
func ErrorOf(t *testing.T, a Answer) (code string) {
	t.Helper()
	var shape struct {
		Error *struct {
			Message, Type string
			Param, Code   *string
		}
	}
	if err := json.Unmarshal([]byte(a.Body), &shape); err != nil || shape.Error == nil || shape.Error.Message == "" || shape.Error.Code == nil {
		t.Fatalf("not an OpenAI-shaped error: %d %s", a.StatusCode, a.Body)
	}
	return *shape.Error.Code
}

// Open starts a request and returns its answer with the body still open.
func Open(t *testing.T, ctx context.Context, url, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// Read reads n bytes of an answer.
func Read(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("read %d bytes: %v", n, err)
	}
	return string(b)
}

// Bodies of small requests, whole and streamed.
const (
	Chat       = `{"model":"gpt-4o","messages":[{"role":"user","content":"say 5 words"}]}`
	ChatStream = `{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"say 5 words"}]}`
)
