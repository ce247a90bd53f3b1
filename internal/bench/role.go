//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// The processes beside the sidecar: a provider without a model, and the plain proxy.

// streamEvents is how many events an answer has that is streamed, usage and [DONE] included.
const streamEvents = 66

// Usage of every answer.
const promptTokens, completionTokens = 150, 64

// newProvider answers chat completions at once: a kilobyte, or streamEvents events.
func newProvider() http.Handler {
	usage := fmt.Sprintf(`"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`, promptTokens, completionTokens, promptTokens+completionTokens)
	whole := []byte(`{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,` +
		`"message":{"role":"assistant","content":"` + strings.Repeat("word ", 150) + `"},"finish_reason":"stop"}],` + usage + `}`)
	const chunk = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini-2024-07-18","choices":[`
	word := []byte(chunk + `{"index":0,"delta":{"content":" word"},"finish_reason":null}]}` + "\n\n")
	last := []byte(chunk + `],` + usage + `}` + "\n\n")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if !bytes.Contains(body, []byte(`"stream":true`)) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
			_, _ = w.Write(whole)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		flush := http.NewResponseController(w)
		for range streamEvents - 2 {
			_, _ = w.Write(word)
			_ = flush.Flush()
		}
		_, _ = w.Write(last)
		_ = flush.Flush()
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	})
}

// newPlainProxy is the standard library's reverse proxy, which reads a request before it sends it, as
// whoever counts tokens has to.
func newPlainProxy(upstream string) (http.Handler, error) {
	base, err := url.Parse(strings.TrimSuffix(upstream, "/v1"))
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(base) },
		FlushInterval: -1,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true, ForceAttemptHTTP2: true},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		proxy.ServeHTTP(w, r)
	}), nil
}

// serve tells its address as the sidecar does, and serves until ctx ends: with TLS if there is a certificate.
func serve(ctx context.Context, handler http.Handler, certificate, key string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	slog.New(slog.NewJSONHandler(os.Stderr, nil)).Info("serving", "addr", l.Addr().String())
	if certificate != "" {
		err = server.ServeTLS(l, certificate, key)
	} else {
		err = server.Serve(l)
	}
	if ctx.Err() == nil {
		return err
	}
	return nil
}
