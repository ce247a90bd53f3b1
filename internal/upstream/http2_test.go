package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An h2Server speaks HTTP/2 over TLS, frame by frame. Of each stream that has
// come to its end it asks do what shall become of it, by the stream's number
// over all connections.
type h2Server struct {
	base    string
	roots   *x509.CertPool
	streams atomic.Int32
	do      func(n int, f *http2.Framer, stream uint32) (goOn bool)
}

func newH2Server(t *testing.T, do func(n int, f *http2.Framer, stream uint32) bool) *h2Server {
	t.Helper()
	plain := httptest.NewTLSServer(nil) // for its certificate
	defer plain.Close()
	s := &h2Server{roots: x509.NewCertPool(), do: do}
	s.roots.AddCert(plain.Certificate())
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: plain.TLS.Certificates, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	s.base = "https://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				defer conn.Close()
				s.serve(conn)
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); serving.Wait() })
	return s
}

func (s *h2Server) serve(conn net.Conn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	f := http2.NewFramer(conn, conn)
	if f.WriteSettings() != nil {
		return
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		ended := false
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				_ = f.WritePing(true, frame.Data)
			}
		case *http2.HeadersFrame:
			ended = frame.StreamEnded()
		case *http2.DataFrame:
			ended = frame.StreamEnded()
			if n := len(frame.Data()); n > 0 {
				_ = f.WriteWindowUpdate(0, uint32(n))
			}
		}
		if ended && !s.do(int(s.streams.Add(1)), f, frame.Header().StreamID) {
			return
		}
	}
}

// answerH2 answers a stream with 200.
func answerH2(f *http2.Framer, stream uint32) {
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
}

// TestDo_HTTP2 holds what may follow a refused or broken HTTP/2 stream, and that
// the transport, which would repeat some by itself, never does.
func TestDo_HTTP2(t *testing.T) {
	reset := func(code http2.ErrCode) func(*http2.Framer, uint32) bool {
		return func(f *http2.Framer, stream uint32) bool { return f.WriteRSTStream(stream, code) == nil }
	}
	const noKind = Kind(255)
	for _, c := range []struct {
		name string
		do   func(f *http2.Framer, stream uint32) bool
		want Kind
	}{
		{"an answer", func(f *http2.Framer, stream uint32) bool { answerH2(f, stream); return true }, noKind},
		{"REFUSED_STREAM", reset(http2.ErrCodeRefusedStream), NotSent},
		{"GOAWAY before the stream", func(f *http2.Framer, _ uint32) bool {
			_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
			return true
		}, NotSent},
		{"GOAWAY behind the stream, then the end", func(f *http2.Framer, stream uint32) bool {
			_ = f.WriteGoAway(stream, http2.ErrCodeNo, nil)
			return false
		}, Broken},
		{"GOAWAY behind the stream, then its answer", func(f *http2.Framer, stream uint32) bool {
			_ = f.WriteGoAway(stream, http2.ErrCodeNo, nil)
			answerH2(f, stream)
			return true
		}, noKind},
		{"GOAWAY with an error", func(f *http2.Framer, _ uint32) bool {
			_ = f.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, nil)
			return true
		}, Broken},
		{"CANCEL", reset(http2.ErrCodeCancel), Broken},
		{"INTERNAL_ERROR", reset(http2.ErrCodeInternal), Broken},
		{"PROTOCOL_ERROR, which the transport would repeat", reset(http2.ErrCodeProtocol), Broken},
		{"the end of the connection", func(*http2.Framer, uint32) bool { return false }, Broken},
	} {
		for _, r := range []Request{
			{Method: "POST", Path: "x", Body: []byte("{}"), Header: http.Header{"Idempotency-Key": {"k"}}},
			{Method: "POST", Path: "x", Body: bytes.Repeat([]byte("x"), 40_000)},
			{Method: "POST", Path: "x", Stream: strings.NewReader("{}"), Length: -1},
			{Method: "GET", Path: "x"},
		} {
			t.Run(c.name+", "+r.Method, func(t *testing.T) {
				s := newH2Server(t, func(n int, f *http2.Framer, stream uint32) bool {
					if n == 1 {
						return c.do(f, stream)
					}
					answerH2(f, stream)
					return true
				})
				var transport *http.Transport
				up := client(t, s.base, func(cfg *Config) {
					transport = NewTransport()
					transport.TLSClientConfig = &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12}
					cfg.Transport = transport
				})
				defer transport.CloseIdleConnections()
				want := c.want
				if r.Stream != nil && want == NotSent {
					want = Broken // it cannot be read a second time
				}
				resp, err := up.Do(context.Background(), r)
				if err == nil {
					resp.Body.Close()
				}
				if e := (*Error)(nil); want == noKind && err != nil || want != noKind && (!errors.As(err, &e) || e.Kind != want) {
					t.Errorf("got %v, want kind %d", err, want)
				}
				if n := s.streams.Load(); n != 1 {
					t.Errorf("%d streams for one attempt", n)
				}
				if r.Stream != nil {
					return
				}
				resp, err = up.Do(context.Background(), r) // the next attempt finds a way
				if err != nil {
					t.Fatalf("the next attempt: %v", err)
				}
				resp.Body.Close()
				if n := s.streams.Load(); n != 2 || resp.ProtoMajor != 2 {
					t.Errorf("%d streams for two attempts, over HTTP/%d", n, resp.ProtoMajor)
				}
			})
		}
	}
}
