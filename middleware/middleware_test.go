package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

// recorder is a server that remembers the headers of each request.
type recorder struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request
}

func newRecorder(t *testing.T, answer http.HandlerFunc) *recorder {
	t.Helper()
	rec := &recorder{}
	rec.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec.mu.Lock()
		rec.seen = append(rec.seen, r.Clone(context.Background()))
		rec.mu.Unlock()
		if answer != nil {
			answer(w, r)
		}
	}))
	t.Cleanup(rec.Close)
	return rec
}

func (rec *recorder) requests() []*http.Request {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return rec.seen
}

func (rec *recorder) only(t *testing.T) *http.Request {
	t.Helper()
	seen := rec.requests()
	if len(seen) != 1 {
		t.Fatalf("server saw %d requests, want 1", len(seen))
	}
	return seen[0]
}

// shape is a way to attach the package to an HTTP client: the promises are the
// same for all of them.
type shape struct {
	name string
	do   func(sidecarURL string, req *http.Request, opts ...middleware.Option) (*http.Response, error)
}

var shapes = []shape{
	{"function", func(sidecarURL string, req *http.Request, opts ...middleware.Option) (*http.Response, error) {
		return middleware.New(sidecarURL, opts...)(req, http.DefaultClient.Do)
	}},
	{"transport", func(sidecarURL string, req *http.Request, opts ...middleware.Option) (*http.Response, error) {
		client := &http.Client{Transport: middleware.Transport(sidecarURL, nil, opts...)}
		return client.Do(req)
	}},
	{"client", func(sidecarURL string, req *http.Request, opts ...middleware.Option) (*http.Response, error) {
		return middleware.Client(sidecarURL, nil, opts...).Do(req)
	}},
	{"function over client", func(sidecarURL string, req *http.Request, opts ...middleware.Option) (*http.Response, error) {
		return middleware.New(sidecarURL, opts...)(req, middleware.Client(sidecarURL, nil, opts...).Do)
	}},
}

func eachShape(t *testing.T, test func(t *testing.T, s shape)) {
	t.Helper()
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) { test(t, s) })
	}
}

