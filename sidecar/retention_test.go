package main

import (
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// Rows beyond their age go when the program starts, and every hour; totals stay.
func TestRetention_RemovesRows(t *testing.T) {
	_, upstream := simulated(t, provider.Config{})
	settings := append(sqlite(t), "CONFIG_FILE", writeFile(t, "config.yaml", "retention: {requests: 1ms, hourly: 0}"))
	s := start(t, upstream, settings...)
	send(t, "POST", s.URL+"/v1/session/a/chat/completions", chat)
	if rows := s.rows("a"); len(rows) != 1 {
		t.Fatalf("%d rows; want 1", len(rows))
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, upstream, settings...)
	eventually(t, "the row goes", func() bool { return len(s.rows("a")) == 0 })
	if got := s.status()["a"]; got.RequestCount != 1 || got.TotalTokens == 0 {
		t.Errorf("status = %+v; want that totals stay", got)
	}
}
