package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkDo_ReusedConnections measures what closing keep-alive connections
// cost: of 100,000 attempts, how many wrote into a connection that was just
// being closed (502 to the client), how many met it before they wrote (sent
// again), and that the server got none twice. One server closes 0 to 5 ms after
// its answer, which no client can be ahead of; the other after 20 to 25 ms, once
// with a client that gives its connections up after 10. The last is as it is
// with providers, in a tenth of a second each: the client is ahead by more than
// a busy machine is late.
//
//	go test ./internal/upstream -run xxx -bench Reused -benchtime 100000x
func BenchmarkDo_ReusedConnections(b *testing.B) {
	for _, idle := range []struct {
		name               string
		server, keep, pace time.Duration
	}{
		{"server closes at once", 0, time.Minute, 5 * time.Millisecond},
		{"server closes first", 20 * time.Millisecond, time.Minute, 50 * time.Millisecond},
		{"client closes 10 ms before", 20 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond},
		{"client closes 100 ms before", 200 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond},
	} {
		b.Run(idle.name, func(b *testing.B) {
			var served atomic.Int64
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			var serving sync.WaitGroup
			serving.Go(func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					serving.Go(func() {
						defer conn.Close()
						reader := bufio.NewReader(conn)
						for {
							r, err := http.ReadRequest(reader)
							if err != nil {
								return
							}
							_, _ = io.Copy(io.Discard, r.Body)
							served.Add(1)
							_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
							_ = conn.SetReadDeadline(time.Now().Add(idle.server + rand.N(5*time.Millisecond)))
						}
					})
				}
			})
			defer serving.Wait()
			defer l.Close()
			transport := NewTransport()
			transport.IdleConnTimeout = idle.keep
			defer transport.CloseIdleConnections()
			base, err := url.Parse("http://" + l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			up := New(Config{Base: base, Key: func() string { return "k" }, Transport: transport})
			var broken, unsent, answered atomic.Int64
			b.SetParallelism(int(idle.pace / time.Millisecond)) // callers mostly pause
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := up.Do(context.Background(), Request{Method: "POST", Path: "x", Body: []byte("{}")})
					var e *Error
					switch {
					case err == nil:
						resp.Body.Close()
						answered.Add(1)
					case errors.As(err, &e) && e.Kind == NotSent:
						unsent.Add(1)
					default:
						broken.Add(1)
					}
					pause := time.NewTimer(rand.N(idle.pace))
					<-pause.C
				}
			})
			b.ReportMetric(float64(broken.Load())/float64(b.N)*1e5, "broken/100k")
			b.ReportMetric(float64(unsent.Load())/float64(b.N)*1e5, "unsent/100k")
			if twice := served.Load() - answered.Load() - broken.Load(); twice > 0 {
				b.Errorf("the server got %d requests twice", twice)
			}
		})
	}
}