func post(t *testing.T, ctx context.Context, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func send(t *testing.T, s shape, sidecarURL string, req *http.Request, opts ...middleware.Option) {
	t.Helper()
	resp, err := s.do(sidecarURL, req, opts...)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

func TestMiddleware_SendsTheSession(t *testing.T) {
	tests := []struct {
		name   string
		ctx    func(context.Context) context.Context
		header string // explicit X-Session-Id
		opts   []middleware.Option
		want   string
	}{
		{name: "of the context", ctx: with("agent-1"), want: "agent-1"},
		{name: "of the innermost context", ctx: func(ctx context.Context) context.Context {
			return middleware.WithSession(middleware.WithSession(ctx, "outer"), "inner")
		}, want: "inner"},
		{name: "by default where the context has none", opts: []middleware.Option{middleware.DefaultSession("batch")}, want: "batch"},
		{name: "of the context before the default", ctx: with("agent-1"), opts: []middleware.Option{middleware.DefaultSession("batch")}, want: "agent-1"},
		{name: "set explicitly before all others", ctx: with("agent-1"), header: "mine", opts: []middleware.Option{middleware.DefaultSession("batch")}, want: "mine"},
		{name: "not at all when there is none", want: ""},
		{name: "of every legal character", ctx: with("AZaz09._:@-"), want: "AZaz09._:@-"},
		{name: "of the greatest length", ctx: with(strings.Repeat("x", 128)), want: strings.Repeat("x", 128)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			eachShape(t, func(t *testing.T, s shape) {
				sidecar := newRecorder(t, nil)
				ctx := context.Background()
				if tt.ctx != nil {
					ctx = tt.ctx(ctx)
				}
				req := post(t, ctx, sidecar.URL+"/v1/chat/completions")
				if tt.header != "" {
					req.Header.Set("X-Session-Id", tt.header)
				}
				send(t, s, sidecar.URL+"/v1", req, tt.opts...)
				if got := sidecar.only(t).Header.Get("X-Session-Id"); got != tt.want {
					t.Errorf("X-Session-Id = %q, want %q", got, tt.want)
				}
			})
		})
	}
}

func with(id string) func(context.Context) context.Context {
	return func(ctx context.Context) context.Context { return middleware.WithSession(ctx, id) }
}

func TestMiddleware_SendsHints(t *testing.T) {
	opts := []middleware.Option{
		middleware.Header("x-tenant"),
		middleware.QueueTimeout(90 * time.Second),
		middleware.QueuePriority("low"),
		middleware.QueueWeight(2.5),
	}
	eachShape(t, func(t *testing.T, s shape) {
		sidecar := newRecorder(t, nil)
		ctx := middleware.WithParent(middleware.WithSession(context.Background(), "child"), "task-1")
		req := post(t, ctx, sidecar.URL+"/v1/chat/completions")
		req.Header.Set("X-Queue-Priority", "normal")
		send(t, s, sidecar.URL, req, opts...)
		got := sidecar.only(t).Header
		for name, want := range map[string]string{
			"X-Tenant":            "child",
			"X-Session-Id":        "",
			"X-Parent-Session-Id": "task-1",
			"X-Queue-Timeout":     "1m30s",
			"X-Queue-Priority":    "normal", // explicit headers win
			"X-Queue-Weight":      "2.5",
		} {
			if got.Get(name) != want {
				t.Errorf("%s = %q, want %q", name, got.Get(name), want)
			}
		}
	})
}

func TestMiddleware_LeavesTheRequestAlone(t *testing.T) {
	eachShape(t, func(t *testing.T, s shape) {
		sidecar := newRecorder(t, nil)
		req := post(t, middleware.WithSession(context.Background(), "agent-1"), sidecar.URL+"/v1/responses")
		send(t, s, sidecar.URL, req, middleware.QueueWeight(2))
		if len(req.Header) != 0 {
			t.Errorf("the caller's request got headers: %v", req.Header)
		}
	})
}

func TestMiddleware_PathSession(t *testing.T) {
	eachShape(t, func(t *testing.T, s shape) {
		sidecar := newRecorder(t, nil)
		base := sidecar.URL + "/v1/session/by-path"
		ctx := middleware.WithSession(context.Background(), "by-context")
		send(t, s, base, post(t, ctx, base+"/chat/completions"), middleware.DefaultSession("default"))
		if got := sidecar.only(t).Header.Get("X-Session-Id"); got != "" {
			t.Errorf("X-Session-Id = %q beside a session in the path", got)
		}
	})
}

func TestMiddleware_TellsNobodyElse(t *testing.T) {
	ctx := middleware.WithParent(middleware.WithSession(context.Background(), "secret"), "parent")
	opts := []middleware.Option{
		middleware.QueuePriority("low"), middleware.DefaultSession("d"),
		middleware.Trace(func(_ context.Context, h http.Header) { h.Set("Traceparent", "x") }),
	}
	t.Run("another origin gets no header", func(t *testing.T) {
		eachShape(t, func(t *testing.T, s shape) {
			other := newRecorder(t, nil)
			for _, sidecarURL := range []string{
				"http://127.0.0.1:1",
				"http://other.example" + other.URL[strings.LastIndex(other.URL, ":"):],
				strings.Replace(other.URL, "http:", "https:", 1),
			} {
				send(t, s, sidecarURL, post(t, ctx, other.URL+"/v1/chat/completions"), opts...)
			}
			for _, req := range other.requests() {
				assertSilent(t, req)
			}
		})
	})
	t.Run("a redirect to another origin gets no header", func(t *testing.T) {
		for _, s := range shapes[1:] { // the function runs above redirects, as its documentation says
			for _, status := range []int{301, 302, 303, 307, 308} {
				t.Run(fmt.Sprint(s.name, " ", status), func(t *testing.T) {
					other := newRecorder(t, nil)
					sidecar := newRecorder(t, func(w http.ResponseWriter, r *http.Request) {
						http.Redirect(w, r, other.URL+"/elsewhere", status)
					})
					req := post(t, ctx, sidecar.URL+"/v1/files")
					req.Header.Set("X-Session-Id", "explicit") // http.Client copies it, unless stopped
					send(t, s, sidecar.URL, req, opts...)
					assertSilent(t, other.only(t))
				})
			}
		}
	})
	t.Run("a redirect within the origin keeps them", func(t *testing.T) {
		for _, s := range shapes[1:] {
			var sidecar *recorder
			sidecar = newRecorder(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/files" {
					http.Redirect(w, r, sidecar.URL+"/v1/moved", http.StatusTemporaryRedirect)
				}
			})
			send(t, s, sidecar.URL, post(t, ctx, sidecar.URL+"/v1/files"), opts...)
			if seen := sidecar.requests(); len(seen) != 2 || seen[1].Header.Get("X-Session-Id") != "secret" {
				t.Errorf("%s: the session was lost on the way", s.name)
			}
		}
	})
}

