package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// The failure catalogue of docs/operations.md: the rows that no other test holds.
// Those played as a plan end with the reconciliation of the fault schedules:
// everything at rest, one row a request, the ledger equal to the provider's, no
// client 429, no canary anywhere.

// play plays a plan made by hand, in virtual time, and lets check look at it.
func play(t *testing.T, p *plan, check func(s *stage)) {
	t.Helper()
	for i := range p.calls {
		c := &p.calls[i]
		c.id = i + 1
		if c.timeout == 0 {
			c.timeout = 2 * time.Hour
		}
		c.words = max(c.words, 5)
	}
	dir, before := t.TempDir(), descriptors(t)
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, plan: p, dir: dir, outcomes: make([]outcome, len(p.calls)+1)}
		s.run()
		check(s)
	})
	checkFiles(t, dir)
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// logged is the log line of a call's end: the database is closed by now.
func (s *stage) logged(id int) (line string) {
	for l := range strings.Lines(s.log.String()) {
		if strings.Contains(l, fmt.Sprintf(`"session":"call-%d"`, id)) && strings.Contains(l, `"msg":"request"`) {
			line = l
		}
	}
	return line
}

func TestCatalogue_EveryRowHasItsTest(t *testing.T) {
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testNames(t)
	row := regexp.MustCompile(`(?m)^\| (\d+) \|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|$`)
	rows := row.FindAllSubmatch(text, -1)
	name := regexp.MustCompile("`([^`]+)`")
	for i, r := range rows {
		if n, _ := strconv.Atoi(string(r[1])); n != i+1 {
			t.Errorf("row %s comes as number %d", r[1], i+1)
		}
		held := 0
		for _, m := range name.FindAllSubmatch(r[5], -1) {
			held++
			what := string(m[1])
			if script, isScript := strings.CutPrefix(what, ".ci/"); isScript {
				file, step, _ := strings.Cut(script, " ")
				body, err := os.ReadFile("../.ci/" + file)
				if err != nil || !bytes.Contains(body, []byte(step)) {
					t.Errorf("row %s: no %s", r[1], what)
				}
			} else if !tests[what] {
				t.Errorf("row %s: no test %s", r[1], what)
			}
		}
		if held == 0 {
			t.Errorf("row %s is held by nothing: %s", r[1], r[5])
		}
	}
	if len(rows) < 40 {
		t.Errorf("%d rows, want at least 40", len(rows))
	}
}

func TestFault_01_HalfTheQueueLeaves(t *testing.T) {
	p := &plan{provider: provider.Config{TTFT: 2 * time.Second}, settings: []string{"MAX_CONCURRENT_REQUESTS", "4", "RATE_LIMIT_PER_MIN", "0"}}
	const calls = 200
	for i := range calls {
		c := call{kind: chatWhole}
		if i >= 4 && i%2 == 1 {
			c.deed, c.after = leaveAfter, time.Second // while the first four are served
		}
		if i >= 4 {
			c.at = time.Millisecond
		}
		p.calls = append(p.calls, c)
	}
	play(t, p, func(s *stage) {
		gone, came := 0, s.sim.Totals().Requests
		for _, c := range s.plan.calls {
			if c.deed == leaveAfter {
				gone++
			}
		}
		if want := int64(calls - gone); came != want {
			t.Errorf("%d requests went up, want those of the %d that stayed", came, want)
		}
	})
}

func TestFault_03_NoHeaders(t *testing.T) {
	play(t, &plan{calls: []call{{kind: chatWhole, faults: []provider.Fault{provider.NoHeaders()}}}}, func(s *stage) {
		if o := s.outcomes[1]; o.status != 504 || !bytes.Contains(o.body, []byte("upstream_timeout")) || o.header.Get("X-Should-Retry") != "false" || s.sim.Totals().Requests != 1 {
			t.Errorf("%d %s after %d attempts", o.status, o.body, s.sim.Totals().Requests)
		}
	})
}

func TestFault_05_StallMidStream(t *testing.T) {
	for k, at := range map[kind]int64{chatEvents: 900, responseEvents: 900, completionEvents: 900, chatWhole: 100} {
		play(t, &plan{calls: []call{{kind: k, words: 50, faults: []provider.Fault{provider.StallAfterBytes(at, -1)}}}}, func(s *stage) {
			switch o := s.outcomes[1]; {
			case k.stream() && (o.status != 200 || o.err == nil || len(o.body) == 0 || bytes.Contains(o.body, []byte("[DONE]"))):
				t.Errorf("kind %d: %d %v %q", k, o.status, o.err, o.body)
			case !k.stream() && o.status != 502:
				t.Errorf("kind %d: %d %v %q", k, o.status, o.err, o.body)
			}
		})
	}
}

