package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
)

// A deadlineWriter notes the last deadline of the client's connection.
type deadlineWriter struct {
	*httptest.ResponseRecorder
	set   int
	until time.Time
}

func (w *deadlineWriter) SetReadDeadline(t time.Time) error {
	w.set++
	w.until = t
	return nil
}

// An answer that comes before the upload's end makes net/http read the rest, while
// the place is held. So the deadline of the last read must still be there.
func TestPatientBody_DeadlineStaysUntilTheEnd(t *testing.T) {
	w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder()}
	b := &patientBody{rc: http.NewResponseController(w), body: strings.NewReader("abc")}
	if _, err := b.Read(make([]byte, 2)); err != nil || w.until.IsZero() {
		t.Errorf("in the middle of an upload its reads end %v, %v", w.until, err)
	}
	if _, err := io.Copy(io.Discard, b); err != nil || !w.until.IsZero() {
		t.Errorf("behind an upload reads end %v, %v", w.until, err)
	}
}

func TestPatientBody_LeavesTheConnectionAloneOnceClosed(t *testing.T) {
	w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder()}
	b := &patientBody{rc: http.NewResponseController(w), body: strings.NewReader("abc")}
	b.close()
	if _, _ = io.Copy(io.Discard, b); w.set != 0 {
		t.Errorf("%d deadlines were set", w.set)
	}
}

// TestBeat_BesideALateInterimAnswer is for the race detector: what an attempt's
// connection brings may come when the next attempt is waited for.
func TestBeat_BesideALateInterimAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{w: w, r: r}
		var late sync.WaitGroup
		late.Go(func() {
			for range 10 {
				x.interim(103, http.Header{"Link": {"</a>"}})
			}
		})
		if err := x.beat(); err != nil {
			t.Error(err)
		}
		late.Wait()
	}))
	defer server.Close()
	if a := send(t, "GET", server.URL, ""); a.StatusCode != 200 || a.body != " \n" || a.Header.Get("Link") != "" {
		t.Errorf("%d %q %v", a.StatusCode, a.body, a.Header)
	}
}

// TestBody_NobodyReadsIsNotWaitedFor asks for a page that is larger than net/http's
// buffer, and announces a body that never comes.
func TestBody_NobodyReadsIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := handlerBubble(t, func(http.ResponseWriter, *http.Request) {})
		defer b.stop()
		conn, err := b.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * httpapi.BodyPatience))
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		page, err := io.ReadAll(conn)
		if took := time.Since(started); err != nil || took > 2*httpapi.BodyPatience || !strings.Contains(string(page), "go_goroutines") {
			t.Errorf("after %v: %v, %d bytes", took, err, len(page))
		}
	})
}

// TestPage_NobodyReadsIsNotWrittenForever asks for a page of the sidecar's own and
// reads nothing of it.
func TestPage_NobodyReadsIsNotWrittenForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := handlerBubble(t, func(http.ResponseWriter, *http.Request) {})
		defer b.stop()
		conn, err := b.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * httpapi.SlowReader)
		if !b.server.clients.None() {
			t.Error("the connection is still written to")
		}
	})
}
