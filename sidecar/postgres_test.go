package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger/pgtest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// The real program on a real server; it runs under .ci/postgres.
func TestPostgres_IsARepository(t *testing.T) {
	dsn := pgtest.DSN(t)
	_, base := sidecartest.Simulated(t, provider.Config{})
	settings := []string{
		"REPOSITORY_TYPE", "postgres", "POSTGRES_DSN", dsn,
		"LEDGER_JOURNAL", filepath.Join(t.TempDir(), "j.spill"), "LOG_LEVEL", "debug",
	}
	ask := func(s *sidecartest.Sidecar, session string) {
		t.Helper()
		begin := time.Now()
		a, err := sidecartest.Try(t.Context(), "POST", s.URL+"/v1/session/"+session+"/chat/completions", sidecartest.Chat)
		if err != nil || a.StatusCode != 200 {
			t.Fatalf("%+v, %v after %s", a, err, time.Since(begin))
		}
	}
	ready := func(s *sidecartest.Sidecar) string {
		t.Helper()
		a, err := sidecartest.Try(t.Context(), "GET", s.URL+"/readyz", "")
		if err != nil || a.StatusCode != 200 {
			t.Fatalf("ready: %+v, %v", a, err)
		}
		return a.Body
	}
	s, other := start(t, base, settings...), start(t, base, settings...)
	ask(s, "a")
	ask(other, "a")
	if got := other.Status()["a"]; got.RequestCount != 2 {
		t.Errorf("status = %+v; want the requests of both sidecars", got)
	}
	if got := ready(s); !strings.Contains(got, `"ok"`) {
		t.Errorf("ready: %s", got)
	}

	pgtest.Control(t, "stop")
	continued := false
	defer func() {
		if !continued {
			pgtest.Control(t, "cont")
		}
	}()
	ask(s, "a") // answered, its record in the journal
	if got := ready(s); !strings.Contains(got, "degraded") {
		t.Errorf("ready while the server is stopped: %s", got)
	}
	pgtest.Control(t, "cont")
	continued = true
	for end := time.Now().Add(30 * time.Second); !strings.Contains(ready(s), `"ok"`); <-time.After(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("still degraded half a minute after the server came back")
		}
	}
	if got := other.Status()["a"]; got.RequestCount != 3 {
		t.Errorf("status = %+v; want three requests", got)
	}

	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	again := start(t, base, settings...)
	if got := again.Status()["a"]; got.RequestCount != 3 {
		t.Errorf("status = %+v after a restart; want three requests", got)
	}
	for _, one := range []*sidecartest.Sidecar{s, other, again} {
		if strings.Contains(one.Log.String(), "s3cret") {
			t.Error("the password is in the log")
		}
	}
}
