package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

func TestRequirement_10_LoopbackUnlessTold(t *testing.T) {
	c, err := configOf("OPENAI_API_KEY", "sk-1")
	if err != nil || c.ListenAddr != "127.0.0.1:8080" {
		t.Errorf("by default %+v, %v", c, err)
	}
	for _, address := range []string{"0.0.0.0:8080", ":8080", "[::]:8080", "192.0.2.1:8080", "example.test:80"} {
		for _, setting := range []string{"LISTEN_ADDR", "ADMIN_ADDR"} {
			if _, err := configOf("OPENAI_API_KEY", "sk-1", setting, address); err == nil {
				t.Errorf("%s=%s is served without keys", setting, address)
			}
			for _, told := range [][]string{{"CLIENT_API_KEYS", "k"}, {"ALLOW_UNAUTHENTICATED", "true"}} {
				if _, err := configOf(append([]string{"OPENAI_API_KEY", "sk-1", setting, address}, told...)...); err != nil {
					t.Errorf("%s=%s with %v: %v", setting, address, told, err)
				}
			}
		}
	}
}

// Health routes answer every host: a kubelet knows none of our names (contract, Configuration).
func TestRequirement_11_HostsAndOrigins(t *testing.T) {
	rec, base := sidecartest.Record(t)
	admin := freeAddress(t)
	s := start(t, base, "ADMIN_ADDR", admin)
	for _, url := range []string{s.URL + "/v1/models", s.URL + "/v1/session/s/status", s.URL + "/", "http://" + admin + "/metrics", "http://" + admin + "/sessions/status", "http://" + admin + "/usage"} {
		for _, host := range []string{"evil.test", "evil.test:8080", "127.0.0.1.evil.test", "localhost.evil.test", "192.0.2.1", "[::ffff:192.0.2.1]", "0.0.0.0"} {
			if a := sidecartest.Send(t, "GET", url, "", "Host", host); a.StatusCode != 421 {
				t.Errorf("%s as %s: %d", url, host, a.StatusCode)
			}
		}
		for _, origin := range []string{"http://evil.test", "null", "https://localhost.evil.test", "file://", "chrome-extension://x"} {
			for _, method := range []string{"GET", "POST", "OPTIONS"} {
				a := sidecartest.Send(t, method, url, "", "Origin", origin, "Access-Control-Request-Method", "POST")
				if a.StatusCode != 403 || a.Header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("%s %s from %s: %d %v", method, url, origin, a.StatusCode, a.Header)
				}
			}
		}
	}
	if n := len(rec.Seen()); n != 0 {
		t.Errorf("%d such requests went up", n)
	}
	for _, host := range []string{"localhost", "127.0.0.1:1", "[::1]", "LOCALHOST:8080"} {
		if a := sidecartest.Send(t, "GET", s.URL+"/v1/models", "", "Host", host); a.StatusCode != 200 {
			t.Errorf("as %s: %d", host, a.StatusCode)
		}
	}
	if a := sidecartest.Send(t, "GET", s.URL+"/livez", "", "Host", "10.0.0.7:8080"); a.StatusCode != 200 || a.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("health: %d", a.StatusCode)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// TestRequirement_12_EveryRouteFailsClosed asks every route there is, on both
