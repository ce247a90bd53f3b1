package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

// models lists models: the cheapest call that goes through every layer.
func models(ctx context.Context, sidecarURL string) error {
	llm := openai.NewClient(option.WithBaseURL(sidecarURL), option.WithMiddleware(middleware.New(sidecarURL)), option.WithAPIKey("k"))
	_, err := llm.Models.List(ctx)
	return err
}

func TestMiddleware_WithVersion3(t *testing.T) {
	t.Run("the session is sent on every attempt", func(t *testing.T) {
		var seen []string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen = append(seen, r.Header.Get("X-Session-Id"))
			if len(seen) == 1 {
				w.Header().Set("Retry-After-Ms", "1")
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(`{"object":"list","data":[]}`))
		}))
		defer server.Close()
		if err := models(middleware.WithSession(context.Background(), "agent-1"), server.URL+"/v1"); err != nil {
			t.Fatal(err)
		}
		if want := []string{"agent-1", "agent-1"}; !slices.Equal(seen, want) {
			t.Errorf("sessions = %q, want %q", seen, want)
		}
	})
	t.Run("an invalid session is refused once, in the middleware's words", func(t *testing.T) {
		var attempts atomic.Int32
		count := func(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			attempts.Add(1)
			return next(req)
		}
		const sidecarURL = "http://127.0.0.1:1/v1"
		llm := openai.NewClient(option.WithBaseURL(sidecarURL), option.WithAPIKey("k"),
			option.WithMiddleware(count, middleware.New(sidecarURL)))
		_, err := llm.Models.List(middleware.WithSession(context.Background(), "a/b"))
		if !errors.Is(err, middleware.ErrInvalidSession) {
			t.Errorf("error = %v, want ErrInvalidSession", err)
		}
		if n := attempts.Load(); n != 1 {
			t.Errorf("%d attempts, want 1", n)
		}
	})
	t.Run("a sidecar that is not there is named", func(t *testing.T) {
		const sidecarURL = "http://127.0.0.1:1/v1"
		llm := openai.NewClient(option.WithBaseURL(sidecarURL), option.WithAPIKey("k"),
			option.WithMiddleware(middleware.New(sidecarURL)), option.WithMaxRetries(0))
		if _, err := llm.Models.List(context.Background()); !errors.Is(err, middleware.ErrUnreachable) {
			t.Errorf("error = %v, want ErrUnreachable", err)
		}
	})
}
