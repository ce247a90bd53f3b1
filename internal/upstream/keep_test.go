package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// A streamer is a provider on plain HTTP in virtual time, whose habits can be changed.
type streamer struct {
	*Client
	silent      atomic.Bool  // it closes connections after streams, and does not say so
	delay       atomic.Int64 // before it does
	connections atomic.Int64 // that were made
	announced   atomic.Int64 // requests that said they were the last
	stop        func()
}

func newStreamer(t *testing.T) *streamer {
	s := &streamer{}
	pipe := provider.NewPipe()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Close {
			s.announced.Add(1)
		}
		if r.URL.Path == "/json" {
			w.Header().Set("Content-Length", "2")
			_, _ = io.WriteString(w, "{}")
			return
		}
		if r.URL.Path == "/cut" || s.silent.Load() {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n")
			if r.URL.Path != "/cut" {
				_, _ = io.WriteString(conn, "0\r\n\r\n")
				<-time.After(time.Duration(s.delay.Load()))
			}
			conn.Close()
			return
		}
		_, _ = io.WriteString(w, "data:")
		_ = http.NewResponseController(w).Flush()
	})}
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(pipe) })
	aging := newAgingTransport(func() *http.Transport {
		transport := NewTransport()
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			s.connections.Add(1)
			conn, err := pipe.DialContext(ctx, network, address)
			return &countedConn{Conn: conn}, err
		}
		return transport
	})
	base, _ := url.Parse("http://provider")
	s.Client = New(Config{Base: base, Key: func() string { return "k" }, Transport: aging})
	s.stop = func() {
		<-time.After(2 * keepProof)
		aging.CloseIdleConnections()
		server.Close()
		done.Wait()
	}
	return s
}

// ask reads one answer to its end.
func (s *streamer) ask(t *testing.T, path string) error {
	t.Helper()
	resp, err := s.Do(t.Context(), Request{Method: "POST", Path: path, Body: []byte("{}"), Events: true})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// streams asks for so many streams one after another, and returns how many failed.
func (s *streamer) streams(t *testing.T, n int) (failed int) {
	t.Helper()
	for range n {
		if s.ask(t, "stream") != nil {
			failed++
		}
	}
	return failed
}

func TestKeep_StreamsShareAConnectionOfAProviderThatKeepsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreamer(t)
		defer s.stop()
		if failed := s.streams(t, 10); failed > 0 || s.connections.Load() != 10 || s.announced.Load() != 9 {
			t.Errorf("until it is known: %d failed, %d connections, %d announced", failed, s.connections.Load(), s.announced.Load())
		}
		<-time.After(keepProof + time.Millisecond)
		if failed := s.streams(t, 100); failed > 0 || s.connections.Load() != 11 || s.announced.Load() != 9 {
			t.Errorf("afterwards: %d failed, %d connections, %d announced", failed, s.connections.Load(), s.announced.Load())
		}
	})
}

func TestKeep_OneThatClosesWithoutAWordLosesNothing(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Millisecond, keepProof / 2} {
		synctest.Test(t, func(t *testing.T) {
			s := newStreamer(t)
			defer s.stop()
			s.silent.Store(true)
			s.delay.Store(int64(delay))
			for range 30 {
				if failed := s.streams(t, 5); failed > 0 {
					t.Errorf("closing after %v: %d of 5 streams failed", delay, failed)
				}
				<-time.After(200 * time.Millisecond)
			}
			if n := s.connections.Load(); n != 150 {
				t.Errorf("%d connections", n)
			}
			s.silent.Store(false) // another program has taken its place
			<-time.After(keepAgain)
			s.streams(t, 1)
			<-time.After(2 * keepProof)
			before := s.connections.Load()
			if failed := s.streams(t, 50); failed > 0 || s.connections.Load() != before+1 {
				t.Errorf("after the change: %d failed, %d connections", failed, s.connections.Load()-before)
			}
		})
	}
}

// TestKeep_AHabitThatChangesIsNoticed has one that keeps connections become one that
// closes them.
func TestKeep_AHabitThatChangesIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreamer(t)
		defer s.stop()
		s.streams(t, 1)
		<-time.After(2 * keepProof)
		s.silent.Store(true)
		failed := 0
		for range 100 {
			failed += s.streams(t, 1)
			<-time.After(10 * time.Millisecond)
		}
		if failed > 1 {
			t.Errorf("%d of 100 streams failed", failed)
		}
		if n := s.connections.Load(); n < 95 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestKeep_OtherAnswersTellNothing has the first answers be of other kinds.
func TestKeep_OtherAnswersTellNothing(t *testing.T) {
	for _, path := range []string{"json", "cut"} {
		synctest.Test(t, func(t *testing.T) {
			s := newStreamer(t)
			defer s.stop()
			for range 3 {
				if err := s.ask(t, path); (err == nil) != (path == "json") {
					t.Errorf("%s: %v", path, err)
				}
				<-time.After(2 * keepProof)
			}
			s.silent.Store(true)
			for range 10 {
				if failed := s.streams(t, 3); failed > 0 {
					t.Errorf("after %s: %d of 3 streams failed", path, failed)
				}
				<-time.After(300 * time.Millisecond)
			}
		})
	}
}
