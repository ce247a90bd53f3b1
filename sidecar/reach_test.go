package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// unreachable asserts that an answer says that the provider cannot be reached, by
// this class of the fault.
func unreachable(t *testing.T, a sidecartest.Answer, class string) {
	t.Helper()
	if a.StatusCode != 502 || sidecartest.ErrorOf(t, a) != "upstream_unreachable" || !strings.Contains(a.Body, "("+class+")") || strings.Contains(a.Body, "127.0.0.1") {
		t.Errorf("%d %v %s, want 502 of class %s", a.StatusCode, a.Header, a.Body, class)
	}
}

// TestReach_WhatWaitingCannotCureIsSaidAtOnce has addresses that are wrong, with all
// the patience there is.
func TestReach_WhatWaitingCannotCureIsSaidAtOnce(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	plain := httptest.NewServer(ok)
	defer plain.Close()
	secure := httptest.NewUnstartedServer(ok)
	secure.Config.ErrorLog = discardLog
	secure.StartTLS()
	defer secure.Close()
	// What servers that are not Go's answer to plain HTTP at their port of TLS.
	nginx := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(400)
		_, _ = io.WriteString(w, "<html><center><h1>400 Bad Request</h1></center>\r\n<center>The plain HTTP request was sent to HTTPS port</center></html>")
	}))
	defer nginx.Close()
	openssl := rawUpstream(t, "\x15\x03\x01\x00\x02\x02\x46")
	for name, base := range map[string]string{
		"a certificate of nobody":            secure.URL,
		"TLS to a plain port":                strings.Replace(plain.URL, "http:", "https:", 1),
		"plain HTTP to Go's port of TLS":     strings.Replace(secure.URL, "https:", "http:", 1),
		"plain HTTP to nginx's port of TLS":  nginx.URL,
		"plain HTTP answered with an alert":  openssl,
		"TLS to what answers with no record": strings.Replace(rawUpstream(t, "220 mail.example.com ESMTP\r\n"), "http:", "https:", 1),
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, base+"/v1", "UPSTREAM_PATIENCE", "10m")
			for _, ask := range []func() sidecartest.Answer{
				func() sidecartest.Answer { return s.Ask("s") },
				func() sidecartest.Answer {
					return sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream)
				},
				func() sidecartest.Answer { return sidecartest.Send(t, "GET", s.URL+"/v1/models", "") },
			} {
				a := ask()
				unreachable(t, a, "tls")
				if a.Header.Get("X-Should-Retry") != "false" || a.Header.Get("Retry-After") != "" {
					t.Errorf("headers %v", a.Header)
				}
			}
			if rows := s.Rows("s"); len(rows) != 0 {
				t.Errorf("what was never sent has rows: %+v", rows)
			}
			if lines := s.Log.Lines("upstream unreachable"); len(lines) != 3 || lines[0]["class"] != "tls" {
				t.Errorf("logged %v", lines)
			}
			page := sidecartest.Send(t, "GET", s.URL+"/metrics", "").Body
			for _, line := range []string{`upstream_unreachable_total{class="tls"} 3`, "upstream_reachable 0", "in_flight 0"} {
				if !strings.Contains(page, "llm_queue_proxy_"+line+"\n") {
					t.Errorf("the metrics lack %s", line)
				}
			}
		})
	}
}

// TestReach_AnAnswerOfTheProvidersPasses: a 400 that only looks a little like that of
// a port of TLS is the provider's own.
func TestReach_AnAnswerOfTheProvidersPasses(t *testing.T) {
	for kind, body := range map[string]string{
		"application/json": `{"error":{"message":"Client sent an HTTP request to an HTTPS server","type":"x","param":null,"code":"x"}}`,
		"text/plain":       strings.Repeat("no such model ", 1000),
		"text/html":        "<html>400 Bad Request</html>",
	} {
		s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(400)
			_, _ = io.WriteString(w, body)
		}))
		if a := s.Ask("s"); a.StatusCode != 400 || a.Body != body {
			t.Errorf("%s: %d, %d of %d bytes", kind, a.StatusCode, len(a.Body), len(body))
		}
	}
}

func TestReach_NamesWhatIsTriedForAWhile(t *testing.T) {
	for name, c := range map[string]struct{ base, class string }{
		"a name that nobody has":        {"http://no-such-host.invalid/v1", "dns"},
		"a port where nobody listens":   {"http://127.0.0.1:1/v1", "refused"},
		"an end in the middle of hello": {strings.Replace(rawUpstream(t, ""), "http:", "https:", 1) + "/v1", "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, c.base, "UPSTREAM_PATIENCE", "1s")
			began := time.Now()
			unreachable(t, s.Ask("s"), c.class)
			if took := time.Since(began); took < time.Second || took > 6*time.Second {
				t.Errorf("told after %v", took)
			}
			if n := len(s.Log.Lines("upstream unreachable")); n < 2 {
				t.Errorf("%d attempts", n)
			}
			if a := sidecartest.Send(t, "GET", s.URL+"/readyz", ""); a.StatusCode != 200 || !strings.Contains(a.Body, `"cannot be reached: `+c.class+`"`) {
				t.Errorf("/readyz: %d %s", a.StatusCode, a.Body)
			}
			began = time.Now()
			unreachable(t, s.Ask("t"), c.class)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("the next one was told after %v", took)
			}
		})
	}
}