// listeners, without a key; and holds that no route can be added past the list.
func TestRequirement_12_EveryRouteFailsClosed(t *testing.T) {
	rec, base := sidecartest.Record(t)
	admin := freeAddress(t)
	s := start(t, base, "ADMIN_ADDR", admin, "CLIENT_API_KEYS", "web=key-canary-1", "ADMIN_API_KEYS", "key-canary-2")
	open := map[string]bool{"GET /livez": true, "GET /readyz": true, "GET /healthz": true}
	asked := 0
	for _, config := range []*config.Config{{}, {AdminAddr: admin}} {
		for _, route := range configured(config).routes() {
			isOpen := route.To == httpapi.ToAnybody
			if isOpen != open[route.Pattern] {
				t.Errorf("%s is open: %v", route.Pattern, isOpen)
			}
			method, path, hasMethod := strings.Cut(route.Pattern, " ")
			if !hasMethod {
				method, path = "POST", route.Pattern
			}
			path = strings.NewReplacer("{id}", "s", "{rest...}", "chat/completions").Replace(path)
			for _, url := range []string{s.URL, "http://" + admin} {
				for _, headers := range [][]string{
					nil,
					{"Authorization", "Bearer wrong"},
					{"Authorization", "key-canary-1"},
					{"Authorization", "Basic key-canary-1"},
					{"X-Api-Key", "wrong"},
					{"X-Goog-Api-Key", "key-canary-1"},
					{"Host", "localhost", "X-Forwarded-For", "127.0.0.1", "X-Real-Ip", "127.0.0.1"},
					{"Cookie", "key=key-canary-1"},
					{"X-Original-Url", "/livez"},
				} {
					asked++
					body := map[string]string{"POST": sidecartest.Chat}[method]
					if a := sidecartest.Send(t, method, url+path, body, headers...); a.StatusCode != 401 && !isOpen {
						t.Errorf("%s %s with %v: %d", method, url+path, headers, a.StatusCode)
					}
				}
				if a := sidecartest.Send(t, method, url+path+"?api_key=key-canary-1&key=key-canary-1", ""); a.StatusCode != 401 && !isOpen {
					t.Errorf("%s %s with a key in the query: %d", method, url+path, a.StatusCode)
				}
			}
		}
	}
	if asked < 200 || len(rec.Seen()) != 0 {
		t.Errorf("%d asked, %d went up", asked, len(rec.Seen()))
	}
	registrations := 0
	for _, file := range programText(t, rooms...) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && (sel.Sel.Name == "Handle" || sel.Sel.Name == "HandleFunc" || sel.Sel.Name == "DefaultServeMux") {
				registrations++
			}
			return true
		})
	}
	if registrations != 1 {
		t.Errorf("routes are registered in %d places, want the one loop over routes()", registrations)
	}
}

