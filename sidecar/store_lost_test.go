package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// TestStoreFault_FileRemoved removes the ledger's file, and all beside it, from under
// the real program, which is killed afterwards. Every answer is booked all the same, and
// it is said.
func TestStoreFault_FileRemoved(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string][]string{
		"the file":                    {""},
		"the file and all beside it":  {"", "-wal", "-shm", ".lock", ".spill"},
		"the log":                     {"-wal"},
		"the folder and all in it":    nil,
		"replaced by another's bytes": {"replace"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim, base := sidecartest.Simulated(t, provider.Config{})
			dir := filepath.Join(t.TempDir(), "state")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "sessions.db")
			settings := []string{"REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", path}
			p := sidecartest.StartProcess(t, base, settings...)
			booking(t, p.URL, "s", 30)
			var err error
			switch {
			case ends == nil:
				err = os.RemoveAll(dir)
			case ends[0] == "replace":
				other := path + ".other"
				if err = os.WriteFile(other, []byte(strings.Repeat("not a ledger\n", 1000)), 0o600); err == nil {
					err = os.Rename(other, path)
				}
			default:
				for _, end := range ends {
					if err == nil {
						err = os.Remove(path + end)
					}
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			booking(t, p.URL, "s", 30)
			sidecartest.Eventually(t, "it is restored", func() bool {
				return metric(t, p.URL, "llm_queue_proxy_ledger_restored_total") == "1" && metric(t, p.URL, "llm_queue_proxy_ledger_degraded") == "0" &&
					metric(t, p.URL, "llm_queue_proxy_ledger_journaled") == "0"
			})
			booked(t, p.URL, "s", sim)
			if a := sidecartest.Send(t, "GET", p.URL+"/readyz", ""); a.StatusCode != 200 || !strings.Contains(a.Body, `"status":"ok"`) || !strings.Contains(a.Body, "removed or replaced") {
				t.Errorf("readyz: %d %s", a.StatusCode, a.Body)
			}
			if !strings.Contains(p.Log.String(), "taken away from under the program") {
				t.Errorf("the log says nothing of it")
			}
			_ = p.Signal(t, syscall.SIGKILL)
			booked(t, sidecartest.StartProcess(t, base, settings...).URL, "s", sim)
		})
	}
}

// TestStoreFault_NotReadable: while questions cannot be answered, /readyz says so and
// stays 200, because requests are served.
func TestStoreFault_NotReadable(t *testing.T) {
	t.Parallel()
	_, base := sidecartest.Simulated(t, provider.Config{})
	settings := sidecartest.SQLite(t)
	s := sidecartest.StartProcess(t, base, settings...)
	ready := func(want string) {
		t.Helper()
		if a := sidecartest.Send(t, "GET", s.URL+"/readyz", ""); a.StatusCode != 200 || !strings.Contains(a.Body, want) {
			t.Errorf("readyz: %d %s, want %s", a.StatusCode, a.Body, want)
		}
	}
	booking(t, s.URL, "s", 2)
	ready(`{"status":"ok"}`)
	db, err := sql.Open("sqlite", "file:"+sidecartest.Pairs(settings)["SQLITE_DSN"]+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var view string
	if err := db.QueryRow("SELECT sql FROM sqlite_schema WHERE name = 'request_log'").Scan(&view); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("DROP VIEW request_log"); err != nil {
		t.Fatal(err)
	}
	booking(t, s.URL, "s", 2)
	ready(`"degraded"`)
	ready("cannot be read")
	if _, err := db.Exec(view); err != nil {
		t.Fatal(err)
	}
	ready(`{"status":"ok"}`)
}
