package main

import (
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// Rows beyond their age go when the program starts, and every hour; totals stay.
func TestRetention_RemovesRows(t *testing.T) {
	t.Parallel()
	_, upstream := sidecartest.Simulated(t, provider.Config{})
	settings := append(sidecartest.SQLite(t), "CONFIG_FILE", sidecartest.WriteFile(t, "config.yaml", "retention: {requests: 1ms, hourly: 0}"))
	s := start(t, upstream, settings...)
	sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", sidecartest.Chat)
	if rows := s.Rows("a"); len(rows) != 1 {
		t.Fatalf("%d rows; want 1", len(rows))
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, upstream, settings...)
	sidecartest.Eventually(t, "the row goes", func() bool { return len(s.Rows("a")) == 0 })
	if got := s.Status()["a"]; got.RequestCount != 1 || got.TotalTokens == 0 {
		t.Errorf("status = %+v; want that totals stay", got)
	}
}
