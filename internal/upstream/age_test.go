package upstream

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// TestAge_AnAddressThatChangesIsFollowed has a name move from one server to another while
// requests come ten times a second, over HTTP/1.1 and HTTP/2. A stream that began at
// the old one goes on there for as long as it lasts.
func TestAge_AnAddressThatChangesIsFollowed(t *testing.T) {
	for name, two := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				protocols := new(http.Protocols)
				protocols.SetHTTP1(!two)
				protocols.SetUnencryptedHTTP2(two)
				var address atomic.Pointer[provider.Pipe]
				serve := func(name string) *provider.Pipe {
					pipe := provider.NewPipe()
					server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.URL.Path == "/stream" {
							_ = http.NewResponseController(w).Flush()
							<-time.After(20 * time.Minute)
						}
						<-time.After(900 * time.Millisecond) // many are under way at once
						_, _ = io.WriteString(w, name)
					})}
					var done sync.WaitGroup
					done.Go(func() { _ = server.Serve(pipe) })
					t.Cleanup(func() { server.Close(); done.Wait() })
					return pipe
				}
				old, moved := serve("old"), serve("new")
				address.Store(old)
				var dials, busiest atomic.Int64
				var since atomic.Int64
				begun := time.Now()
				aging := newAgingTransport(func() *http.Transport {
					t := NewTransport()
					t.Protocols = protocols
					t.DialContext = func(ctx context.Context, network, name string) (net.Conn, error) {
						if second := int64(time.Since(begun) / time.Second); since.Swap(second) != second {
							dials.Store(0)
						}
						if n := dials.Add(1); time.Since(begun) > 3*time.Second && n > busiest.Load() {
							busiest.Store(n)
						}
						return address.Load().DialContext(ctx, network, name)
					}
					return t
				})
				base, _ := url.Parse("http://provider")
				c := New(Config{Base: base, Key: func() string { return "k" }, Transport: aging})
				read := func(path string) string {
					resp, err := c.Do(t.Context(), Request{Method: "POST", Path: path, Body: []byte("{}")})
					if err != nil {
						t.Errorf("%s after %v: %v", path, time.Since(begun), err)
						return ""
					}
					defer resp.Body.Close()
					text, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Errorf("%s after %v: %v", path, time.Since(begun), err)
					}
					return string(text)
				}
				var stream sync.WaitGroup
				stream.Go(func() {
					if text := read("stream"); text != "old" {
						t.Errorf("the stream ended with %q", text)
					}
				})
				var lastOld atomic.Int64
				var clients sync.WaitGroup
				for i := range 50 {
					clients.Go(func() {
						<-time.After(time.Duration(i) * 20 * time.Millisecond)
						for time.Since(begun) < 12*time.Minute {
							if read("x") == "old" {
								lastOld.Store(max(lastOld.Load(), int64(time.Since(begun))))
							}
							<-time.After(time.Second)
						}
					})
				}
				<-time.After(10 * time.Second)
				address.Store(moved)
				clients.Wait()
				t.Logf("the old address was used until %v; at most %d new connections in a second", time.Duration(lastOld.Load()), busiest.Load())
				if after := time.Duration(lastOld.Load()); after < 10*time.Second || after > 5*time.Minute+time.Second {
					t.Errorf("the old address was used until %v", after)
				}
				// Chance decides who moves when: fewer than half of what a move at once makes.
				if n := busiest.Load(); n > 20 {
					t.Errorf("%d connections were made in one second", n)
				}
				stream.Wait()
				aging.CloseIdleConnections()
			})
		})
	}
}

// TestTake_NewRequestsGoTheNewWay has the certificates that are trusted change while
// an answer is under way.
func TestTake_NewRequestsGoTheNewWay(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = io.WriteString(w, "whole")
	}))
	server.Config.ErrorLog = discard
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	c := client(t, server.URL, func(cfg *Config) { cfg.Transport, cfg.Way = nil, trusting(server) })
	defer c.cfg.Transport.(*agingTransport).CloseIdleConnections()
	resp, err := c.Do(t.Context(), Request{Method: "GET", Path: "x"})
	if err != nil {
		t.Fatal(err)
	}
	c.Take(Way{})
	if e := fault(t, c); e.Class != TLS {
		t.Errorf("the next request met %v", e)
	}
	close(release)
	if text, err := io.ReadAll(resp.Body); string(text) != "whole" || err != nil {
		t.Errorf("the answer under way ended with %q, %v", text, err)
	}
	resp.Body.Close()
	c.Take(trusting(server))
	if resp, err = c.Do(t.Context(), Request{Method: "GET", Path: "x"}); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// TestWay_ThroughAProxy has a proxy for TLS, for plain HTTP, and one that wants
// credentials, on the way to servers that no name leads to.
func TestWay_ThroughAProxy(t *testing.T) {
	var seen []string
	var mu sync.Mutex
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %v", r.Proto, r.Header.Get("Proxy-Authorization") != "")
	})
	secure := httptest.NewTLSServer(answer)
	defer secure.Close()
	plain := httptest.NewServer(answer)
	defer plain.Close()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
		mu.Unlock()
		if r.Method != "CONNECT" {
			r.URL.Host, r.RequestURI = plain.Listener.Addr().String(), ""
			r.Header.Del("Proxy-Authorization")
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err == nil {
				defer resp.Body.Close()
				_, _ = io.Copy(w, resp.Body)
			}
			return
		}
		there, err := net.Dial("tcp", secure.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(there, here); there.Close() }()
		_, _ = io.Copy(here, there)
		here.Close()
	}))
	defer proxy.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	way := trusting(secure)
	way.Proxy, _ = url.Parse(strings.Replace(proxy.URL, "//", "//user:pass@", 1))
	for base, want := range map[string]string{
		"https://example.com": "CONNECT example.com:443 Basic dXNlcjpwYXNz",
		"http://example.com":  "POST example.com Basic dXNlcjpwYXNz",
	} {
		seen = nil
		c := client(t, base, func(cfg *Config) { cfg.Transport, cfg.Way = nil, way })
		resp, err := c.Do(t.Context(), Request{Method: "POST", Path: "x", Body: []byte("{}"), Header: http.Header{"Proxy-Authorization": {"Basic client"}}})
		if err != nil {
			t.Errorf("%s: %v", base, err)
			continue
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		c.cfg.Transport.(*agingTransport).CloseIdleConnections()
		if string(text) != "HTTP/1.1 false" || len(seen) != 1 || seen[0] != want {
			t.Errorf("%s: the provider answered %q, the proxy saw %q", base, text, seen)
		}
	}
}
