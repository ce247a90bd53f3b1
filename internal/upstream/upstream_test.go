package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(t *testing.T, base string, change ...func(*Config)) *Client {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	transport := NewTransport()
	t.Cleanup(transport.CloseIdleConnections)
	cfg := Config{Base: u, Key: func() string { return "sk-upstream" }, Transport: transport, Via: "1.1 test"}
	for _, f := range change {
		f(&cfg)
	}
	return New(cfg)
}

func TestDo_SendsPathQueryBodyAndHeadersAsTheyCame(t *testing.T) {
	var got *http.Request
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	}))
	defer server.Close()
	c := client(t, server.URL+"/base/v1/", func(cfg *Config) { cfg.Private = []string{"X-Session-Id"} })

	resp, err := c.Do(context.Background(), Request{
		Method: "POST", Path: "models/org%2Fname", RawQuery: "a=%20&b", Body: []byte("{ }\n"), Identity: true,
		Header: http.Header{
			"Authorization": {"Bearer client"}, "Api-Key": {"client"}, "X-Session-Id": {"s"}, "Openai-Beta": {"x", "y"},
			"Connection": {"X-Hop"}, "X-Hop": {"1"}, "Accept-Encoding": {"gzip"}, "Content-Length": {"99"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got.RequestURI != "/base/v1/models/org%2Fname?a=%20&b" {
		t.Errorf("target %s", got.RequestURI)
	}
	if string(body) != "{ }\n" {
		t.Errorf("body %q", body)
	}
	want := http.Header{
		"Authorization": {"Bearer sk-upstream"}, "Openai-Beta": {"x", "y"}, "Accept-Encoding": {"identity"},
		"Via": {"1.1 test"}, "Content-Length": {"4"},
	}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Error(diff)
	}
}

func TestDo_SendsTheKeyInTheHeaderOfTheProfile(t *testing.T) {
	var got http.Header
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer server.Close()
	resp, err := client(t, server.URL, func(cfg *Config) { cfg.KeyHeader = "api-key" }).Do(context.Background(),
		Request{Method: "GET", Path: "models", Header: http.Header{"Authorization": {"Bearer client"}}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got.Get("Api-Key") != "sk-upstream" || got.Get("Authorization") != "" {
		t.Errorf("headers %v", got)
	}
}

func TestDo_FollowsNoRedirect(t *testing.T) {
	var elsewhere bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere = true }))
	defer other.Close()
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	resp, err := client(t, server.URL).Do(context.Background(), Request{Method: "POST", Path: "x", Body: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect || elsewhere {
		t.Errorf("status %d, went elsewhere: %v", resp.StatusCode, elsewhere)
	}
}

func TestDo_DoesNotReuseAPlainConnectionThatCarriedAStream(t *testing.T) {
	var connections atomic.Int32
	base := rawServer(t, func(_ int, conn net.Conn) { // closes after each answer, and does not say so
		connections.Add(1)
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	})
	c := client(t, base)
	const streams = 50
	for range streams {
		resp, err := c.Do(context.Background(), Request{Method: "POST", Path: "x", Body: []byte("{}"), Events: true})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if n := connections.Load(); n != streams {
		t.Errorf("%d connections for %d streams", n, streams)
	}
}

// rawServer answers each connection with what serve does to it.
func rawServer(t *testing.T, serve func(n int, conn net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-done })
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(n, conn)
			conn.Close()
		}
	}()
	return "http://" + listener.Addr().String()
}

func TestDo_SaysWhatMayFollow(t *testing.T) {
	post := Request{Method: "POST", Path: "x", Body: []byte("{}"), Header: http.Header{"Idempotency-Key": {"k"}}}
	kind := func(t *testing.T, err error, want Kind) {
		t.Helper()
		if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != want {
			t.Errorf("got %v, want kind %d", err, want)
		}
	}
	t.Run("a refused connection was none", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listener.Close()
		_, err = client(t, "http://"+listener.Addr().String()).Do(context.Background(), post)
		kind(t, err, Unreachable)
	})
	t.Run("a failed handshake was none", func(t *testing.T) {
		base := rawServer(t, func(int, net.Conn) {})
		_, err := client(t, strings.Replace(base, "http:", "https:", 1)).Do(context.Background(), post)
		kind(t, err, Unreachable)
	})
	t.Run("a connection lost after the request is broken, and not tried again", func(t *testing.T) {
		var connections atomic.Int32
		base := rawServer(t, func(n int, conn net.Conn) {
			connections.Store(int32(n))
			_, _ = http.ReadRequest(bufio.NewReader(conn))
		})
		_, err := client(t, base).Do(context.Background(), post)
		kind(t, err, Broken)
		if n := connections.Load(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	})
	t.Run("a reused connection lost after the request is broken, and not tried again", func(t *testing.T) {
		var requests atomic.Int32
		base := rawServer(t, func(n int, conn net.Conn) {
			reader := bufio.NewReader(conn)
			for i := range 2 {
				r, err := http.ReadRequest(reader)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				requests.Add(1)
				if i == 0 && n == 1 {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				} else {
					return
				}
			}
		})
		c := client(t, base)
		resp, err := c.Do(context.Background(), post)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		_, err = c.Do(context.Background(), post)
		kind(t, err, Broken)
		if n := requests.Load(); n != 2 {
			t.Errorf("%d requests were seen, want 2", n)
		}
	})
	t.Run("no headers in time is a timeout", func(t *testing.T) {
		release := make(chan struct{})
		base := rawServer(t, func(int, net.Conn) { <-release })
		_, err := client(t, base, func(cfg *Config) {
			transport := NewTransport()
			transport.ResponseHeaderTimeout = time.Millisecond
			cfg.Transport = transport
		}).Do(context.Background(), post)
		kind(t, err, Timeout)
		close(release)
	})
	t.Run("the context's cause comes back as it is", func(t *testing.T) {
		gone := errors.New("client gone")
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(gone)
		if _, err := client(t, "http://127.0.0.1:1").Do(ctx, post); !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
	})
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		hinted bool
		header http.Header
		want   Verdict
	}{
		{"success", 200, false, nil, Pass},
		{"success with a hint", 200, true, nil, Pass},
		{"429", 429, false, nil, Throttled},
		{"429 with a hint", 429, true, nil, Throttled},
		{"500 with a hint", 500, true, nil, Pass},
		{"503 without a hint", 503, false, nil, Pass},
		{"503 with a hint", 503, true, nil, Unavailable},
		{"529 with a hint", 529, true, nil, Unavailable},
		{"503 that says no", 503, true, http.Header{"X-Should-Retry": {"false"}}, Pass},
	} {
		if got := Judge(&http.Response{StatusCode: c.status, Header: c.header}, c.hinted); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestCopyHeader_DropsConnectionHeadersAndOurKey(t *testing.T) {
	dst := http.Header{"X-Queue-Wait-Ms": {"1"}}
	client(t, "http://x").CopyHeader(dst, &http.Response{Header: http.Header{
		"Content-Type": {"application/json"}, "Set-Cookie": {"a", "b"}, "Transfer-Encoding": {"chunked"},
		"Connection": {"close, X-Hop"}, "X-Hop": {"1"}, "X-Echo": {"used key sk-upstream"},
		"X-Used-Sk-Upstream-Key": {"1"},
	}})
	want := http.Header{"X-Queue-Wait-Ms": {"1"}, "Content-Type": {"application/json"}, "Set-Cookie": {"a", "b"}}
	if diff := cmp.Diff(want, dst); diff != "" {
		t.Error(diff)
	}
}
