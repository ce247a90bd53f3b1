package config

import (
	"os"
	"slices"
	"testing"
)

// The ledger is told once: a change takes a restart, and the log says so.
func TestRetention_ChangeNeedsARestart(t *testing.T) {
	path := fileOf(t, "retention: {requests: 7d}")
	running, err := load("OPENAI_API_KEY", "sk-1", "CONFIG_FILE", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("retention: {requests: 1d}"), 0o600); err != nil {
		t.Fatal(err)
	}
	next, faults := running.Reread()
	if len(faults) > 0 || !slices.Contains(next.Pending, "retention") || next.File.Retention != running.File.Retention {
		t.Errorf("pending %v, retention %+v, %v; want the old one, and that it is pending", next.Pending, next.File.Retention, faults)
	}
}

func TestReload_NamesSettings(t *testing.T) {
	for _, name := range needsRestart {
		if _, ok := settingNamed(name); !ok {
			t.Errorf("%s is no setting", name)
		}
	}
	if slices.Contains(needsRestart, "OPENAI_API_KEY") || slices.Contains(needsRestart, "RATE_LIMIT_PER_MIN") {
		t.Error("keys and limits are to be taken up")
	}
}
