package main

import (
	"log/slog"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

func TestConfig_Retention(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string][2]time.Duration{
		"":                                       {90 * day, 90 * day},
		"retention: {requests: 7d}":              {7 * day, 90 * day},
		"retention: {requests: 36h, hourly: 1d}": {36 * time.Hour, day},
		"retention: {requests: 0, hourly: 0}":    {0, 0},
	} {
		cfg := &Config{}
		if faults := cfg.File.parse("x.yaml", []byte(text)); len(faults) > 0 {
			t.Fatal(faults)
		}
		lc := ledgerConfig(cfg, slog.New(slog.DiscardHandler))
		if got := [...]time.Duration{lc.KeepRequests, lc.KeepHourly}; got != want {
			t.Errorf("%q keeps requests %v, hours %v; want %v", text, got[0], got[1], want)
		}
	}
}

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
