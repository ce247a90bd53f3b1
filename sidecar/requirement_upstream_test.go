package main

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// The security requirements, each with the test that holds it. SECURITY.md lists
// them; where one was decided differently the test's comment says so. This file
// has those about the provider's side, requirement_secret_test.go those about
// what is kept to ourselves, requirement_limit_test.go those about who gets in
// and how much.

// decoy is a server that nothing may ever reach.
func decoy(t *testing.T) (address string) {
	var hits atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		t.Errorf("a request went astray: %s %s, Authorization %q", r.Method, r.URL, r.Header.Get("Authorization"))
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestRequirement_01_UpstreamOnlyFromConfig(t *testing.T) {
	bad := decoy(t)
	rec, base := sidecartest.Record(t)
	s := start(t, base)
	evil := "http://" + bad + "/v1"
	headers := []string{
		"X-Portkey-Custom-Host", evil, "X-Forwarded-Host", bad, "X-Forwarded-Proto", "ftp", "X-Original-Url", evil, "X-Rewrite-Url", "/x",
		"X-Base-Url", evil, "Openai-Base-Url", evil, "Forwarded", "host=" + bad, "X-Host", bad, "X-Api-Key", "sk-theirs", "Api-Key", "sk-theirs",
	}
	body := fmt.Sprintf(`{"model":"gpt-4o","api_base":%q,"base_url":%q,"api_key":"sk-theirs","litellm_params":{"api_base":%q},"extra_body":{"api_base":%q},"messages":[]}`, evil, evil, evil, evil)
	query := "?api_base=" + evil + "&base_url=" + evil + "&url=" + evil
	if a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions"+query, body, headers...); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	host := strings.TrimPrefix(strings.TrimSuffix(base, "/v1"), "http://")
	if rec.Last.Host != host || !strings.HasPrefix(rec.Last.RequestURI, "/v1/chat/completions?") || rec.Last.Header.Get("Authorization") != "Bearer sk-upstream-canary" || rec.Last.Header.Get("Api-Key") != "" {
		t.Errorf("up went %s to %s with %v", rec.Last.RequestURI, rec.Last.Host, rec.Last.Header)
	}
	// A request target with a host of its own names no other host either.
	statuses, _ := s.Rawly(fmt.Sprintf("POST %s/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", evil, len(sidecartest.Chat), sidecartest.Chat))
	if lines := rec.Seen(); len(statuses) != 1 || statuses[0] == 200 && lines[len(lines)-1] != "POST /v1/chat/completions" {
		t.Errorf("absolute form: %v, upstream saw %v", statuses, lines)
	}
	statuses, _ = s.Rawly("CONNECT " + bad + " HTTP/1.1\r\nHost: " + bad + "\r\nConnection: close\r\n\r\n")
	if len(statuses) != 1 || statuses[0] < 400 {
		t.Errorf("CONNECT: %v", statuses)
	}
}

func TestRequirement_02_RedirectsAreNotFollowed(t *testing.T) {
	bad := decoy(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://"+bad+"/v1/x")
			w.WriteHeader(status)
		}))
		resp := openRaw(t, s.URL+"/v1/session/s/chat/completions", sidecartest.Chat)
		if resp.StatusCode != status || resp.Header.Get("Location") == "" {
			t.Errorf("%d became %d", status, resp.StatusCode)
		}
	}
}