// A bound on connections is the operator's (LimitNOFILE): one connection holds no
// body, no place and no more than some kilobytes.
func TestRequirement_15_SlowAndLargeRequestsAreBounded(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "MAX_BODY_BYTES", "1MiB")
	t.Run("headers above 32 KiB", func(t *testing.T) {
		statuses, body := s.Rawly("GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + strings.Repeat("x", 48<<10) + "\r\n\r\n")
		if len(statuses) != 1 || statuses[0] != 431 || !strings.Contains(body, `"code":"headers_too_large"`) {
			t.Errorf("%v %s", statuses, body)
		}
	})
	t.Run("a large body is refused before it comes", func(t *testing.T) {
		statuses, _ := s.Rawly("POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n")
		if len(statuses) != 1 || statuses[0] != 413 {
			t.Errorf("%v", statuses)
		}
	})
	t.Run("a large body without a length is refused when it is too large", func(t *testing.T) {
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 64<<10, strings.Repeat("x", 64<<10))
		statuses, _ := s.Rawly("POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat(chunk, 20))
		if len(statuses) != 1 || statuses[0] != 413 {
			t.Errorf("%v", statuses)
		}
	})
	// The clocks, in virtual time: after how long is a connection closed?
	closedAfter := func(t *testing.T, text string, trickle time.Duration) (after time.Duration, answer string) {
		synctest.Test(t, func(t *testing.T) {
			st := &stage{t: t, plan: &plan{}, dir: t.TempDir(), up: sidecartest.NewCable(), sim: provider.New(provider.Config{})}
			stopSim := st.sim.Serve(st.up)
			st.start()
			conn, err := st.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.WriteString(conn, text)
				for trickle > 0 {
					<-time.After(trickle)
					if _, err := io.WriteString(conn, "x"); err != nil {
						return
					}
				}
			}()
			begun := time.Now()
			got, _ := io.ReadAll(conn)
			after, answer = time.Since(begun), string(got)
			conn.Close()
			<-done
			st.end()
			_ = stopSim()
		})
		return after, answer
	}
	within := func(t *testing.T, after, low, high time.Duration) {
		t.Helper()
		if after < low || after > high {
			t.Errorf("closed after %v, want %v to %v", after, low, high)
		}
	}
	t.Run("a connection that says nothing", func(t *testing.T) {
		after, _ := closedAfter(t, "", 0)
		within(t, after, 9*time.Second, 11*time.Second)
	})
	t.Run("headers that trickle", func(t *testing.T) {
		after, _ := closedAfter(t, "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", time.Second)
		within(t, after, 9*time.Second, 12*time.Second)
	})
	t.Run("a body that trickles", func(t *testing.T) {
		after, answer := closedAfter(t, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "+clientCanary+"\r\nContent-Length: 100000\r\n\r\n", time.Second)
		within(t, after, 20*time.Second, 40*time.Second)
		if !strings.HasPrefix(answer, "HTTP/1.1 400") {
			t.Errorf("answered %q", answer)
		}
	})
	t.Run("a kept connection that idles", func(t *testing.T) {
		after, answer := closedAfter(t, "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 0)
		within(t, after, 119*time.Second, 121*time.Second)
		if !strings.HasPrefix(answer, "HTTP/1.1 200") {
			t.Errorf("answered %q", answer)
		}
	})
	t.Run("no limit on the length of an answer", func(t *testing.T) {
		if server := configured(&config.Config{}).httpServer(httpapi.MainListener); server.WriteTimeout != 0 || server.ReadTimeout != 0 {
			t.Errorf("read %v, write %v", server.ReadTimeout, server.WriteTimeout)
		}
	})
}

func TestRequirement_18_OddJSONHasADefinedResult(t *testing.T) {
	rec, base := sidecartest.Record(t)
	s := start(t, base)
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	for name, c := range map[string]struct {
		body string
		up   bool // passes, byte for byte; else 400 duplicate_field
	}{
		"a string for stream":           {`{"model":"gpt-4o","stream":"true","messages":[]}`, true},
		"a number for stream":           {`{"model":"gpt-4o","stream":1}`, true},
		"a number beyond all":           {`{"model":"gpt-4o","max_tokens":1e999,"temperature":-1e999}`, true},
		"a long number":                 {`{"model":"gpt-4o","max_tokens":` + strings.Repeat("9", 10_000) + `}`, true},
		"deep nesting":                  {`{"model":"gpt-4o","messages":` + deep + `}`, true},
		"deep nesting, unclosed":        {`{"model":"gpt-4o","messages":` + strings.Repeat(`{"a":`, 100_000), true},
		"invalid UTF-8":                 {"{\"model\":\"gpt-4o\xff\xfe\",\"messages\":[]}", true},
		"half a surrogate":              {`{"model":"\ud800","messages":[]}`, true},
		"a byte order mark":             {"\xef\xbb\xbf" + `{"model":"gpt-4o"}`, true},
		"an object for model":           {`{"model":{"a":1},"messages":[]}`, true},
		"null everywhere":               {`{"model":null,"messages":null,"stream":null,"stream_options":null}`, true},
		"a list":                        {`[{"model":"gpt-4o"}]`, true},
		"two values":                    {`{"model":"gpt-4o"} {"model":"gpt-4o"}`, true},
		"nothing":                       {` `, true},
		"an empty key":                  {`{"":1,"model":"gpt-4o"}`, true},
		"stream_options that is a list": {`{"model":"gpt-4o","stream":false,"stream_options":[]}`, true},
		"a field twice":                 {`{"model":"gpt-4o","model":"gpt-4o"}`, false},
		"a field twice, escaped":        {`{"stream":false,"s\u0074ream":true,"model":"gpt-4o"}`, false},
		"an unmetered field twice":      {`{"model":"gpt-4o","seed":1,"seed":2}`, true},
		"a nested field twice":          {`{"model":"gpt-4o","metadata":{"model":1,"model":2}}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			before, start := len(rec.Seen()), allocated()
			a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", c.body)
			if grown := allocated() - start; grown > 64<<20 {
				t.Errorf("%d bytes were allocated for %d", grown, len(c.body))
			}
			came := len(rec.Seen()) - before
			switch {
			case c.up && (a.StatusCode != 200 || came != 1 || string(rec.Body) != c.body):
				t.Errorf("%d, %d went up, %.100q", a.StatusCode, came, rec.Body)
			case !c.up && (a.StatusCode != 400 || sidecartest.ErrorOf(t, a) != "duplicate_field" || came != 0):
				t.Errorf("%d %s, %d went up", a.StatusCode, a.Body, came)
			}
		})
	}
}

// canned is a provider without a network.
type canned struct{}

func (canned) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	return &http.Response{
		StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Request: r,
		Body: io.NopCloser(strings.NewReader(`{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)),
	}, nil
}

// TestRequirement_20_NamesCannotFillTheMemory sends requests of so many sessions,
// of a thousand models and addresses: SESSIONS=1000000 for the whole proof. The
// ledger is a small one here (that the memory ledger keeps its bounds is a test of
// its own); every other bound is reached before the heap is first measured.
func TestRequirement_20_NamesCannotFillTheMemory(t *testing.T) {
	total := 60_000
	if text := os.Getenv("SESSIONS"); text != "" {
		var err error
		if total, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	} else if testing.Short() {
		t.Skip("sixty thousand requests")
	}
	cfg, err := configOf("OPENAI_API_KEY", "sk-1", "RATE_LIMIT_PER_MIN", "0")
	if err != nil {
		t.Fatal(err)
	}
	store, err := ledger.Open(t.Context(), ledger.Config{MemorySessions: 1000, MemoryRecords: 1000, Durability: ledger.DurabilityAsync})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(dependencies{
		Config: cfg, Logger: quiet, Ledger: store,
		Upstream: upstream.New(upstream.Config{Base: cfg.BaseURL, Key: func() string { return "sk-1" }, Transport: canned{}, Private: session.Headers()}),
	})
	handler := s.handlerFor(httpapi.MainListener)
	ask := func(i int) {
		r := httptest.NewRequestWithContext(t.Context(), "POST", fmt.Sprintf("http://localhost/v1/session/s-%d/chat/completions", i), strings.NewReader(fmt.Sprintf(`{"model":"model-%d","messages":[]}`, i%1000)))
		r.Header.Set("X-Stainless-Retry-Count", "1")
		r.RemoteAddr = fmt.Sprintf("192.0.%d.%d:1", i%1000>>8, i&255)
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const full = 35_000
	for i := range full {
		ask(i)
	}
	before := heap()
	for i := full; i < total; i++ {
		ask(i)
	}
	after := heap()
	t.Logf("after %d sessions %d kB, after %d %d kB", full, before>>10, total, after>>10)
	if after > before+before/10+(1<<20) {
		t.Errorf("the heap grew from %d to %d kB", before>>10, after>>10)
	}
	w := httptest.NewRecorder()
	s.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if series := strings.Count(w.Body.String(), "\n"); series > 2000 {
		t.Errorf("%d lines of metrics", series)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	s.proxy.EndAll()
}

// A weight shares out only what its client has; a priority goes no higher than
// the file grants.
func TestRequirement_26_WeightsAreNotTaken(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base)
	for header, values := range map[string][]string{
		"X-Queue-Weight": {"0", "-1", "NaN", "Inf", "1e999", "x", "", " 1"}, "X-Queue-Priority": {"highest", "HIGH", "1", "0"}, "X-Queue-Timeout": {"-1s", "0s", "soon", "1e9h"},
	} {
		for _, value := range values {
			a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.Chat, header, value)
			if strings.TrimSpace(value) == "" || value == " 1" || value == "Inf" || value == "1e999" {
				continue // none, one, and the most there is
			}
			if a.StatusCode != 400 || sidecartest.ErrorOf(t, a) != "invalid_hint" {
				t.Errorf("%s %q: %d", header, value, a.StatusCode)
			}
		}
	}
}

// configured is a server with nothing but its settings.
func configured(cfg *config.Config) *server {
	s := &server{logger: quiet}
	s.cfg.Store(cfg)
	s.admin = &admin.Admin{Settings: &s.cfg}
	return s
}
