package main

import (
	"context"
	"database/sql"
	"net"
	"sync"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// A request of which nothing was sent has cost nothing: it has no row.
func TestRows_NotSentNoRow(t *testing.T) {
	t.Parallel()
	t.Run("the provider is down until the wait is over", func(t *testing.T) {
		settings := sidecartest.SQLite(t)
		s := start(t, closedPort(t), append(settings, "QUEUE_MAX_WAIT", "1500ms")...) // long enough to be noted as in flight
		if a := sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", sidecartest.Chat); a.StatusCode != 502 {
			t.Errorf("status %d %s; want 502", a.StatusCode, a.Body)
		}
		if lines := s.Log.Lines("request"); len(lines) != 1 || lines[0]["queue_ms"].(float64) < 50 {
			t.Errorf("the log does not say how long it waited: %v", lines)
		}
		if rows := s.SessionsPage(); len(rows) != 0 {
			t.Errorf("sessions %+v; want none", rows)
		}
		db, err := sql.Open("sqlite", "file:"+settings[3])
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		sidecartest.Eventually(t, "its note is gone", func() bool {
			var n int
			return db.QueryRowContext(t.Context(), "SELECT count(*) FROM inflight").Scan(&n) == nil && n == 0
		})
	})
	t.Run("the client leaves before there is a connection", func(t *testing.T) {
		s := start(t, stuckPort(t), append(sidecartest.SQLite(t), "DISCONNECT_POLICY", "cancel")...)
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := sidecartest.Try(ctx, "POST", s.URL+"/v1/session/a/chat/completions", sidecartest.Chat)
			result <- err
		}()
		sidecartest.Eventually(t, "the request is on its way", func() bool { return metric(t, s.URL, "llm_queue_proxy_in_flight") == "1" })
		cancel()
		<-result
		sidecartest.Eventually(t, "the request is over", func() bool { return len(s.Log.Lines("request")) == 1 })
		if rows := s.SessionsPage(); len(rows) != 0 {
			t.Errorf("sessions %+v; want none", rows)
		}
	})
}

// closedPort is the address of an upstream that nobody listens on.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String() + "/v1"
}

// stuckPort is the address of an upstream whose handshakes never end: no connection is made.
func stuckPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var held sync.WaitGroup
	over := make(chan struct{})
	held.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			held.Go(func() {
				<-over
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(over)
		held.Wait()
	})
	return "https://" + l.Addr().String() + "/v1"
}

// One that was sent and never answered may have cost something: its row has no status, and its session counts it.
func TestRows_SentAndBrokenIsUnknown(t *testing.T) {
	_, upstream := sidecartest.Simulated(t, provider.Config{Faults: []provider.Fault{provider.Hangup(), provider.ServerError(500)}})
	s := start(t, upstream, sidecartest.SQLite(t)...)
	for _, want := range []int{502, 500} {
		if a := sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", sidecartest.Chat); a.StatusCode != want {
			t.Fatalf("status %d %s; want %d", a.StatusCode, a.Body, want)
		}
	}
	rows := s.Rows("a")
	if len(rows) != 2 || rows[1].Status != 0 || rows[0].Status != 500 || rows[1].Outcome != "upstream_error" || rows[0].Outcome != "upstream_error" {
		t.Errorf("rows %+v; want one without status, one of 500", rows)
	}
	if page := s.SessionsPage(); len(page) != 1 || page[0].UnknownUsageCount != 1 || page[0].RequestCount != 0 {
		t.Errorf("sessions %+v; want one request of unknown usage: the provider bills no refusal", page)
	}
}