func TestFault_08_UsageMissing(t *testing.T) {
	for _, k := range []kind{chatWhole, chatEvents, chatUsage, completionEvents, responseEvents, embedding} {
		play(t, &plan{calls: []call{{kind: k, faults: []provider.Fault{provider.NoUsage()}}}}, func(s *stage) {
			if o, line := s.outcomes[1], s.logged(1); !o.complete(s.plan.calls[0]) || !strings.Contains(line, `"outcome":"complete"`) || strings.Contains(line, "completion_tokens") {
				t.Errorf("kind %d: %d %v, %s", k, o.status, o.err, line)
			}
		})
	}
}

// TestFault_09_UsageInEveryForm compares with the provider's ledger in reconcile.
func TestFault_09_UsageInEveryForm(t *testing.T) {
	for _, k := range []kind{chatWhole, chatEvents, chatUsage, completionEvents, responseEvents, embedding} {
		for _, f := range []provider.Fault{provider.ZeroUsage(), provider.UsageTwice(), provider.UsageEverywhere(), provider.Sound()} {
			play(t, &plan{calls: []call{{kind: k, faults: []provider.Fault{f}}}}, func(s *stage) {
				if o := s.outcomes[1]; !o.complete(s.plan.calls[0]) || !strings.Contains(s.logged(1), "completion_tokens") {
					t.Errorf("kind %d, %s: %d %v, %s", k, f, o.status, o.err, s.logged(1))
				}
			})
		}
	}
	t.Run("null is none", func(t *testing.T) {
		s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"usage":null}`)
		}))
		sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.Chat)
		if rows := s.Rows("s"); len(rows) != 1 || rows[0].UsageSource != "none" || rows[0].PromptTokens != nil {
			t.Errorf("%+v", rows)
		}
	})
}

// TestFault_10_UsageWasNotAskedFor compares bytes with a provider that was asked directly.
func TestFault_10_UsageWasNotAskedFor(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{Seed: 3})
	s := start(t, base)
	direct := sidecartest.Send(t, "POST", base+"/chat/completions", sidecartest.ChatStream, "Authorization", "Bearer sk-upstream-canary").Body
	through := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream).Body
	vary := regexp.MustCompile(`"id":"[^"]*"|"created":\d+|,"usage":null|"system_fingerprint":"[^"]*"`)
	if a, b := vary.ReplaceAllString(direct, ""), vary.ReplaceAllString(through, ""); a != b || strings.Contains(through, `"choices":[]`) {
		t.Errorf("directly %s\nthrough  %s", a, b)
	}
	if got := s.Status()["s"]; got.CompletionTokens != 5 {
		t.Errorf("booked %+v", got)
	}
}

// TestFault_11_ThrottleStorm has 300 clients, and a provider that says no to all for 30 s.
func TestFault_11_ThrottleStorm(t *testing.T) {
	p := &plan{settings: []string{"RATE_LIMIT_PER_MIN", "6000", "QUEUE_MAX_WAIT", "240s"}}
	for range 300 {
		p.calls = append(p.calls, call{kind: chatWhole})
	}
	begun := time.Time{}
	var refused, served atomic.Int64
	p.choose = func(*http.Request) provider.Fault {
		if begun.IsZero() {
			begun = time.Now()
		}
		if time.Since(begun) < 30*time.Second {
			refused.Add(1)
			return provider.Throttle(time.Second)
		}
		served.Add(1)
		return provider.Sound()
	}
	play(t, p, func(s *stage) {
		t.Logf("%d attempts were refused in 30 s, %d served after it", refused.Load(), served.Load())
		for i := range s.outcomes[1:] {
			if o := s.outcomes[i+1]; o.status != 200 {
				t.Errorf("call %d: %d %v %s", i+1, o.status, o.err, o.body)
			}
		}
		// The first burst meets the wall; then a probe each pause, not a herd.
		if refused.Load() > 300+60 {
			t.Errorf("%d attempts in a storm of 30 s", refused.Load())
		}
	})
}

func TestFault_12_ServerErrors(t *testing.T) {
	p := &plan{settings: []string{"RATE_LIMIT_PER_MIN", "0"}}
	random := rand.New(rand.NewPCG(12, 12))
	for range 200 {
		c := call{kind: kind(random.IntN(3)), at: time.Duration(random.IntN(60_000)) * time.Millisecond}
		switch random.IntN(10) {
		case 0, 1, 2:
			c.faults = []provider.Fault{provider.ServerError(500 + random.IntN(5))}
		case 3:
			c.faults = []provider.Fault{provider.Overloaded(time.Second), provider.Status(529, http.Header{"Retry-After": {"1"}}, "{}")}
		}
		p.calls = append(p.calls, c)
	}
	play(t, p, func(s *stage) {
		for _, c := range s.plan.calls {
			o := s.outcomes[c.id]
			switch failed := len(c.faults) == 1; {
			case failed && (o.status < 500 || !bytes.Contains(o.body, []byte("The server had an error"))):
				t.Errorf("call %d: %d %s; the provider's own error should pass", c.id, o.status, o.body)
			case !failed && o.status != 200:
				t.Errorf("call %d: %d %s", c.id, o.status, o.body)
			}
		}
	})
}

func TestFault_13_NonsenseAnswersPass(t *testing.T) {
	for _, answer := range []struct{ contentType, body string }{
		{"text/html", "<html>\xff\xfe</html>"},
		{"application/json", "{"},
		{"application/json", "[1,2"},
		{"", "\x00\x01"},
		{"text/event-stream", "data: {\n\ndata: [1]\n\n"},
		{"text/event-stream", "{\"choices\":[]}"},
		{"text/event-stream; charset=utf-16", "data: [DONE]"},
		{"application/json", "data: {}\n\n"},
		{"image/png", "\x89PNG"},
	} {
		for _, body := range []string{sidecartest.Chat, sidecartest.ChatStream} {
			s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header()["Content-Type"] = []string{answer.contentType}
				_, _ = io.WriteString(w, answer.body)
			}))
			a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", body)
			if a.StatusCode != 200 || a.Body != answer.body || a.Header.Get("Content-Type") != answer.contentType {
				t.Errorf("%q came as %d %s %q", answer.body, a.StatusCode, a.Header.Get("Content-Type"), a.Body)
			}
			if rows := s.Rows("s"); len(rows) != 1 || rows[0].UsageSource != "none" {
				t.Errorf("%q: rows %+v", answer.body, rows)
			}
			s.AtRest()
		}
	}
}

// TestFault_07_NothingIsNoStream: an answer without an event is one that broke off.
func TestFault_07_NothingIsNoStream(t *testing.T) {
	for _, body := range []string{"", "\n\n\n", ": alive\n\n", "event: x\nid: 1\nretry: x\n\n"} {
		s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, body)
		}))
		a, err := sidecartest.Try(t.Context(), "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream)
		if err == nil && (a.StatusCode != 502 || sidecartest.ErrorOf(t, a) != "upstream_truncated") {
			t.Errorf("%q came as %d %q", body, a.StatusCode, a.Body)
		}
		if rows := s.Rows("s"); len(rows) != 1 || rows[0].Outcome != "truncated" || rows[0].UsageSource != "none" {
			t.Errorf("%q: rows %+v", body, rows)
		}
		s.AtRest()
	}
}

func TestFault_14_GzipAllTheSame(t *testing.T) {
	for _, body := range []string{sidecartest.Chat, sidecartest.ChatStream} {
		sim, base := sidecartest.Simulated(t, provider.Config{Faults: []provider.Fault{provider.GzipAnyway()}})
		s := start(t, base)
		a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", body, "Accept-Encoding", "gzip")
		unzip, err := gzip.NewReader(strings.NewReader(a.Body))
		if err != nil || a.Header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%v %v", a.Header, err)
		}
		plain, err := io.ReadAll(unzip)
		if err != nil || !bytes.Contains(plain, []byte("choices")) {
			t.Errorf("%v %s", err, plain)
		}
		if got := sim.Ledger()[0].Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("asked for %q", got)
		}
		if rows := s.Rows("s"); len(rows) != 1 || rows[0].UsageSource != "exact" {
			t.Errorf("rows %+v", rows)
		}
		s.AtRest()
	}
}

// TestFault_16_EndlessLine sends 64 MiB without a line end.
func TestFault_16_EndlessLine(t *testing.T) {
	const size = 64 << 20
	for _, contentType := range []string{"text/event-stream", "application/json"} {
		s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", contentType)
			_, _ = io.WriteString(w, `data: {"choices":[{"delta":{"content":"`)
			piece := bytes.Repeat([]byte("x"), 64<<10)
			for range size / len(piece) {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}))
		before := allocated()
		resp := sidecartest.Open(t, t.Context(), s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream)
		n, err := io.Copy(io.Discard, resp.Body)
		grown := allocated() - before
		if !errors.Is(err, io.ErrUnexpectedEOF) || n < size || grown > size {
			t.Errorf("%s: %d bytes, %v, %d allocated", contentType, n, err, grown)
		}
		s.AtRest()
	}
}

func TestFault_17_FullQueue(t *testing.T) {
	p := &plan{provider: provider.Config{TTFT: time.Second}, settings: []string{"MAX_CONCURRENT_REQUESTS", "1", "QUEUE_MAX_REQUESTS", "10", "RATE_LIMIT_PER_MIN", "0"}}
	for range 40 {
		p.calls = append(p.calls, call{kind: chatWhole})
	}
	play(t, p, func(s *stage) {
		served, full := 0, 0
		for _, o := range s.outcomes[1:] {
			switch {
			case o.status == 200:
				served++
			case o.status == 503 && bytes.Contains(o.body, []byte("queue_full")) && o.header.Get("Retry-After") != "":
				full++
			default:
				t.Errorf("%d %v %s", o.status, o.err, o.body)
			}
		}
		if served < 10 || full < 25 {
			t.Errorf("%d served, %d refused", served, full)
		}
	})
}

// TestFault_18_DeafClient gives up a client that does not read, and its place with it.
func TestFault_18_DeafClient(t *testing.T) {
	p := &plan{provider: provider.Config{TokenInterval: time.Millisecond}, settings: []string{"MAX_CONCURRENT_REQUESTS", "1", "RATE_LIMIT_PER_MIN", "0"}}
	p.calls = []call{{kind: chatEvents, deed: goDeaf, bytes: 10, words: 60}, {kind: chatWhole, at: time.Second}}
	play(t, p, func(s *stage) {
		if o := s.outcomes[2]; o.status != 200 {
			t.Errorf("the next in the queue got %d %v %s", o.status, o.err, o.body)
		}
		if o := s.outcomes[1]; o.complete(s.plan.calls[0]) || o.err == nil {
			t.Errorf("the deaf client has it all: %v", o.err)
		}
	})
}

// panicking is a transport with a bug.
type panicking struct{ next http.RoundTripper }

func (p panicking) RoundTrip(r *http.Request) (*http.Response, error) {
	switch r.Header.Get("X-Panic") {
	case "1":
		panic("a bug") // the point of the test
	case "body":
		resp, err := p.next.RoundTrip(r)
		if err == nil {
			resp.Body = panickingBody{resp.Body}
		}
		return resp, err
	}
	return p.next.RoundTrip(r)
}

// panickingBody is an answer with a bug.
type panickingBody struct{ io.ReadCloser }

func (panickingBody) Read([]byte) (int, error) {
	panic("a bug") // the point of the test
}

func TestFault_22_PanicEndsOneRequest(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	cfg, err := configOf("OPENAI_API_KEY", "sk-upstream-canary", "OPENAI_BASE_URL", base, "RATE_LIMIT_PER_MIN", "0", "MAX_CONCURRENT_REQUESTS", "1")
	if err != nil {
		t.Fatal(err)
	}
	store, err := openLedger(t.Context(), cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	transport := upstream.NewTransport()
	s := newServer(dependencies{
		Config: cfg, Logger: quiet, Ledger: store,
		Upstream: upstream.New(upstream.Config{Base: target, Key: func() string { return "sk-upstream-canary" }, Transport: panicking{transport}}),
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.serve(ctx, listener, nil) }()
	address := "http://" + listener.Addr().String()
	for i := range 4 {
		where := [...]string{"1", "body"}[i%2]
		if a, err := sidecartest.Try(t.Context(), "POST", address+"/v1/session/s/chat/completions", sidecartest.Chat, "X-Panic", where); err == nil {
			t.Errorf("a panic was answered with %d", a.StatusCode)
		}
		if a := sidecartest.Send(t, "POST", address+"/v1/session/t/chat/completions", sidecartest.Chat); a.StatusCode != 200 {
			t.Errorf("the next request: %d %s", a.StatusCode, a.Body)
		}
	}
	page, err := store.Requests(t.Context(), "s", ledger.RecordQuery{})
	if err != nil || len(page.Records) != 4 {
		t.Errorf("%d rows, %v", len(page.Records), err)
	}
	for _, r := range page.Records {
		if r.Outcome == ledger.Complete || r.UsageKnown {
			t.Errorf("a panic is booked as %s, %+v", r.Outcome, r.Usage)
		}
	}
	if n := s.limits.InFlight(); n != 0 {
		t.Errorf("%d places are lost", n)
	}
	if used, drains, flight := s.proxy.Load().Memory.All, s.proxy.Load().Drains, s.proxy.Load().Answers; used != 0 || drains != 0 || flight != 0 {
		t.Errorf("%d bytes, %d drains, %d in flight", used, drains, flight)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	cancel()
	if err := errors.Join(<-served, s.close()); err != nil {
		t.Error(err)
	}
	transport.CloseIdleConnections()
}

// TestFault_25_IdleConnectionsAreDialledAnew: a name that has moved is seen within
// the half minute that a connection may idle.
func TestFault_25_IdleConnectionsAreDialledAnew(t *testing.T) {
	for gap, want := range map[time.Duration]int64{10 * time.Second: 1, 31 * time.Second: 5} {
		p := &plan{settings: []string{"RATE_LIMIT_PER_MIN", "0"}}
		for i := range 5 {
			p.calls = append(p.calls, call{kind: chatWhole, at: time.Duration(i) * gap})
		}
		var dials atomic.Int64
		p.dialled = func() { dials.Add(1) }
		play(t, p, func(*stage) {
			if dials.Load() != want {
				t.Errorf("%d connections for 5 requests %v apart, want %d", dials.Load(), gap, want)
			}
		})
	}
}

// TestFault_40_BytesAreUntouched sends text that is no UTF-8, cut anywhere.
func TestFault_40_BytesAreUntouched(t *testing.T) {
	random := rand.New(rand.NewPCG(40, 40))
	var answer []byte
	for range 200 {
		answer = append(answer, `data: {"choices":[{"delta":{"content":"`...)
		for range random.IntN(50) {
			if c := byte(random.Uint32()); c != '"' && c != '\\' && c >= ' ' {
				answer = append(answer, c)
			}
		}
		answer = append(answer, "\xf0\x9f\x98\x80\"}}]}\n\n"...)
	}
	answer = append(answer, doneEvent...)
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for rest := slices.Clone(answer); len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(7))
			_, _ = w.Write(rest[:n])
			_ = http.NewResponseController(w).Flush()
			rest = rest[n:]
		}
	}))
	if a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.ChatStream); a.Body != string(answer) {
		t.Error("the bytes changed")
	}
	s.AtRest()
}

