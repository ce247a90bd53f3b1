package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// echo is a provider that sends every message of a websocket back.
func echo(t *testing.T, seen func(r *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		seen(r)
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"realtime"}})
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer func() { _ = c.CloseNow() }()
		c.SetReadLimit(1 << 20)
		for {
			kind, message, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if c.Write(r.Context(), kind, message) != nil {
				return
			}
		}
	}
}

func realtime(t *testing.T, s *sidecartest.Sidecar, o *websocket.DialOptions) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	c, resp, err := websocket.Dial(t.Context(), strings.Replace(s.URL, "http", "ws", 1)+"/v1/session/s/realtime?model=gpt-realtime", o)
	if err == nil {
		t.Cleanup(func() { _ = c.CloseNow() })
	}
	return c, resp, err
}

func TestTunnel_CarriesAWebsocket(t *testing.T) {
	var up http.Header
	var target string
	s := start(t, sidecartest.Scripted(t, echo(t, func(r *http.Request) { up, target = r.Header.Clone(), r.RequestURI })), "MAX_CONCURRENT_REQUESTS", "1")
	c, resp, err := realtime(t, s, &websocket.DialOptions{
		Subprotocols: []string{"realtime", "openai-insecure-api-key.sk-client-canary", "openai-beta.realtime-v1"},
		HTTPHeader:   http.Header{"Openai-Beta": {"realtime=v1"}, "Authorization": {"Bearer sk-client-canary"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if target != "/v1/realtime?model=gpt-realtime" || up.Get("Authorization") != "Bearer sk-upstream-canary" || up.Get("Openai-Beta") != "realtime=v1" ||
		up.Get("Sec-Websocket-Protocol") != "realtime, openai-beta.realtime-v1" || strings.Contains(fmt.Sprint(up), "sk-client-canary") {
		t.Errorf("%s, headers up %v", target, up)
	}
	if c.Subprotocol() != "realtime" || resp.Header.Get("X-Queue-Wait-Ms") == "" || strings.Contains(fmt.Sprint(resp.Header), "canary") {
		t.Errorf("subprotocol %q, headers down %v", c.Subprotocol(), resp.Header)
	}
	c.SetReadLimit(1 << 20)
	for _, message := range []string{"a", strings.Repeat("ü", 200_000), ""} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(t.Context()); err != nil || string(got) != message {
			t.Fatalf("%d bytes came back as %d, %v", len(message), len(got), err)
		}
	}
	// It holds its place for its life.
	queued := make(chan sidecartest.Answer, 1)
	go func() {
		a, _ := sidecartest.Try(t.Context(), "POST", s.URL+"/v1/other", "{}")
		queued <- a
	}()
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 1 && q.Waiting == 1 })
	if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("close: %v", err)
	}
	<-queued
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 0 && q.Waiting == 0 })
	if rows := s.Rows("s"); len(rows) != 1 || rows[0].Status != 101 || rows[0].Outcome != "complete" || rows[0].Metered || rows[0].UsageSource != "none" || rows[0].Attempts != 1 {
		t.Errorf("rows %+v", rows)
	}
}

func TestTunnel_HandshakeMayWaitAndMayBeRefused(t *testing.T) {
	refusals := []int{429, 429}
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		if len(refusals) == 0 {
			echo(t, func(*http.Request) {})(w, r)
			return
		}
		w.Header().Set("Retry-After-Ms", "5")
		w.WriteHeader(refusals[0])
		_, _ = io.WriteString(w, `{"error":{"message":"no","type":"x","param":null,"code":"y"}}`)
		refusals = refusals[1:]
	}))
	if _, _, err := realtime(t, s, nil); err != nil {
		t.Errorf("after two 429s: %v", err)
	}
	refusals = []int{403}
	_, resp, err := realtime(t, s, nil)
	if err == nil || resp.StatusCode != 403 {
		t.Fatalf("a refused handshake: %v, %v", resp, err)
	}
	if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), `"code":"y"`) {
		t.Errorf("the refusal came as %s", body)
	}
}