// Encoded slashes pass, unlike in the requirement: providers name models so
// (contract, Routes).
func TestRequirement_03_PathsStayBelowTheBase(t *testing.T) {
	rec, base := sidecartest.Record(t)
	s := start(t, base)
	for target, want := range map[string]string{
		"/v1/models/org%2Fname": "/v1/models/org%2Fname", "/v1/models?x=/../y": "/v1/models?x=/../y",
		"/v1/models/%E2%82%AC": "/v1/models/%E2%82%AC", "/v1/models/a%3Fb": "/v1/models/a%3Fb", "/v1/session/s/models": "/v1/models",
		"/v1/../admin": "", "/v1/models/..": "", "/v1/models/.": "", "/v1/%2e%2e/admin": "", "/v1/.%2e/admin": "", "/v1/models%2f..%2f..%2fadmin": "",
		"/v1//admin": "", "/v1/a//b": "", "/v1/a%5cb": "", "/v1/..%5cadmin": "", "//v1/models": "", "/v1/%2e": "", "/v1/session/../models": "",
		"/v1/session/%2e%2e/models": "", "/admin": "", "*": "", "/v1": "", "/": "",
	} {
		before := len(rec.Seen())
		statuses, _ := s.Rawly("GET " + target + " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
		now := rec.Seen()
		switch {
		case want == "" && (len(now) != before || len(statuses) == 1 && statuses[0] < 300):
			t.Errorf("%s: %v, upstream saw %v", target, statuses, now[before:])
		case want != "" && (len(now) != before+1 || now[before] != "GET "+want):
			t.Errorf("%s: %v, upstream saw %v, want %s", target, statuses, now[before:], want)
		}
	}
}

// Response headers go by a list of what is dropped, not of what may pass, and
// X-Forwarded-* passes up: bytes and headers are the client's (contract, promise 3).
// A key that a provider echoes in a body is not looked for, for the same reason.
func TestRequirement_04_HeadersCarryNoKey(t *testing.T) {
	const key = "sk-upstream-canary"
	var up http.Header
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		up = r.Header
		h := w.Header()
		h.Set("Trailer", "X-Late, X-Late-Key")
		for _, name := range []string{"X-Echo", "Authorization", "Set-Cookie", "Www-Authenticate", "X-Request-Id", "Location", "Server-Timing"} {
			h.Add(name, "a "+key+" b")
		}
		h.Add("X-Two", "clean")
		h.Add("X-Two", key)
		h.Set("X-Vendor", "kept")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Proxy-Authenticate", "Basic")
		_, _ = io.WriteString(w, `{}`)
		h.Set("X-Late", "kept")
		h.Set("X-Late-Key", key)
	}), "CLIENT_API_KEYS", "web=key-canary-1")
	for _, method := range []string{"POST", "GET"} {
		a := sidecartest.Send(t, method, s.URL+"/v1/models", map[string]string{"POST": "{}"}[method],
			"Authorization", "Bearer key-canary-1", "Api-Key", "key-canary-1", "Proxy-Authorization", "Basic key-canary-1", "Connection", "X-Hop", "X-Hop", "1", "Te", "trailers", "Cookie", "c=1")
		if text := fmt.Sprint(a.Header, a.Trailer); strings.Contains(text, key) || a.Header.Get("X-Vendor") != "kept" || a.Header.Get("Keep-Alive") != "" || a.Header.Get("Proxy-Authenticate") != "" {
			t.Errorf("down came %s", text)
		}
		if text := fmt.Sprint(up); strings.Contains(text, "key-canary") || up.Get("X-Hop") != "" || up.Get("Te") != "" || up.Get("Cookie") != "" {
			t.Errorf("up went %s", text)
		}
	}
}

