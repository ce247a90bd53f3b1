package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// A plan is a schedule before it is played: everything random is drawn here, from
// the seed alone.
type plan struct {
	seed     uint64
	calls    []call
	events   []event
	settings []string
	provider provider.Config
	brittle  float64 // part of the connections to the provider that break

	// Of plans made by hand.
	choose  func(*http.Request) provider.Fault // instead of the calls' own faults
	dialled func()                             // called for each connection to the provider
}

type kind int

const (
	chatWhole kind = iota
	chatEvents
	chatUsage
	completionEvents
	responseEvents
	embedding
	moderation
	models
	upload // streams through, and is not sent again
	kinds
)

func (k kind) metered() bool { return k <= embedding }
func (k kind) stream() bool  { return k >= chatEvents && k <= responseEvents }

// A deed is what a client does.
type deed int

const (
	reads deed = iota
	leaveAfter
	leaveMid
	readSlowly
	goDeaf
	halfClose
	nonsense
	shortBody
	deeds
)

type call struct {
	id      int
	at      time.Duration
	kind    kind
	words   int
	deed    deed
	after   time.Duration
	bytes   int
	timeout time.Duration
	faults  []provider.Fault // of the attempts that reach the provider
	next    int
	junk    []byte
}

type event struct {
	kind         eventKind
	after, lasts time.Duration
}

type eventKind int

const (
	restart eventKind = iota
	outage
)

func newPlan(seed uint64) *plan {
	r := rand.New(rand.NewPCG(seed, 1))
	between := func(low, high time.Duration) time.Duration { return low + time.Duration(r.Int64N(int64(high-low))) }
	p := &plan{seed: seed, provider: provider.Config{
		Account: provider.AccountConfig{
			Variant: provider.Variant(r.IntN(4)), RPM: int64(120 + r.IntN(2000)), TPM: int64(100_000 + r.IntN(1_000_000)),
		},
		Dialect: provider.Dialect(r.IntN(4)), TTFT: between(time.Millisecond, 2*time.Second),
		TokenInterval: between(time.Millisecond, 80*time.Millisecond), Jitter: 0.5, Seed: seed,
	}}
	if r.IntN(3) == 0 {
		p.brittle = 0.3 * r.Float64()
	}
	pick := func(values ...string) string { return values[r.IntN(len(values))] }
	p.settings = []string{
		"DISCONNECT_POLICY", pick("drain", "drain", "cancel"), "LEDGER_DURABILITY", pick("full", "normal", "normal"),
		"RATE_LIMIT_PER_MIN", pick("0", "60", "600", "3000"), "MAX_CONCURRENT_REQUESTS", pick("0", "0", "2", "5"),
		"QUEUE_MAX_WAIT", pick("240s", "30s"), "QUEUE_HEARTBEAT", pick("off", "off", "off", "5s"),
		"QUEUE_MAX_REQUESTS", pick("10000", "10000", "8"), "PROVIDER_PROFILE", pick("auto", "auto", "openai", "anthropic", "postpaid"),
	}
	span := between(time.Second, 2*time.Minute)
	for i := range 15 + r.IntN(40) {
		c := call{
			id: i + 1, at: time.Duration(r.Int64N(int64(span))), kind: kind(r.IntN(int(kinds))), words: 1 + r.IntN(60),
			bytes: 1 + r.IntN(3000), timeout: between(20*time.Second, 15*time.Minute), after: between(time.Millisecond, 10*time.Second),
		}
		if r.IntN(2) == 0 {
			c.deed = deed(r.IntN(int(deeds)))
		}
		if r.IntN(3) == 0 {
			c.kind = kind(r.IntN(int(responseEvents) + 1))
		}
		if c.deed == readSlowly {
			c.bytes = 1 + c.bytes%200
			c.after %= 3 * time.Second
		}
		for range r.IntN(4) {
			c.faults = append(c.faults, randomFault(r, between))
		}
		if c.deed == nonsense {
			c.junk = junk(r)
		}
		p.calls = append(p.calls, c)
	}
	for range r.IntN(4) {
		p.events = append(p.events, event{kind: eventKind(r.IntN(2)), after: between(time.Millisecond, span/2), lasts: between(time.Millisecond, 20*time.Second)})
	}
	return p
}

