package upstream

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestNew_HTTP2KeepsLittleOfWhatNobodyReads: the provider cannot send more than the
// window of an answer that is not read, and all of it once it is.
func TestNew_HTTP2KeepsLittleOfWhatNobodyReads(t *testing.T) {
	const total = 8 << 20
	var sent atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for piece := make([]byte, 16<<10); sent.Load() < total; sent.Add(int64(len(piece))) {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	base, _ := url.Parse(server.URL)
	c := New(Config{Base: base, Key: func() string { return "k" }, KeyHeader: "Authorization", Unread: 128 << 20, Way: trusting(server)})
	defer c.cfg.Transport.(*agingTransport).CloseIdleConnections()
	resp, err := c.Do(context.Background(), Request{Method: "GET", Path: "x"})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Fatal(resp.Proto)
	}
	for before := int64(-1); before != sent.Load() || before < 128<<10; { // until it stands still
		before = sent.Load()
		<-time.After(100 * time.Millisecond)
	}
	if n := sent.Load(); n > 512<<10 {
		t.Errorf("%d bytes were sent that nobody read", n)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != total || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestNew_AnswersHeadersAreBounded(t *testing.T) {
	size := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", size))
	}))
	defer server.Close()
	base, _ := url.Parse(server.URL)
	c := New(Config{Base: base, Key: func() string { return "k" }, KeyHeader: "Authorization"})
	for _, s := range []struct {
		size int
		fine bool
	}{{100 << 10, true}, {1 << 20, false}} {
		size = s.size
		resp, err := c.Do(context.Background(), Request{Method: "GET", Path: "x"})
		if (err == nil) != s.fine {
			t.Errorf("%d bytes of headers: %v", s.size, err)
		}
		if err == nil {
			resp.Body.Close()
		}
	}
}
