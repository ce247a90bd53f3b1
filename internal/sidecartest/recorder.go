package sidecartest

import (
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
)

// A Recorder is an upstream that remembers what came.
type Recorder struct {
	mu    sync.Mutex
	lines []string      // method and request target
	Last  *http.Request // what came last, to be read once it is answered
	Body  []byte        // of Last
}

// Record starts an upstream that remembers what came, and returns its base URL.
func Record(t *testing.T) (*Recorder, string) {
	rec := &Recorder{}
	return rec, Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rec.mu.Lock()
		defer rec.mu.Unlock()
		rec.lines = append(rec.lines, r.Method+" "+r.RequestURI)
		rec.Last, rec.Body = r, body
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
	})
}

// Seen lists method and target of what came.
func (r *Recorder) Seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}