// randomFault draws every fault the provider knows; 429s and sound answers are the
// most frequent.
func randomFault(r *rand.Rand, between func(low, high time.Duration) time.Duration) provider.Fault {
	at := int64(r.IntN(4000))
	if r.IntN(3) == 0 {
		at = int64(r.IntN(300))
	}
	soon := between(time.Millisecond, 20*time.Second)
	hint := http.Header{"Retry-After": {fmt.Sprint(r.IntN(10))}}
	all := []func() provider.Fault{
		provider.Sound, provider.Sound,
		func() provider.Fault { return provider.Throttle(soon) },
		func() provider.Fault { return provider.Throttle(soon / 100) },
		func() provider.Fault { return provider.Status(429, hint, `{"error":{"message":"slow down"}}`) },
		func() provider.Fault { return provider.Status(429, nil, "<html>Too many requests</html>") },
		func() provider.Fault {
			return provider.Status(429, http.Header{"Retry-After-Ms": {"300"}}, `{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation have exceeded call rate limit. Please retry after 3 seconds."}}`)
		},
		func() provider.Fault {
			return provider.Status(429, http.Header{"Retry-After": {"2"}}, `{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit of 80,000 input tokens per minute."}}`)
		},
		provider.Quota, provider.TooLarge,
		func() provider.Fault { return provider.Overloaded(soon) },
		func() provider.Fault { return provider.Status(529, hint, `{"error":{"message":"overloaded"}}`) },
		func() provider.Fault { return provider.Status(503, nil, "") },
		func() provider.Fault { return provider.ServerError(500 + r.IntN(5)) },
		func() provider.Fault { return provider.Status(408, hint, `{}`) },
		func() provider.Fault { return provider.Status(404, nil, `{"error":{"message":"no such model"}}`) },
		provider.Garbage, provider.Hangup, provider.NoHeaders,
		func() provider.Fault { return provider.Stall(soon) },
		func() provider.Fault { return provider.StallAfterBytes(at, soon) },
		func() provider.Fault { return provider.StallAfterBytes(at, -1) },
		func() provider.Fault { return provider.CutAfterBytes(at) },
		func() provider.Fault { return provider.ResetAfterBytes(at) },
		func() provider.Fault { return provider.EndAfterBytes(at) },
		provider.NoDone, provider.NoUsage, provider.ZeroUsage, provider.UsageTwice, provider.UsageEverywhere,
		func() provider.Fault { return provider.Insert(": a comment\n\ndata: {\"choices\":[{]\n\n") },
		provider.GzipAnyway,
		func() provider.Fault {
			return provider.WithHeader(http.Header{"X-Echo": {"Bearer " + upstreamCanary}, "Set-Cookie": {"k=" + upstreamCanary}})
		},
		provider.CloseAfter,
		func() provider.Fault { return provider.Interim(103) },
	}
	return all[r.IntN(len(all))]()
}

func (p *plan) breakage(r *rand.Rand) sidecartest.Breakage {
	if r.Float64() >= p.brittle {
		return sidecartest.Breakage{}
	}
	b := sidecartest.Breakage{RST: r.IntN(2) == 0}
	if r.IntN(2) == 0 {
		b.AfterRead = 1 + r.Int64N(3000)
	} else {
		b.AfterWritten = 1 + r.Int64N(6000)
	}
	return b
}

func junk(r *rand.Rand) []byte {
	b := make([]byte, 1+r.IntN(200))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	starts := []string{"", "GET / HTTP/1.1\r\n", "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01"}
	return append([]byte(starts[r.IntN(len(starts))]), b...)
}

func (c call) method() string {
	if c.kind == models {
		return "GET"
	}
	return "POST"
}

func (c call) session() string { return fmt.Sprintf("call-%d", c.id) }

func (c call) path() string {
	routes := map[kind]string{
		chatWhole: "chat/completions", chatEvents: "chat/completions", chatUsage: "chat/completions", completionEvents: "completions",
		responseEvents: "responses", embedding: "embeddings", moderation: "moderations", models: "models", upload: "moderations",
	}
	return "/v1/session/" + c.session() + "/" + routes[c.kind]
}

func (c call) body() string {
	prompt := fmt.Sprintf("%s %d: say %d words", promptCanary, c.id, c.words)
	switch c.kind {
	case chatWhole:
		return fmt.Sprintf(`{"model":"gpt-4o","messages":[{"role":"user","content":%q}]}`, prompt)
	case chatEvents:
		return fmt.Sprintf(`{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":%q}]}`, prompt)
	case chatUsage:
		return fmt.Sprintf(`{"model":"gpt-4o-mini","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":%q}]}`, prompt)
	case completionEvents:
		return fmt.Sprintf(`{"model":"gpt-3.5-turbo-instruct","stream":true,"prompt":%q}`, prompt)
	case responseEvents:
		return fmt.Sprintf(`{"model":"gpt-4o","stream":true,"input":%q}`, prompt)
	case embedding:
		return fmt.Sprintf(`{"model":"text-embedding-3-small","input":%q}`, prompt)
	case moderation:
		return fmt.Sprintf(`{"input":%q}`, prompt)
	case upload:
		return fmt.Sprintf(`{"input":%q,"pad":"%0300000d"}`, prompt, 0)
	}
	return ""
}

func (c call) headers() map[string]string {
	return map[string]string{
		"Content-Type": "application/json", "X-Call": fmt.Sprint(c.id), "Authorization": "Bearer " + clientCanary,
	}
}

// raw is a client that speaks to the socket itself.
func (s *stage) raw(ctx context.Context, c call) (o outcome) {
	conn, err := s.dial(ctx, "", "")
	if err != nil {
		o.err = err
		return o
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	body := c.body()
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n", c.method(), c.path(), len(body))
	for name, value := range c.headers() {
		head += name + ": " + value + "\r\n"
	}
	text := head + "\r\n" + body
	switch c.deed {
	case nonsense:
		text = string(c.junk)
	case shortBody:
		text = text[:len(text)-len(body)/2]
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = io.WriteString(conn, text)
		switch c.deed {
		case halfClose:
			<-time.After(c.after % time.Second)
			_ = conn.CloseWrite()
		case nonsense, shortBody:
			<-time.After(c.after)
			conn.Close()
		}
	}()
	defer func() { conn.Close(); <-wrote }()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		o.err = err
		return o
	}
	defer resp.Body.Close()
	o.sent, o.status, o.header = c.deed == halfClose, resp.StatusCode, resp.Header
	o.body, o.err = io.ReadAll(resp.Body)
	if c.deed == nonsense && o.err == nil && resp.StatusCode < 400 {
		o.err = errors.New("nonsense was answered")
		s.t.Errorf("call %d: nonsense %q was answered with %d", c.id, c.junk, resp.StatusCode)
	}
	return o
}