func assertSilent(t *testing.T, req *http.Request) {
	t.Helper()
	for name := range req.Header {
		if strings.HasPrefix(name, "X-") || name == "Traceparent" {
			t.Errorf("%s was told %s = %q", req.Host, name, req.Header.Get(name))
		}
	}
}

func TestMiddleware_LocalhostIsLoopback(t *testing.T) {
	sidecar := newRecorder(t, nil)
	port := sidecar.URL[strings.LastIndex(sidecar.URL, ":"):]
	ctx := middleware.WithSession(context.Background(), "agent-1")
	send(t, shapes[1], "http://localhost"+port, post(t, ctx, sidecar.URL+"/v1/chat/completions"))
	if got := sidecar.only(t).Header.Get("X-Session-Id"); got != "agent-1" {
		t.Errorf("X-Session-Id = %q, want %q", got, "agent-1")
	}
}

func TestMiddleware_RefusesInvalidSessions(t *testing.T) {
	ids := []string{
		"", ".", "..", "a/b", `a\b`, "a?b", "a#b", "a\nb", "\xff", "a\u200bb", "\x00", " ", "{{user}}", "${id}", "undefined", strings.Repeat("x", 129),
	}
	eachShape(t, func(t *testing.T, s shape) {
		sidecar := newRecorder(t, nil)
		url := sidecar.URL + "/v1/chat/completions"
		refused := func(what string, req *http.Request, opts ...middleware.Option) {
			t.Helper()
			_, err := s.do(sidecar.URL, req, opts...)
			if !errors.Is(err, middleware.ErrInvalidSession) {
				t.Errorf("%s: error = %v, want ErrInvalidSession", what, err)
			}
		}
		for _, id := range ids {
			ctx := context.Background()
			refused(fmt.Sprintf("context %q", id), post(t, middleware.WithSession(ctx, id), url))
			refused(fmt.Sprintf("parent %q", id), post(t, middleware.WithParent(ctx, id), url))
			refused(fmt.Sprintf("default %q", id), post(t, ctx, url), middleware.DefaultSession(id))
			explicit := post(t, ctx, url)
			explicit.Header.Set("X-Session-Id", id)
			refused(fmt.Sprintf("header %q", id), explicit)
		}
		twice := post(t, context.Background(), url)
		twice.Header["X-Session-Id"] = []string{"a", "b"}
		refused("two headers", twice)
		refused("path", post(t, context.Background(), sidecar.URL+"/v1/session/a%2Fb/chat/completions"))
		refused("long and hostile", post(t, middleware.WithSession(context.Background(), strings.Repeat("\x1b", 1e6)), url))
		if n := len(sidecar.requests()); n != 0 {
			t.Errorf("%d requests were sent", n)
		}
	})
}

func TestMiddleware_RefusalIsNotRetriedAndClosesTheBody(t *testing.T) {
	eachShape(t, func(t *testing.T, s shape) {
		body := &closeRecorder{Reader: strings.NewReader("{}")}
		req := post(t, middleware.WithSession(context.Background(), "a/b"), "http://127.0.0.1:1/v1/chat/completions")
		req.Body = body
		resp, err := s.do("http://127.0.0.1:1", req)
		if err == nil {
			t.Fatal("no error")
		}
		if !body.closed {
			t.Error("the request's body was left open")
		}
		if !strings.HasPrefix(s.name, "function") {
			return
		}
		if resp == nil || resp.Header.Get("x-should-retry") != "false" {
			t.Error("openai-go would retry the refusal")
		}
	})
}

type closeRecorder struct {
	io.Reader
	closed bool
}

func (c *closeRecorder) Close() error { c.closed = true; return nil }

func TestMiddleware_RecognisesWrongBaseURLs(t *testing.T) {
	sidecar := newRecorder(t, nil)
	tests := []struct{ path, want string }{
		{"/v1/v1/chat/completions", `holds "/v1" twice`},
		{"/v1/session/a/v1/v1/messages", `holds "/v1" twice`},
		{"/v1/session/a/v1/chat/completions", ""},
		{"/session/a/v1/messages", ""},
		{"/session/a/openai/deployments/d/chat/completions", ""},
		{"/chat/completions", `lacks "/v1"`},
		{"/responses/resp_1", `lacks "/v1"`},
		{"/models", `lacks "/v1"`},
		{"/v1/chat/completions", ""},
		{"/v1/session/v1/chat/completions", ""},
		{"/v1/models/v1", ""},
		{"/v1", ""},
		{"/sessions/status", ""},
		{"/queue/status", ""},
	}
	for _, tt := range tests {
		for _, s := range shapes {
			resp, err := s.do(sidecar.URL+"/v1/", post(t, context.Background(), sidecar.URL+tt.path))
			if tt.want == "" {
				if err != nil {
					t.Errorf("%s: %s: %v", s.name, tt.path, err)
					continue
				}
				resp.Body.Close()
				continue
			}
			if !errors.Is(err, middleware.ErrBaseURL) || !strings.Contains(err.Error(), tt.want) ||
				!strings.Contains(err.Error(), sidecar.URL+`/v1"`) {
				t.Errorf("%s: %s: error = %v, want ErrBaseURL saying %s and the right one", s.name, tt.path, err, tt.want)
			}
		}
	}
}

