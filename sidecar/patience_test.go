package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
)

// TestBody_NobodyReadsIsNotWaitedFor asks for a page that is larger than net/http's
// buffer, and announces a body that never comes.
func TestBody_NobodyReadsIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := handlerBubble(t, func(http.ResponseWriter, *http.Request) {})
		defer b.Stop()
		conn, err := b.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * httpapi.BodyPatience))
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		page, err := io.ReadAll(conn)
		if took := time.Since(started); err != nil || took > 2*httpapi.BodyPatience || !strings.Contains(string(page), "go_goroutines") {
			t.Errorf("after %v: %v, %d bytes", took, err, len(page))
		}
	})
}

// TestPage_NobodyReadsIsNotWrittenForever asks for a page of the sidecar's own and
// reads nothing of it.
func TestPage_NobodyReadsIsNotWrittenForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := handlerBubble(t, func(http.ResponseWriter, *http.Request) {})
		defer b.Stop()
		conn, err := b.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * httpapi.SlowReader)
		if !b.server.clients.None() {
			t.Error("the connection is still written to")
		}
	})
}