func TestRequirement_14_SpeaksToTheProviderOnly(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	p := sidecartest.Child(t, base, append(sidecartest.SQLite(t), "HTTP_PROXY", "http://127.0.0.1:9", "HTTPS_PROXY", "http://127.0.0.1:9")...)
	for range 3 {
		sidecartest.Send(t, "POST", p.URL+"/v1/session/s/chat/completions", sidecartest.Chat)
	}
	provider := hexAddress(t, strings.TrimPrefix(strings.TrimSuffix(base, "/v1"), "http://"))
	own := hexAddress(t, strings.TrimPrefix(p.URL, "http://"))
	sockets := p.Sockets()
	if len(sockets) < 2 {
		t.Fatalf("too few sockets to prove anything: %v", sockets)
	}
	for _, socket := range sockets {
		if socket.Local != own && socket.Remote != provider {
			t.Errorf("a %s socket from %s to %s", socket.Network, socket.Local, socket.Remote)
		}
	}
	// What would let a request choose code to run is not linked in.
	for _, file := range programText(t, rooms...) {
		if text, _ := os.ReadFile(file); bytes.Contains(text, []byte(`"plugin"`)) || bytes.Contains(text, []byte(`"os/exec"`)) || bytes.Contains(text, []byte(`"net/http/pprof"`)) || bytes.Contains(text, []byte(`"html/template"`)) {
			t.Errorf("%s can run code", file)
		}
	}
}

// A coded request passes as it is, and counts by its coded size: it is never
// unpacked here.
func TestRequirement_16_NothingIsUnpackedWithoutBound(t *testing.T) {
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	for range 64 {
		_, _ = zip.Write(make([]byte, 1<<20))
	}
	zip.Close()
	t.Run("a coded request", func(t *testing.T) {
		rec, base := sidecartest.Record(t)
		s := start(t, base)
		if a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", bomb.String(), "Content-Encoding", "gzip"); a.StatusCode != 200 || !bytes.Equal(rec.Body, bomb.Bytes()) || rec.Last.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%d, %d of %d bytes went up", a.StatusCode, len(rec.Body), bomb.Len())
		}
	})
	for _, status := range []int{200, 400, 429} {
		t.Run(fmt.Sprintf("a bomb as the answer %d", status), func(t *testing.T) {
			var tries atomic.Int64
			s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if tries.Add(1) > 1 {
					_, _ = io.WriteString(w, "{}")
					return
				}
				w.Header().Set("Content-Encoding", "gzip")
				w.Header().Set("Retry-After-Ms", "1")
				w.WriteHeader(status)
				_, _ = w.Write(bomb.Bytes())
			}))
			before := allocated()
			a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.Chat, "Accept-Encoding", "gzip")
			if grown := allocated() - before; grown > 16<<20 {
				t.Errorf("%d bytes were allocated for a bomb of %d", grown, bomb.Len())
			}
			if want := map[int]int{200: 200, 400: 400, 429: 200}[status]; a.StatusCode != want || status != 429 && a.Body != bomb.String() {
				t.Errorf("%d and %d bytes", a.StatusCode, len(a.Body))
			}
		})
	}
}

func TestRequirement_17_RequestsCannotBeSmuggled(t *testing.T) {
	inner := "GET /v1/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner)
	head := "POST /v1/moderations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
	for name, text := range map[string]string{
		"length and chunks":           head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
		"chunks and length":           head + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + chunked,
		"two lengths":                 head + fmt.Sprintf("Content-Length: 4\r\nContent-Length: %d\r\n\r\n", len(inner)) + "abcd" + inner,
		"a list of lengths":           head + fmt.Sprintf("Content-Length: 4, %d\r\n\r\n", len(inner)) + "abcd" + inner,
		"a signed length":             head + fmt.Sprintf("Content-Length: +%d\r\n\r\n%s", len(inner), inner),
		"a negative length":           head + "Content-Length: -1\r\n\r\n" + inner,
		"a folded header":             head + "X: a\r\n Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
		"a space before the colon":    head + "Transfer-Encoding : chunked\r\n\r\n" + chunked,
		"an odd coding":               head + "Transfer-Encoding: xchunked\r\n\r\n" + chunked,
		"chunked twice":               head + "Transfer-Encoding: chunked, chunked\r\n\r\n" + chunked,
		"a tab in the coding":         head + "Transfer-Encoding:\tchunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked,
		"a bare CR in a header":       head + "X: a\rContent-Length: 4\r\n\r\n",
		"a NUL in a header":           head + "X: a\x00b\r\nContent-Length: 0\r\n\r\n",
		"a header without a colon":    head + "GET /v1/smuggled HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
		"a chunk with an extension":   head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Replace(chunked, "\r\n", ";x=\"a\"\r\n", 1),
		"a chunk length too long":     head + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n" + inner,
		"two hosts":                   "POST /v1/moderations HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.test\r\nContent-Length: 0\r\n\r\n",
		"a line end in the target":    "GET /v1/models%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
		"a target without an HTTP/1.": "GET /v1/models\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			rec, base := sidecartest.Record(t)
			s := start(t, base)
			statuses, _ := s.Rawly(text + "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
			came := rec.Seen()
			for _, line := range came {
				if strings.Contains(line, "smuggled") {
					t.Errorf("%v, upstream saw %v", statuses, came)
				}
			}
			if len(came) > 1 {
				t.Errorf("one request became %v", came)
			}
			if len(came) == 1 && (len(rec.Last.TransferEncoding) > 0 && rec.Last.ContentLength >= 0 || len(rec.Last.Header["Content-Length"]) > 1 || rec.Last.Header.Get("X-Evil") != "") {
				t.Errorf("it was not framed anew: %v %v %v", rec.Last.TransferEncoding, rec.Last.ContentLength, rec.Last.Header)
			}
		})
	}
}