// TestTunnel_OpensOnlyForAWebsocket has a provider that switches protocols
// whatever it is asked.
func TestTunnel_OpensOnlyForAWebsocket(t *testing.T) {
	var asked atomic.Value
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Header.Get("Upgrade"))
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
	}))
	for _, request := range []struct{ name, head, body, upgrade string }{
		{"another protocol", "GET /v1/realtime HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n", "", ""},
		{"a metered request", fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: %d\r\n", len(sidecartest.Chat)), sidecartest.Chat, ""},
		{"no Connection header", "GET /v1/realtime HTTP/1.1\r\nUpgrade: websocket\r\n", "", ""},
		{"another protocol in the answer", "GET /v1/realtime HTTP/1.1\r\nConnection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n", "", "websocket"},
	} {
		t.Run(request.name, func(t *testing.T) {
			_, reader := s.Raw(request.head + "Host: 127.0.0.1\r\n\r\n" + request.body)
			resp, err := http.ReadResponse(reader, nil)
			if err != nil || resp.StatusCode != 502 || asked.Load() != request.upgrade {
				t.Errorf("%v, %v; the provider was asked for %q", resp, err, asked.Load())
			}
		})
	}
}

// TestTunnel_ARefusedHandshakeTakesNoPlace: a client that tries a websocket first, at a
// provider that has none, uses nothing of the limit by it.
func TestTunnel_ARefusedHandshakeTakesNoPlace(t *testing.T) {
	refusals := []func(w http.ResponseWriter){
		func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
		func(w http.ResponseWriter) { w.WriteHeader(http.StatusUpgradeRequired) },
		func(w http.ResponseWriter) { _, _ = io.WriteString(w, "hello") }, // no upgrade, and no error
		func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	}
	asked := atomic.Int64{}
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			refusals[int(asked.Add(1))%len(refusals)](w)
		}
	}), "RATE_LIMIT_PER_MIN", "1")
	for range 7 {
		if _, resp, err := realtime(t, s, nil); err == nil {
			t.Fatalf("a websocket opened: %v", resp)
		}
	}
	if n := asked.Load(); n != 7 {
		t.Errorf("%d handshakes reached the provider, want all 7 of them within a limit of one a minute", n)
	}
	if a := sidecartest.Send(t, "POST", s.URL+"/v1/other", "{}", "X-Queue-Timeout", "1s"); a.StatusCode != 200 {
		t.Errorf("the place is gone: %d %s", a.StatusCode, a.Body)
	}
}

func TestTunnel_KeysAndOrigins(t *testing.T) {
	s := start(t, sidecartest.Scripted(t, echo(t, func(*http.Request) {})), "CLIENT_API_KEYS", "web=sk-client-canary")
	for _, c := range []struct {
		name      string
		protocols []string
		header    http.Header
		status    int
	}{
		{"a browser's key", []string{"realtime", "openai-insecure-api-key.sk-client-canary"}, nil, 101},
		{"a browser's wrong key", []string{"realtime", "openai-insecure-api-key.sk-wrong"}, nil, 401},
		{"no key", []string{"realtime"}, nil, 401},
		{"another key in the header", []string{"openai-insecure-api-key.sk-client-canary"}, http.Header{"Authorization": {"Bearer x"}}, 401},
		{"a strange page", []string{"realtime", "openai-insecure-api-key.sk-client-canary"}, http.Header{"Origin": {"https://evil.test"}}, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, resp, err := realtime(t, s, &websocket.DialOptions{Subprotocols: c.protocols, HTTPHeader: c.header})
			if resp == nil || resp.StatusCode != c.status {
				t.Errorf("got %v, %v; want %d", resp, err, c.status)
			}
		})
	}
	if a := sidecartest.Send(t, "GET", s.URL+"/v1/models", "", "Sec-WebSocket-Protocol", "openai-insecure-api-key.sk-client-canary"); a.StatusCode != 401 {
		t.Errorf("a subprotocol lets a plain request in: %d", a.StatusCode)
	}
}

// TestTunnel_HalfCloseReachesTheOtherSide speaks bytes, not frames.
func TestTunnel_HalfCloseReachesTheOtherSide(t *testing.T) {
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello ")
		all, err := io.ReadAll(buffered)
		_, _ = fmt.Fprintf(conn, "%s, %v", all, err)
	}))
	// "early" leaves with the handshake, before anybody has agreed to it.
	conn, reader := s.Raw("GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly ")
	resp, err := http.ReadResponse(reader, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v, %v", resp, err)
	}
	_, _ = io.WriteString(conn, "late")
	_ = conn.(*net.TCPConn).CloseWrite()
	if all, err := io.ReadAll(reader); err != nil || string(all) != "hello early late, <nil>" {
		t.Errorf("got %q, %v", all, err)
	}
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 0 })
}

func TestTunnel_BreaksOnBothSidesWithEither(t *testing.T) {
	closed := make(chan error, 1)
	var breakIt atomic.Bool
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.CloseNow() }()
		if breakIt.Load() {
			return
		}
		_, _, err = c.Read(context.Background())
		closed <- err
	}))
	c, _, err := realtime(t, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.CloseNow()
	if err := <-closed; err == nil {
		t.Error("the provider does not see that the client has gone")
	}
	breakIt.Store(true)
	c, _, err = realtime(t, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(t.Context()); err == nil {
		t.Error("the client does not see that the provider has gone")
	}
	_ = c.CloseNow()
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 0 })
}

