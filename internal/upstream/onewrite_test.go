package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
)

type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) { c.writes.Add(1); return c.Conn.Write(p) }

// A small request leaves in one write, edited or not: a client that leaves meanwhile leaves no half of it.
func TestDo_SmallRequestsLeaveInOneWrite(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer srv.Close()
	u, _ := url.Parse(srv.URL)
	body := []byte(`{"model":"m","stream":true}`)
	for name, edit := range map[string]Edit{"plain": {}, "spliced": {From: len(body) - 1, To: len(body) - 1, Text: `,"stream_options":{"include_usage":true}`}} {
		var n atomic.Int64
		tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return countingConn{c, &n}, err
		}}
		req, _ := http.NewRequest("POST", u.String(), nil)
		req.Body, req.ContentLength = io.NopCloser(edit.read(body)), edit.length(body)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		tr.CloseIdleConnections()
		if n.Load() != 1 {
			t.Errorf("%s: %d writes, want 1", name, n.Load())
		}
	}
}
