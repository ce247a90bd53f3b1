package main

import (
	"bufio"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// vouch writes the file of a server's own certificate.
func vouch(t *testing.T, path string, server *httptest.Server) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// connectProxy leads every CONNECT to address, and counts them.
func connectProxy(t *testing.T, address string, tunnels *atomic.Int64) (proxy string) {
	t.Helper()
	return sidecartest.Listen(t, func(conn io.ReadWriteCloser) {
		reader := bufio.NewReader(conn)
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		if r.Method != "CONNECT" || r.Host != "example.com:443" {
			t.Errorf("the proxy was asked to %s %s", r.Method, r.Host)
			return
		}
		if r.Header.Get("Proxy-Authorization") != "Basic dXNlcjpwcm94eS1jYW5hcnk=" { // user:proxy-canary
			_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
			return
		}
		tunnels.Add(1)
		there, err := net.Dial("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() { _, _ = io.Copy(there, reader); there.Close() }()
		_, _ = io.Copy(conn, there)
	})
}

// TestWay_ThroughTheProxyOfTheEnvironment has an upstream that only a proxy leads to, and
// that only UPSTREAM_CA_FILE vouches for.
func TestWay_ThroughTheProxyOfTheEnvironment(t *testing.T) {
	talk := echo(t, func(*http.Request) {})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/realtime") {
			talk(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"object":"list"}`)
	}))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	vouch(t, ca, server)
	var tunnels atomic.Int64
	proxy := connectProxy(t, server.Listener.Addr().String(), &tunnels)
	const base = "https://example.com/v1"
	for _, settings := range [][]string{
		{"HTTPS_PROXY", "http://user:proxy-canary@" + proxy},
		{"UPSTREAM_PROXY", "http://user:proxy-canary@" + proxy, "NO_PROXY", "*"},
	} {
		before := tunnels.Load()
		s := start(t, base, append(settings, "UPSTREAM_CA_FILE", ca)...)
		if a := sidecartest.Send(t, "GET", s.URL+"/v1/models", ""); a.StatusCode != 200 {
			t.Errorf("%d %s", a.StatusCode, a.Body)
		}
		c, _, err := realtime(t, s, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
			t.Error(err)
		}
		if _, text, err := c.Read(t.Context()); err != nil || string(text) != "hello" {
			t.Errorf("the websocket says %q, %v", text, err)
		}
		if n := tunnels.Load() - before; n < 2 || n > 3 {
			t.Errorf("%d tunnels, want one for the request, one for the websocket, and perhaps one for the look at the start", n)
		}
		if line := s.Log.Lines("serving")[0]; line["proxy"] != "http://"+proxy {
			t.Errorf("the start line names %v", line["proxy"])
		}
		_ = c.CloseNow()
	}
	s := start(t, base, "UPSTREAM_PROXY", "http://"+proxy, "UPSTREAM_CA_FILE", ca)
	a := s.Ask("s")
	unreachable(t, a, "proxy")
	if a.Header.Get("X-Should-Retry") != "false" {
		t.Errorf("headers %v", a.Header)
	}
}

// TestWay_CAFileIsReadAgain has the file vouch for the upstream only after a reload, and
// no longer after another; a bad file changes nothing.
func TestWay_CAFileIsReadAgain(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	server.Config.ErrorLog = discardLog
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(otherCA), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, server.URL+"/v1", "UPSTREAM_CA_FILE", ca)
	unreachable(t, s.Ask("s"), "tls")
	vouch(t, ca, server)
	s.Hangup(true)
	if a := s.Ask("s"); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
	if err := os.WriteFile(ca, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Hangup(false)
	if a := s.Ask("s"); a.StatusCode != 200 {
		t.Errorf("after a bad file: %d %s", a.StatusCode, a.Body)
	}
	if err := os.WriteFile(ca, []byte(otherCA), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Hangup(true)
	unreachable(t, s.Ask("s"), "tls")
}

// TestKeep_StreamsOfALocalServerShareAConnection has a model server on plain HTTP, which
// keeps its connections: streams one after another come to use one.
func TestKeep_StreamsOfALocalServerShareAConnection(t *testing.T) {
	var connections, streams atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	s := start(t, server.URL+"/v1")
	sidecartest.Eventually(t, "streams share a connection", func() bool {
		before := connections.Load()
		for range 10 {
			a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream)
			if streams.Add(1); a.StatusCode != 200 || !strings.HasSuffix(a.Body, "data: [DONE]\n\n") {
				t.Fatalf("stream %d: %d %s", streams.Load(), a.StatusCode, a.Body)
			}
		}
		return connections.Load()-before <= 1
	})
}

// otherCA is a certificate of somebody who vouches for no server here.
const otherCA = `-----BEGIN CERTIFICATE-----
MIIBjzCCATWgAwIBAgIUT3n3197pI3ts/xpbKE/DpfFpaLowCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRQW5vdGhlciBhdXRob3JpdHkwIBcNMjYxMTI4MTM0NzQxWhgP
MjEyNjExMDQxMzQ3NDFaMBwxGjAYBgNVBAMMEUFub3RoZXIgYXV0aG9yaXR5MFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEN2kCWpaX6AKNNTTUz6K7BsIyHGhZ3t6I
aw4V+nL4YiWGU3LD5m9oZdw4bE+bC5+0v725E569dumJIGXJuqQuH6NTMFEwHQYD
VR0OBBYEFHcdkmNBVY/XmLTWpDoem3VJvdiPMB8GA1UdIwQYMBaAFHcdkmNBVY/X
mLTWpDoem3VJvdiPMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIh
ANr9seY23pl1CKvOx9hkxGi8OlwyQ0XLTWnd0U6GOwpXAiAwmpvCVb2mc0MXyBNo
BsCMZ2eKGa+xzbEIeHTPhrupPg==
-----END CERTIFICATE-----
`