func TestTunnel_EndsWithTheGrace(t *testing.T) {
	t.Parallel()
	s := start(t, sidecartest.Scripted(t, echo(t, func(*http.Request) {})), "SHUTDOWN_GRACE", "1s")
	c, _, err := realtime(t, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop() }()
	for len(s.Log.Lines("draining")) == 0 {
		<-time.After(time.Millisecond)
	}
	if err := c.Write(t.Context(), websocket.MessageText, []byte("still there")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(t.Context()); err != nil || string(got) != "still there" {
		t.Errorf("while draining: %q, %v", got, err)
	}
	if _, _, err := c.Read(t.Context()); err == nil {
		t.Error("it outlived the grace")
	}
	if err := <-stopped; err != nil {
		t.Errorf("stopped with %v", err)
	}
	if lines := s.Log.Lines("request"); len(lines) != 1 || lines[0]["status"] != 101.0 || lines[0]["outcome"] != "truncated" {
		t.Errorf("logged %v", lines)
	}
}

// TestTunnel_SlowReader has a client that does not read what the provider sends.
func TestTunnel_SlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cut atomic.Int64
		started := time.Now()
		b := handlerBubble(t, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			for err == nil {
				_, err = conn.Write(make([]byte, 1<<10))
			}
			cut.Store(int64(time.Since(started)))
		})
		defer b.Stop()
		conn, err := b.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() {
			_, _ = io.WriteString(conn, "GET /v1/session/s/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		}()
		if _, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(httpapi.SlowReader + time.Second)
		synctest.Wait()
		if after := time.Duration(cut.Load()); after != httpapi.SlowReader || b.server.limits.InFlight() != 0 {
			t.Errorf("cut after %v, want %v; %d places held", after, httpapi.SlowReader, b.server.limits.InFlight())
		}
		if got := outcomes(t, b); fmt.Sprint(got) != "[client_gone]" {
			t.Errorf("booked %v", got)
		}
	})
}

func TestTunnel_SilenceIsBounded(t *testing.T) {
	const head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	for _, c := range []struct {
		name     string
		provider func(conn net.Conn, over <-chan struct{})
		half     time.Duration // after so long the client sends no more
		want     time.Duration
	}{
		{"silent", func(conn net.Conn, _ <-chan struct{}) { _, _ = io.Copy(io.Discard, conn) }, 0, idleTimeout},
		{"a pulse every nine minutes", func(conn net.Conn, _ <-chan struct{}) {
			for range 9 {
				time.Sleep(9 * time.Minute)
				_, _ = conn.Write([]byte("."))
			}
			_, _ = io.Copy(io.Discard, conn)
		}, 0, 81*time.Minute + idleTimeout},
		{"half closed", func(conn net.Conn, over <-chan struct{}) {
			_, _ = io.Copy(io.Discard, conn)
			<-over
		}, time.Minute, time.Minute + halfPatience},
		{"half closed, the other half at work", func(conn net.Conn, over <-chan struct{}) {
			_, _ = io.Copy(io.Discard, conn)
			for range 5 {
				<-time.After(20 * time.Second)
				_, _ = conn.Write([]byte("."))
			}
			<-over
		}, time.Minute, time.Minute + 100*time.Second + halfPatience},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				over := make(chan struct{})
				b := newBubbleOn(t, sidecartest.NewCable(), sidecartest.NewCable(), sidecartest.Serving(func(w http.ResponseWriter, _ *http.Request) {
					conn, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					_, _ = io.WriteString(conn, head)
					c.provider(conn, over)
				}))
				defer b.Stop()
				defer close(over)
				conn, err := b.Dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				started := time.Now()
				go func() {
					_, _ = io.WriteString(conn, "GET /v1/session/s/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
					if c.half > 0 {
						<-time.After(c.half)
						_ = conn.(*sidecartest.CableEnd).CloseWrite()
					}
				}()
				_, _ = io.Copy(io.Discard, bufio.NewReader(conn))
				if took := time.Since(started); took != c.want {
					t.Errorf("cut after %v, want %v", took, c.want)
				}
				synctest.Wait()
				if got := outcomes(t, b); fmt.Sprint(got) != "[truncated]" || b.server.limits.InFlight() != 0 {
					t.Errorf("booked %v, %d places held", got, b.server.limits.InFlight())
				}
			})
		})
	}
}