// TestRequirement_19_LoopsEnd has a sidecar whose provider leads back to it, and
// two that lead to each other.
func TestRequirement_19_LoopsEnd(t *testing.T) {
	var self atomic.Pointer[string]
	var hops atomic.Int64
	back := func(w http.ResponseWriter, r *http.Request) {
		if hops.Add(1) > 20 {
			t.Error("the request goes round and round")
			return
		}
		req, _ := http.NewRequestWithContext(r.Context(), r.Method, *self.Load()+r.URL.Path, r.Body)
		req.Header = r.Header.Clone()
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}
	first := start(t, sidecartest.Scripted(t, back))
	second := start(t, first.URL+"/v1")
	self.Store(&second.URL)
	if a := sidecartest.Send(t, "POST", second.URL+"/v1/chat/completions", sidecartest.Chat); a.StatusCode != 508 || sidecartest.ErrorOf(t, a) != "loop_detected" {
		t.Errorf("%d %s after %d hops", a.StatusCode, a.Body, hops.Load())
	}
	if hops.Load() > 2 {
		t.Errorf("%d hops", hops.Load())
	}
}

// A certificate that cannot be verified is a provider that cannot be reached, and
// no variable changes that.
func TestRequirement_25_TLSIsVerified(t *testing.T) {
	bad := decoy(t)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://"+bad)
	}
	keyLog := filepath.Join(t.TempDir(), "keys")
	t.Setenv("SSLKEYLOGFILE", keyLog)
	for _, c := range []struct {
		name string
		tls  *tls.Config
	}{
		{"a certificate of nobody", &tls.Config{}},
		{"an old version", &tls.Config{MaxVersion: tls.VersionTLS11}}, // that is the point
	} {
		t.Run(c.name, func(t *testing.T) {
			var got atomic.Int64
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got.Add(1) }))
			server.TLS = c.tls
			server.Config.ErrorLog = discardLog
			server.StartTLS()
			defer server.Close()
			s := start(t, server.URL+"/v1")
			a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.Chat)
			if a.StatusCode != 502 || sidecartest.ErrorOf(t, a) != "upstream_unreachable" || got.Load() != 0 {
				t.Errorf("%d %s, the server got %d requests", a.StatusCode, a.Body, got.Load())
			}
		})
	}
	if _, err := os.Stat(keyLog); err == nil {
		t.Error("TLS secrets were written to SSLKEYLOGFILE")
	}
}

func goProgram(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("go")
	if err != nil {
		t.Skip("the go command is not there")
	}
	return path
}

// openRaw follows no redirect.
func openRaw(t *testing.T, url, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}
