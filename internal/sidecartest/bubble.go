package sidecartest

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// A Network has one listener: a provider.Pipe or a cable.
type Network interface {
	net.Listener
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// A Wiring is what a bubble is made of.
type Wiring struct {
	Up, Down Network // to the provider, and to the sidecar
	Provider func(net.Listener) (stop func() error)
	Sidecar  func(up *upstream.Client) (serve func(context.Context, net.Listener) error, stop func() error)
	HTTP2    bool // spoken to the provider, with prior knowledge
}

// A Bubble is a sidecar between two networks, for tests in virtual time.
type Bubble struct {
	Client *http.Client
	Dial   func(context.Context) (net.Conn, error) // to the sidecar
	Stop   func()
	Cancel func()       // begins the end, as SIGTERM does
	Down   atomic.Bool  // no connection to the provider can be made
	Dials  atomic.Int64 // that failed for it
}

// Start serves both.
func (w Wiring) Start(t *testing.T) *Bubble {
	t.Helper()
	b := &Bubble{Dial: func(ctx context.Context) (net.Conn, error) { return w.Down.DialContext(ctx, "", "") }}
	stopProvider := w.Provider(w.Up)
	upTransport := upstream.NewTransport()
	upTransport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if b.Down.Load() {
			b.Dials.Add(1)
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		return w.Up.DialContext(ctx, network, address)
	}
	if w.HTTP2 {
		upTransport.Protocols = new(http.Protocols)
		upTransport.Protocols.SetUnencryptedHTTP2(true)
	}
	base, err := url.Parse("http://provider/v1")
	if err != nil {
		t.Fatal(err)
	}
	serve, closeSidecar := w.Sidecar(upstream.New(upstream.Config{Base: base, Key: func() string { return "sk-1" }, Transport: upTransport}))
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, w.Down) }()
	transport := &http.Transport{DialContext: w.Down.DialContext, MaxIdleConnsPerHost: 10_000}
	b.Client, b.Cancel = &http.Client{Transport: transport}, cancel
	b.Stop = func() {
		transport.CloseIdleConnections()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := closeSidecar(); err != nil {
			t.Errorf("close: %v", err)
		}
		upTransport.CloseIdleConnections()
		if err := stopProvider(); err != nil {
			t.Errorf("stop the provider: %v", err)
		}
	}
	return b
}

// Ask makes one call and returns its status and the time to it.
func (b *Bubble) Ask(ctx context.Context, session, body string) (status int, waited time.Duration, text string, err error) {
	started := time.Now()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://127.0.0.1/v1/session/"+session+"/chat/completions", strings.NewReader(body))
	if err != nil {
		return 0, 0, "", err
	}
	resp, err := b.Client.Do(req)
	if err != nil {
		return 0, 0, "", err
	}
	defer resp.Body.Close()
	waited = time.Since(started)
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, waited, string(answer), err
}

// Post starts a request and returns its answer, body open.
func (b *Bubble) Post(t *testing.T, ctx context.Context, path, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://127.0.0.1"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// Serving is a provider for Wiring that answers by handle.
func Serving(handle http.HandlerFunc) func(net.Listener) (stop func() error) {
	return func(l net.Listener) func() error {
		server := &http.Server{Handler: handle, Protocols: new(http.Protocols)}
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetUnencryptedHTTP2(true)
		done := make(chan struct{})
		go func() { defer close(done); _ = server.Serve(l) }()
		return func() error { err := server.Close(); <-done; return err }
	}
}
