package provider

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Listen serves on addr, "127.0.0.1:0" for any free port, in HTTP/1.1 and in
// HTTP/2 without TLS. It returns the base URL for clients, which ends in /v1, and a
// function that closes every connection and waits for the listener's end.
func (s *Server) Listen(addr string) (baseURL string, closeAll func() error, err error) {
	l, err := net.Listen("tcp", addr) //nolint:noctx // binding a local port does not block
	if err != nil {
		return "", nil, fmt.Errorf("listen for the simulated provider: %w", err)
	}
	return "http://" + l.Addr().String() + "/v1", s.Serve(l), nil
}

// Serve serves on l until the returned function is called.
func (s *Server) Serve(l net.Listener) (closeAll func() error) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: s, Protocols: protocols, ReadHeaderTimeout: 30 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	return sync.OnceValue(func() error {
		err := server.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	})
}

// TB is what Start needs of a *testing.T or *testing.B.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Start runs a provider for the length of a test and returns its base URL.
func Start(t TB, cfg Config) (s *Server, baseURL string) {
	t.Helper()
	s = New(cfg)
	baseURL, closeAll, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatalf("start provider: %v", err)
	}
	t.Cleanup(func() {
		if err := closeAll(); err != nil {
			t.Fatalf("close provider: %v", err)
		}
	})
	return s, baseURL
}

// Pipe is a listener without a network: connections are [net.Pipe], so that a client and a
// server can live in a testing/synctest bubble. Addresses dialled do not matter.
type Pipe struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// NewPipe returns an open Pipe.
func NewPipe() *Pipe {
	return &Pipe{conns: make(chan net.Conn), done: make(chan struct{})}
}

// DialContext connects; it fits http.Transport.DialContext.
func (p *Pipe) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (p *Pipe) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *Pipe) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

// Addr implements net.Listener.
func (p *Pipe) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
