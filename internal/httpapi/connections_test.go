package httpapi

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// bounded serves handle on a pipe that takes most connections at once.
func bounded(t *testing.T, most int, handle http.HandlerFunc) (dial func() net.Conn, stop func()) {
	pipe, clients := provider.NewPipe(), NewConnections(most)
	server := &http.Server{Handler: handle, ConnState: clients.Note, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	listener := clients.Listener(pipe)
	go func() { served <- server.Serve(listener) }()
	dial = func() net.Conn {
		conn, err := pipe.DialContext(context.Background(), "", "")
		if err != nil {
			t.Error(err)
		}
		return conn
	}
	return dial, func() {
		server.Close()
		<-served
		clients.mu.Lock()
		defer clients.mu.Unlock()
		if len(clients.lulls) != clients.quiet.Len() || clients.quiet.Len() > len(clients.states) {
			t.Errorf("%d connections, %d and %d of them quiet", len(clients.states), len(clients.lulls), clients.quiet.Len())
		}
	}
}

func get(t *testing.T, conn net.Conn) {
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Error(err)
	}
	if text, err := io.ReadAll(conn); err != nil || len(text) == 0 {
		t.Errorf("%q %v", text, err)
	}
}

func TestConnections_HalfAHeaderGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := bounded(t, 4, func(http.ResponseWriter, *http.Request) {})
		defer stop()
		for range 20 {
			conn := dial()
			defer conn.Close()
			go func() { _, _ = io.WriteString(conn, "GET / HT") }()
		}
		started := time.Now()
		conn := dial()
		get(t, conn)
		conn.Close()
		if took := time.Since(started); took > 2*time.Second {
			t.Errorf("an honest client was answered after %v", took)
		}
	})
}

// TestConnections_ANewOneMaySpeak: who has only just connected is not closed, though
// others press in.
func TestConnections_ANewOneMaySpeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := bounded(t, 4, func(http.ResponseWriter, *http.Request) {})
		defer stop()
		var all sync.WaitGroup
		for range 40 {
			all.Go(func() {
				conn := dial()
				defer conn.Close()
				<-time.After(lullLeast - time.Millisecond)
				get(t, conn)
			})
		}
		all.Wait()
	})
}

func TestConnections_RequestsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at, peak atomic.Int64
		dial, stop := bounded(t, 4, func(http.ResponseWriter, *http.Request) {
			peak.Store(max(peak.Load(), at.Add(1)))
			<-time.After(time.Minute)
			at.Add(-1)
		})
		defer stop()
		started := time.Now()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				conn := dial()
				defer conn.Close()
				get(t, conn)
			})
		}
		all.Wait()
		if took := time.Since(started); peak.Load() != 4 || took != 3*time.Minute {
			t.Errorf("%d at once, all after %v", peak.Load(), took)
		}
	})
}

// TestConnections_CloseEndsTheWait: a listener that waits for room can be closed.
func TestConnections_CloseEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := bounded(t, 1, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		conn := dial()
		defer conn.Close()
		go func() { _, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n") }()
		synctest.Wait()
		stop()
	})
}

func TestConnectionsFor(t *testing.T) {
	for _, c := range []struct {
		files int
		bytes int64
		want  int
	}{
		{0, 0, 0},
		{64, 0, 16},
		{256, 0, 96},
		{1024, 0, 480},
		{1 << 20, 0, 524256},
		{1 << 20, 128 << 20, 8192},
		{1024, 128 << 20, 480},
		{0, 128 << 20, 8192},
		{0, 1, 64},
	} {
		if got := ConnectionsFor(c.files, c.bytes); got != c.want {
			t.Errorf("%d files, %d bytes: %d connections, want %d", c.files, c.bytes, got, c.want)
		}
	}
}