func TestMiddleware_RecognisesHTTPSWhereTheSidecarSpeaksHTTP(t *testing.T) {
	sidecar := httptest.NewServer(http.NotFoundHandler())
	defer sidecar.Close()
	base := strings.Replace(sidecar.URL, "http:", "https:", 1) + "/v1"
	eachShape(t, func(t *testing.T, s shape) {
		_, err := s.do(base, post(t, context.Background(), base+"/chat/completions"))
		if !errors.Is(err, middleware.ErrBaseURL) || !strings.Contains(err.Error(), "speaks http, not https") {
			t.Errorf("error = %v, want ErrBaseURL saying so", err)
		}
		_, err = s.do("http://127.0.0.1:1", post(t, context.Background(), base+"/"))
		if err == nil || errors.Is(err, middleware.ErrBaseURL) {
			t.Errorf("another host: error = %v, want its own", err)
		}
	})
}

func TestMiddleware_BehindAPathPrefix(t *testing.T) {
	sidecar := newRecorder(t, nil)
	ctx := middleware.WithSession(context.Background(), "agent-1")
	base := sidecar.URL + "/llm/v1"
	send(t, shapes[0], base, post(t, ctx, base+"/chat/completions"))
	if got := sidecar.only(t).Header.Get("X-Session-Id"); got != "agent-1" {
		t.Errorf("X-Session-Id = %q, want %q", got, "agent-1")
	}
	_, err := shapes[0].do(base, post(t, ctx, sidecar.URL+"/llm/v1/v1/chat/completions"))
	if !errors.Is(err, middleware.ErrBaseURL) {
		t.Errorf("error = %v, want ErrBaseURL", err)
	}
}

func TestMiddleware_SidecarNotThere(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()

	eachShape(t, func(t *testing.T, s shape) {
		t.Run("the error names the address and what to start", func(t *testing.T) {
			_, err := s.do("http://"+address, post(t, context.Background(), "http://"+address+"/v1/chat/completions"))
			if !errors.Is(err, middleware.ErrUnreachable) {
				t.Fatalf("error = %v, want ErrUnreachable", err)
			}
			for _, want := range []string{address, "start llm-queue-proxy", "base URL"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
		t.Run("other hosts' failures stay theirs", func(t *testing.T) {
			_, err := s.do("http://127.0.0.1:1", post(t, context.Background(), "http://"+address+"/"))
			if err == nil || errors.Is(err, middleware.ErrUnreachable) {
				t.Errorf("error = %v, want the connection's own", err)
			}
		})
	})
	t.Run("a caller that gave up while connecting is not told of the sidecar", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		hangUp := func(*http.Request) (*http.Response, error) {
			cancel()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: context.Canceled}
		}
		_, err := middleware.New("http://"+address)(post(t, ctx, "http://"+address+"/v1/models"), hangUp)
		if !errors.Is(err, context.Canceled) || errors.Is(err, middleware.ErrUnreachable) {
			t.Errorf("error = %v, want context.Canceled alone", err)
		}
	})
}

func TestMiddleware_ReportsItsOwnConfiguration(t *testing.T) {
	tests := []struct {
		name, url string
		opts      []middleware.Option
		want      string
	}{
		{"no URL", "", nil, "wrong base URL"},
		{"no scheme", "127.0.0.1:8080", nil, "wrong base URL"},
		{"a scheme that is a host", "localhost:8080", nil, "wrong base URL"},
		{"another scheme", "ftp://127.0.0.1", nil, "wrong base URL"},
		{"a query", "http://127.0.0.1/v1?a=b", nil, "no user, query or fragment"},
		{"v1 twice", "http://127.0.0.1/v1/v1/", nil, `use "http://127.0.0.1/v1"`},
		{"an invalid session in the path", "http://127.0.0.1/v1/session/a%0Ab", nil, "a session id is"},
		{"header", "http://127.0.0.1", []middleware.Option{middleware.Header("a b")}, `session header "a b"`},
		{"empty header", "http://127.0.0.1", []middleware.Option{middleware.Header("")}, `session header ""`},
		{"default session", "http://127.0.0.1", []middleware.Option{middleware.DefaultSession("a/b")}, `default session "a/b"`},
		{"timeout", "http://127.0.0.1", []middleware.Option{middleware.QueueTimeout(0)}, `X-Queue-Timeout "0s": want a positive duration`},
		{"priority", "http://127.0.0.1", []middleware.Option{middleware.QueuePriority("urgent")}, `X-Queue-Priority "urgent": want "high", "normal" or "low"`},
		{"weight", "http://127.0.0.1", []middleware.Option{middleware.QueueWeight(101)}, `X-Queue-Weight "101": want a number`},
		{"all faults at once", "x", []middleware.Option{middleware.QueueWeight(0), middleware.QueuePriority("")}, `X-Queue-Priority ""`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := middleware.Check(tt.url, tt.opts...); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check: error = %v, want one saying %s", err, tt.want)
			}
			for _, s := range shapes {
				_, err := s.do(tt.url, post(t, context.Background(), "http://127.0.0.1:1/v1/models"), tt.opts...)
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: error = %v, want one saying %s", s.name, err, tt.want)
				}
			}
		})
	}
	t.Run("a password is not repeated", func(t *testing.T) {
		for _, url := range []string{"http://u:hunter2@host/v1", "http://u:hunter2@ho st/v1"} {
			if err := middleware.Check(url); err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error = %v", err)
			}
		}
	})
	t.Run("nothing to report", func(t *testing.T) {
		err := middleware.Check("https://Sidecar.example:443/v1/", middleware.Header("X-Run_Id.1"), middleware.QueueWeight(0.1))
		if err != nil {
			t.Error(err)
		}
	})
}

