package main

import (
	"log/slog"
	"os"
	"slices"
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

// The ledger is told once: a change takes a restart, and the log says so.
func TestRetention_ChangeNeedsARestart(t *testing.T) {
	path := writeFile(t, "config.yaml", "retention: {requests: 7d}")
	env := map[string]string{"OPENAI_API_KEY": "sk-1", "CONFIG_FILE": path}
	src := sources{getenv: func(name string) string { return env[name] }}
	running, faults := readConfig(src, nil)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if err := os.WriteFile(path, []byte("retention: {requests: 1d}"), 0o600); err != nil {
		t.Fatal(err)
	}
	next, faults := readConfig(src, running)
	if len(faults) > 0 || !slices.Contains(next.pending, "retention") || next.File.Retention != running.File.Retention {
		t.Errorf("pending %v, retention %+v, %v; want the old one, and that it is pending", next.pending, next.File.Retention, faults)
	}
}