// rawUpstream answers each connection with some bytes, once a byte has come, and closes it.
func rawUpstream(t *testing.T, answer string) string {
	t.Helper()
	cable := sidecartest.Listen(t, func(conn io.ReadWriteCloser) {
		reader := bufio.NewReader(conn)
		if first, _ := reader.Peek(1); string(first) == "\x16" { // TLS
			_, _ = reader.Read(make([]byte, 4096))
		} else if r, err := http.ReadRequest(reader); err == nil {
			_, _ = io.Copy(io.Discard, r.Body) // a close before that would be a reset
		}
		_, _ = io.WriteString(conn, answer)
	})
	return "http://" + cable
}

// TestReach_PatienceIsOnceForAll has a provider that nobody reaches, from the start
// and again after it has answered.
func TestReach_PatienceIsOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, provider.Config{}, "RATE_LIMIT_PER_MIN", "0")
		defer b.Stop()
		asked := func(session, model string, after, least, most time.Duration) func() {
			return func() {
				<-time.After(after)
				status, waited, text, err := b.Ask(t.Context(), session, strings.Replace(sidecartest.Chat, "gpt-4o", model, 1))
				if err != nil || status != 502 || !strings.Contains(text, `"upstream_unreachable"`) || !strings.Contains(text, "(refused)") || waited < least || waited > most {
					t.Errorf("%s of %s, who came after %v: %d after %v, %v %s", session, model, after, status, waited, err, text)
				}
			}
		}
		const second = time.Second
		outage := func(patience time.Duration) {
			b.Down.Store(true)
			dials := b.Dials.Load()
			var all sync.WaitGroup
			for i := range 100 {
				after := time.Duration(i) * patience / 101
				all.Go(asked(fmt.Sprint("s", i), []string{"gpt-4o", "gpt-4o-mini"}[i%2], after, patience-after-second, patience-after+second))
			}
			for i := range 60 { // some meet a pause of the breaker, some may try
				all.Go(asked(fmt.Sprint("late", i), "gpt-4o", patience+2*second+time.Duration(i)*100*time.Millisecond, 0, second+100*time.Millisecond))
			}
			all.Go(asked("later", "new-one", patience+40*second, 0, second+100*time.Millisecond))
			all.Wait()
			if n := b.Dials.Load() - dials; n > 100 {
				t.Errorf("%d connections were tried in %v", n, patience)
			}
			b.Down.Store(false)
			<-time.After(6 * second) // the longest pause between two probes
			if status, waited, text, err := b.Ask(t.Context(), "s", sidecartest.Chat); err != nil || status != 200 || waited > second {
				t.Errorf("when it is back: %d after %v, %v %s", status, waited, err, text)
			}
			if resp, err := b.Client.Get("http://127.0.0.1/readyz"); err != nil {
				t.Error(err)
			} else if text, _ := io.ReadAll(resp.Body); resp.Body.Close() != nil || strings.Contains(string(text), "upstream") {
				t.Errorf("/readyz when it is back: %s", text)
			}
			<-time.After(5 * time.Minute) // until no connection is kept
		}
		outage(15 * second)
		outage(60 * second)
	})
}

// TestReach_WhoMayNotWaitSoLongIsToldTheSame: the end of a request's own time is no
// limit's doing while the provider is away.
func TestReach_WhoMayNotWaitSoLongIsToldTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, provider.Config{}, "RATE_LIMIT_PER_MIN", "0", "QUEUE_MAX_WAIT", "5s")
		defer b.Stop()
		b.Down.Store(true)
		for range 20 { // some wait for their turn, some for the next try, some are told as they come
			status, waited, text, err := b.Ask(t.Context(), "s", sidecartest.Chat)
			if err != nil || status != 502 || !strings.Contains(text, "(refused)") || waited > 6*time.Second {
				t.Errorf("%d after %v, %v %s", status, waited, err, text)
			}
		}
	})
}

// TestReach_ASilentAddressIsNotDialledForLong has an address that lets nobody in and
// turns nobody away.
func TestReach_ASilentAddressIsNotDialledForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleOn(t, silentNetwork{sidecartest.NewCable()}, sidecartest.NewCable(), provider.New(provider.Config{}).Serve)
		defer b.Stop()
		for _, least := range []time.Duration{14 * time.Second, 0} {
			status, waited, text, err := b.Ask(t.Context(), "s", sidecartest.Chat)
			if err != nil || status != 502 || !strings.Contains(text, "(timeout)") || waited < least || waited > least+5*time.Second {
				t.Errorf("%d after %v, %v %s", status, waited, err, text)
			}
		}
	})
}

// A silentNetwork makes no connection until it is given up.
type silentNetwork struct{ sidecartest.Network }

func (n silentNetwork) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second): // as the system's dialer is told
	}
	return nil, errors.Join(context.DeadlineExceeded, ctx.Err())
}
