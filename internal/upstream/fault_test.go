package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

// trusting is the way to a server whose certificate is its own.
func trusting(server *httptest.Server) Way {
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return Way{Roots: roots}
}

var discard = log.New(io.Discard, "", 0)

// fault is what one attempt met.
func fault(t *testing.T, c *Client) *Error {
	t.Helper()
	resp, err := c.Do(context.Background(), Request{Method: "POST", Path: "x", Body: []byte("{}")})
	if err == nil {
		resp.Body.Close()
		t.Fatalf("it was answered: %s", resp.Status)
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%T %v", err, err)
	}
	return e
}

func TestDo_NamesTheClassOfAFault(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = discard
	secure.StartTLS()
	defer secure.Close()
	shy := func(version uint16) *httptest.Server {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.Config.ErrorLog = discard
		s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: version}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	shy12, shy13 := shy(tls.VersionTLS12), shy(tls.VersionTLS13)
	trusting := func(cfg *Config) { cfg.Way, cfg.Transport = trusting(secure), nil }
	dialling := func(err error) func(*Config) {
		return func(cfg *Config) {
			cfg.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, err }
		}
	}
	through := func(proxy string) func(*Config) {
		return func(cfg *Config) {
			u, err := url.Parse(proxy)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Way.Proxy, cfg.Transport = u, nil
		}
	}
	turnedAway := func(status int) func(*Config) {
		return through(rawServer(t, func(_ int, conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			fmt.Fprintf(conn, "HTTP/1.1 %d x\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", status)
		}))
	}
	socks := func(answers ...string) func(*Config) {
		return through(strings.Replace(rawServer(t, func(_ int, conn net.Conn) {
			for _, answer := range answers {
				_, _ = conn.Read(make([]byte, 512))
				_, _ = io.WriteString(conn, answer)
			}
		}), "http:", "socks5:", 1))
	}
	nobody := "127.0.0.1:1"
	for name, c := range map[string]struct {
		base   string
		change func(*Config)
		class  Class
		final  bool
	}{
		"no such name":                    {"http://x", resolving(t, 3), DNS, false},
		"the name service fails":          {"http://x", resolving(t, 2), DNS, false},
		"the name service is silent":      {"http://x", dialling(&net.OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true}}), DNS, false},
		"refused":                         {"http://" + nobody, nil, Refused, false},
		"no route to the host":            {"http://x", dialling(&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}), NoRoute, false},
		"no route to the network":         {"http://x", dialling(&net.OpError{Op: "dial", Err: syscall.ENETUNREACH}), NoRoute, false},
		"forbidden by a local rule":       {"http://x", dialling(&net.OpError{Op: "dial", Err: syscall.EPERM}), NoRoute, false},
		"silence":                         {"http://x", dialling(&net.OpError{Op: "dial", Err: syscall.ETIMEDOUT}), Silent, false},
		"no descriptors left":             {"http://x", dialling(&net.OpError{Op: "dial", Err: syscall.EMFILE}), Other, false},
		"closed in the handshake":         {strings.Replace(rawServer(t, func(int, net.Conn) {}), "http:", "https:", 1), nil, Closed, false},
		"a certificate of nobody":         {secure.URL, nil, TLS, true},
		"another's certificate":           {strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), trusting, TLS, true},
		"a certificate wanted, TLS 1.2":   {shy12.URL, trusting, TLS, true},
		"a certificate wanted, TLS 1.3":   {shy13.URL, trusting, TLS, true},
		"a proxy that nobody serves":      {"https://x", through("http://" + nobody), Proxy, false},
		"a proxy that wants credentials":  {"https://x", turnedAway(407), Proxy, true},
		"the same, to a plain upstream":   {"http://x", turnedAway(407), Proxy, true},
		"a proxy that forbids":            {"https://x", turnedAway(403), Proxy, true},
		"a proxy that does not find it":   {"https://x", turnedAway(502), Proxy, false},
		"a SOCKS proxy that forbids":      {"https://x", socks("\x05\x00", "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"), Proxy, false},
		"a SOCKS proxy that wants a name": {"https://x", socks("\x05\xff"), Proxy, true},
		"a SOCKS proxy that is none":      {"https://x", through("socks5://" + nobody), Proxy, false},
		"an https proxy not trusted":      {"https://x", through(secure.URL), Proxy, true},
	} {
		t.Run(name, func(t *testing.T) {
			change := c.change
			if change == nil {
				change = func(*Config) {}
			}
			made := client(t, c.base, change)
			if own, ok := made.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
				t.Cleanup(own.CloseIdleConnections)
			}
			e := fault(t, made)
			if e.Kind != Unreachable || e.Class != c.class || e.Final != c.final {
				t.Errorf("kind %d, class %s, final %v: %v", e.Kind, e.Class, e.Final, e)
			}
			if o, lasts := made.Outage(); !lasts || o.Class != c.class || o.GivenUp {
				t.Errorf("the outage: %+v, %v", o, lasts)
			}
		})
	}
}

// resolving has names looked up at a name server that answers with this code.
func resolving(t *testing.T, code byte) func(*Config) {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { server.Close(); <-done })
	go func() {
		defer close(done)
		for {
			query := make([]byte, 512)
			n, from, err := server.ReadFrom(query)
			if err != nil {
				return
			}
			answer := append([]byte(nil), query[:n]...)
			answer[2], answer[3] = 0x81, 0x80|code // an answer, recursion available
			clear(answer[6:12])                    // no records, the query's EDNS included
			end := 12
			for answer[end] != 0 {
				end += int(answer[end]) + 1
			}
			_, _ = server.WriteTo(answer[:end+5], from)
		}
	}()
	dialer := net.Dialer{Timeout: time.Second, Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}}
	return func(cfg *Config) { cfg.Transport.(*http.Transport).DialContext = dialer.DialContext }
}

// TestReach_BeginsAnewAfterAWhile: what failed long ago tells nothing of now, and one
// connection ends an outage.
func TestReach_BeginsAnewAfterAWhile(t *testing.T) {
	var r Reach
	told := make(chan Outage, 1)
	r.Watch(func() time.Duration { return 0 }, func(o Outage) { told <- o }, nil)
	r.failed(time.Now().Add(-time.Second), Refused)
	if o := <-told; !o.GivenUp || o.Class != Refused {
		t.Errorf("told %+v", o)
	}
	r.last = r.last.Add(-2 * outageMemory)
	if _, known := r.Outage(); known {
		t.Error("an old failure is held against it")
	}
	r.Watch(func() time.Duration { return time.Hour }, nil, nil)
	r.failed(time.Now(), DNS)
	if o, known := r.Outage(); !known || o.GivenUp || o.Class != DNS {
		t.Errorf("the new outage is %+v", o)
	}
	r.connected()
	if _, known := r.Outage(); known {
		t.Error("it has been reached")
	}
}
