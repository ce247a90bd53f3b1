package sidecartest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// Scripted is an upstream that answers with what serve does.
func Scripted(t *testing.T, serve http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	return server.URL + "/v1"
}

// Simulated is a simulated provider that knows the key of Start.
func Simulated(t *testing.T, cfg provider.Config) (*provider.Server, string) {
	t.Helper()
	cfg.Keys = []string{"sk-upstream-canary"}
	return provider.Start(t, cfg)
}

// Stepwise is an upstream that sends one piece of its answer each time the
// test says so.
type Stepwise struct {
	Pieces chan string
	Closed chan struct{} // the sidecar gave the answer up
}

// NewStepwise starts a Stepwise, and returns its base URL.
func NewStepwise(t *testing.T) (*Stepwise, string) {
	up := &Stepwise{Pieces: make(chan string), Closed: make(chan struct{}, 1)}
	return up, Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case <-r.Context().Done():
				up.Closed <- struct{}{}
				return
			case piece, more := <-up.Pieces:
				if !more {
					return
				}
				_, _ = io.WriteString(w, piece)
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
}
