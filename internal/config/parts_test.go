package config

import (
	"log/slog"
	"testing"
	"time"
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
		lc := cfg.Ledger(slog.New(slog.DiscardHandler))
		if got := [...]time.Duration{lc.KeepRequests, lc.KeepHourly}; got != want {
			t.Errorf("%q keeps requests %v, hours %v; want %v", text, got[0], got[1], want)
		}
	}
}
