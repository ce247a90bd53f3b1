package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// deafConn fails every write after the first few.
type deafConn struct {
	net.Conn
	writes *atomic.Int32
}

func (c deafConn) Write(p []byte) (int, error) {
	if c.writes.Add(-1) < 0 {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

func TestDo_NothingWrittenWasNotSent(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	var writes atomic.Int32
	writes.Store(1)
	c := client(t, server.URL, func(cfg *Config) {
		transport := NewTransport()
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialCounted(ctx, network, address)
			if err == nil {
				counted := conn.(*countedConn)
				counted.Conn = deafConn{counted.Conn, &writes}
			}
			return conn, err
		}
		cfg.Transport = transport
		t.Cleanup(transport.CloseIdleConnections)
	})
	post := Request{Method: "POST", Path: "x", Body: []byte("{}")}
	resp, err := c.Do(context.Background(), post)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	_, err = c.Do(context.Background(), post)
	if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != NotSent {
		t.Errorf("got %v, want NotSent", err)
	}
}

func TestDo_RepeatsNoGetByItself(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "DELETE", "OPTIONS"} {
		var requests atomic.Int32
		var framing atomic.Value
		base := rawServer(t, func(n int, conn net.Conn) { // answers its first request, hangs up on all others
			reader := bufio.NewReader(conn)
			for {
				r, err := http.ReadRequest(reader)
				if err != nil {
					return
				}
				framing.Store(strings.Join(r.TransferEncoding, "") + r.Header.Get("Content-Length"))
				if requests.Add(1) > 1 || n > 1 {
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		})
		c := client(t, base)
		resp, err := c.Do(context.Background(), Request{Method: method, Path: "x"})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		_, err = c.Do(context.Background(), Request{Method: method, Path: "x"})
		if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != Broken || requests.Load() != 2 {
			t.Errorf("%s: got %v after %d requests, want a broken one after 2", method, err, requests.Load())
		}
		if framing.Load() != "" {
			t.Errorf("%s: a body was announced: %v", method, framing.Load())
		}
	}
}

// refusing is a transport that reads part of the body and then says what
// net/http says of an HTTP/2 stream that was not processed.
type refusing struct{ read int64 }

func (r refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	_, _ = io.CopyN(io.Discard, req.Body, r.read)
	return nil, errors.New("http2: Transport: cannot retry err [x] after Request.Body was written; define Request.GetBody to avoid this error")
}

func TestDo_HalfReadStreamIsNotSentAgain(t *testing.T) {
	for _, c := range []struct {
		name string
		req  Request
		read int64
		want Kind
	}{
		{"kept body", Request{Method: "POST", Body: []byte("0123456789")}, 5, NotSent},
		{"stream, untouched", Request{Method: "POST", Stream: strings.NewReader("0123456789"), Length: -1}, 0, NotSent},
		{"stream, half read", Request{Method: "POST", Stream: strings.NewReader("0123456789"), Length: -1}, 5, Broken},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := client(t, "http://x", func(cfg *Config) { cfg.Transport = refusing{c.read} }).Do(context.Background(), c.req)
			// The fake gets no connection, as a refused dial does: only the read bytes tell.
			if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != c.want {
				t.Errorf("got %v, want kind %d", err, c.want)
			}
		})
	}
}

func TestDo_KeepsTheTrailingSlash(t *testing.T) {
	var target string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { target = r.RequestURI }))
	defer server.Close()
	for path, want := range map[string]string{"files/": "/v1/files/", "files": "/v1/files", "": "/v1"} {
		resp, err := client(t, server.URL+"/v1/").Do(context.Background(), Request{Method: "GET", Path: path, Header: http.Header{"Expect": {"100-continue"}}})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if target != want {
			t.Errorf("%q went to %s, want %s", path, target, want)
		}
	}
}

func TestCopyTrailer_DropsOurKey(t *testing.T) {
	dst := http.Header{}
	client(t, "http://x").CopyTrailer(dst, &http.Response{Trailer: http.Header{"X-Sum": {"1"}, "X-Echo": {"Bearer sk-upstream"}}})
	if len(dst) != 1 || dst.Get(http.TrailerPrefix+"X-Sum") != "1" {
		t.Errorf("got %v", dst)
	}
}