func TestClient_CopiesItsBase(t *testing.T) {
	base := &http.Client{Timeout: time.Minute}
	got := middleware.Client("http://127.0.0.1:1", base)
	if base.Transport != nil {
		t.Error("the caller's client was changed")
	}
	if got.Timeout != base.Timeout {
		t.Errorf("Timeout = %v, want %v", got.Timeout, base.Timeout)
	}
}

type idleCloser struct {
	http.RoundTripper
	closed bool
}

func (c *idleCloser) CloseIdleConnections() { c.closed = true }

func TestTransport_ClosesIdleConnectionsOfItsBase(t *testing.T) {
	base := &idleCloser{}
	middleware.Client("http://127.0.0.1:1", &http.Client{Transport: base}).CloseIdleConnections()
	if !base.closed {
		t.Error("the base was not told")
	}
}

func TestMiddleware_ConcurrentUse(t *testing.T) {
	sidecar := newRecorder(t, nil)
	client := middleware.Client(sidecar.URL, nil, middleware.QueuePriority("low"), middleware.DefaultSession("d"))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			id := fmt.Sprint("agent-", i)
			req := post(t, middleware.WithSession(context.Background(), id), sidecar.URL+"/v1/chat/completions")
			req.Header.Set("X-Want", id)
			resp, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		}()
	}
	wg.Wait()
	for _, req := range sidecar.requests() {
		if req.Header.Get("X-Session-Id") != req.Header.Get("X-Want") {
			t.Errorf("session %q, want %q", req.Header.Get("X-Session-Id"), req.Header.Get("X-Want"))
		}
	}
}

func FuzzMiddleware_SendsOnlyWhatTheSidecarTakes(f *testing.F) {
	f.Add("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1/chat/completions", "agent-1")
	f.Add("https://h/llm/v1/session/a", "https://h:443/llm/v1/session/a/responses", "a b")
	f.Add("http://[::1]:80", "http://localhost/v1/v1/x", "..")
	f.Fuzz(func(t *testing.T, sidecarURL, requestURL, id string) {
		req, err := http.NewRequestWithContext(middleware.WithSession(context.Background(), id), http.MethodPost, requestURL, nil)
		if err != nil {
			t.Skip(err) // no program could send it
		}
		sent := ""
		_, err = middleware.New(sidecarURL)(req, func(out *http.Request) (*http.Response, error) {
			sent = out.Header.Get("X-Session-Id")
			return nil, nil
		})
		switch {
		case sent == "":
		case err != nil:
			t.Errorf("sent %q and failed: %v", sent, err)
		default:
			if got, err := url.PathUnescape(sent); err != nil || got != id || len(id) > 128 || strings.ContainsAny(id, "/\\?#\r\n\x00") {
				t.Errorf("sent %q for the session %q", sent, id)
			}
		}
	})
}