// TestFault_02_ManyLeaveAtOnce keeps health answering while a hundred streams are given up.
func TestFault_02_ManyLeaveAtOnce(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{TokenInterval: time.Millisecond})
	s := start(t, base)
	ctx, leave := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	const clients = 100
	begun := make(chan struct{}, clients)
	body := strings.Replace(sidecartest.ChatStream, "say 5 words", "say 5000 words", 1)
	for i := range clients {
		calls.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("%s/v1/session/s%d/chat/completions", s.URL, i), strings.NewReader(body))
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Error(err)
				begun <- struct{}{}
				return
			}
			defer resp.Body.Close()
			_, _ = io.ReadFull(resp.Body, make([]byte, 10))
			begun <- struct{}{}
			_, _ = io.Copy(io.Discard, resp.Body)
		})
	}
	for range clients {
		<-begun
	}
	leave()
	calls.Wait()
	if a := sidecartest.Send(t, "GET", s.URL+"/readyz", ""); a.StatusCode != 200 {
		t.Errorf("readiness: %d", a.StatusCode)
	}
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight <= clients/10 })
	// A tenth may be read on; all others are booked by now.
	if got := len(s.Status()); got < clients-clients/10 {
		t.Errorf("%d sessions are known, want %d", got, clients-clients/10)
	}
}
