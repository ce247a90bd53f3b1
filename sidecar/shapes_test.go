package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// A shape is an answer as an upstream may send it: to try one more, add it to
// shapes. Its pieces come a second apart, and a second later it ends. Where nothing
// else is said, each piece must have reached the client before the next is sent,
// the client must get all bytes and a clean end, and the row says complete.
type shape struct {
	name    string
	path    string // of the endpoint; "" = chat/completions
	labels  []string
	codings []string // content codings that it only claims to have; nil = none
	asked   []bool   // whether the request asks for a stream; nil = both
	pieces  []string
	end     ending

	out     string // what reaches the client; "" = all pieces
	nothing bool   // reaches it
	held    string // the end of out, which waits for the ledger
	silent  int    // pieces at the beginning that wait for those behind them
	result  result
	outcome string // "" = complete
	usage   bool   // the row has it
}

type ending string

const (
	clean ending = ""
	cut   ending = "cut"   // the framing says that it broke off
	stall ending = "stall" // nothing comes any more, for ever
)

type result string

const (
	ended  result = ""
	broken result = "broken" // the client sees that the connection broke
	told   result = "told"   // the client gets 502 upstream_truncated
)

var (
	eventLabels = []string{"text/event-stream", "text/event-stream; charset=utf-8", "Text/Event-Stream", "text/plain", "application/json", "application/octet-stream", "image/png", ""}
	jsonLabels  = []string{"application/json", "text/event-stream", "text/plain", ""}
	anyLabels   = []string{"application/json", "application/x-ndjson", "text/event-stream", "text/plain", ""}
	onlyAsked   = []bool{true}
	onlyUnasked = []bool{false}
)

const (
	jsonAnswer = `{"id":"x","model":"m","choices":[{"index":0,"message":{"content":"ab"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}`
	jsonChunk  = `{"id":"x","choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}` + "\n"
	ollamaLine = `{"model":"m","message":{"role":"assistant","content":"a"},"done":false}` + "\n"

	created   = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"model\":\"m\"}}\n\n"
	wordEvent = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n"
	completed = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"model\":\"m\",\"status\":\"completed\",\"usage\":{\"input_tokens\":7,\"output_tokens\":2,\"total_tokens\":9}}}\n\n"

	processing = ": OPENROUTER PROCESSING\n\n"
	midError   = "data: {\"id\":\"x\",\"error\":{\"code\":502,\"message\":\"the provider hung up\"},\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\n"
	bareError  = "data: {\"error\":{\"message\":\"it is broken\",\"type\":\"server_error\",\"code\":null}}\n\n"
	namedError = "event: error\ndata: {\"message\":\"it is broken\"}\n\n"
	plainError = "event: error\ndata: it is broken\n\n"
	typedError = "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"it is broken\"}\n\n"
	foreign    = "event: token\ndata: {\"token\":\"a\"}\n\n"
)

func shapes() []shape {
	return []shape{
		// What is understood, whatever its label.
		{name: "chat", labels: eventLabels, pieces: []string{eventA, eventB, usageEv, doneEvent}, out: eventA + eventB + doneEvent, held: doneEvent, asked: onlyAsked, usage: true},
		{name: "chat that nobody asked for", labels: eventLabels, pieces: []string{eventA, eventB, usageEv, doneEvent}, held: usageEv + doneEvent, asked: onlyUnasked, usage: true},
		{name: "chat behind comments", labels: eventLabels, pieces: []string{processing, "\n", " \n", processing, eventA, eventB, doneEvent}, held: doneEvent},
		{name: "chat without [DONE]", labels: eventLabels, pieces: []string{eventA, eventB}},
		{name: "chat in bits", labels: eventLabels, pieces: []string{eventA[:3], eventA[3:40], eventA[40:], eventB, doneEvent}, silent: 2, held: doneEvent},
		{name: "completions", path: "completions", labels: eventLabels, pieces: []string{strings.ReplaceAll(eventA, "delta", "x"), eventB, doneEvent}, held: doneEvent},
		{name: "responses", path: "responses", labels: eventLabels, pieces: []string{created, wordEvent, completed}, held: completed, usage: true},
		{name: "json", labels: jsonLabels, pieces: []string{jsonAnswer[:30], jsonAnswer[30:]}, silent: 1, usage: true},
		{name: "json behind blank lines", labels: jsonLabels, pieces: []string{"\n", "\n\n", "  ", jsonAnswer[:30], jsonAnswer[30:]}, held: jsonAnswer, usage: true},
		{name: "json without usage", labels: jsonLabels, pieces: []string{`{"id":"x","choices":[]}`}},

		// What is not: it passes live, and nobody knows its usage.
		{name: "a value a line", labels: anyLabels, pieces: []string{ollamaLine, ollamaLine, ollamaLine, ollamaLine, ollamaLine}},
		{name: "a chunk a line", labels: anyLabels, pieces: []string{jsonChunk, jsonChunk, jsonChunk, jsonChunk, "\n"}, asked: onlyAsked},
		{name: "a list that grows", labels: anyLabels, pieces: []string{"[" + ollamaLine, "," + ollamaLine, "," + ollamaLine, "]"}},
		{name: "text", labels: anyLabels, pieces: []string{"Lorem ipsum", " dolor\n", "dolor", " sit amet"}},
		{name: "a page", labels: []string{"text/html"}, pieces: []string{"<html>", "<p>data: \xff\xfe", "</html>"}},
		{name: "bytes", labels: anyLabels, pieces: []string{"\x00\x01\x02", "\xff\xfe\r\n\x00", "\x1f\x8b"}},
		{name: "a scalar", labels: anyLabels, pieces: []string{`"te`, `xt"`}},
		{name: "an unknown coding", labels: anyLabels, codings: []string{"compress", "gzip, br", "x-new"}, pieces: []string{"\x00\x01", "\xff\x00", "data: "}},
		{name: "another dialect", labels: eventLabels, pieces: []string{foreign, foreign, foreign}},

		// What ends before its end.
		{name: "chat, too short", labels: eventLabels, pieces: []string{eventA, eventA}, asked: onlyAsked, result: broken, outcome: "truncated"},
		{name: "chat, half an event", labels: eventLabels, pieces: []string{eventA, eventB[:50]}, held: eventB[:50], out: eventA, result: broken, outcome: "truncated"},
		{name: "half an event", labels: eventLabels, pieces: []string{eventA[:30]}, asked: onlyAsked, nothing: true, result: broken, outcome: "truncated"},
		{name: "responses, too short", path: "responses", labels: eventLabels, pieces: []string{created, wordEvent}, result: broken, outcome: "truncated"},
		{name: "only signs of life", labels: eventLabels, pieces: []string{processing, "\n"}, asked: onlyAsked, result: broken, outcome: "truncated"},
		{name: "json, too short", labels: jsonLabels, pieces: []string{`{"id":`}, held: `{"id":`, asked: onlyUnasked, outcome: "truncated"},

		// What fails on the way.
		{name: "an error in the middle", labels: eventLabels, pieces: []string{eventA, midError, doneEvent}, held: doneEvent, outcome: "upstream_error"},
		{name: "an error at the end", labels: eventLabels, pieces: []string{eventA, bareError}, outcome: "upstream_error"},
		{name: "an error at the beginning", labels: eventLabels, pieces: []string{bareError, doneEvent}, held: doneEvent, outcome: "upstream_error"},
		{name: "a named error", labels: eventLabels, pieces: []string{eventA, namedError}, outcome: "upstream_error"},
		{name: "a named error in plain words", labels: eventLabels, pieces: []string{eventA, plainError}, outcome: "upstream_error"},
		{name: "an error of responses", path: "responses", labels: eventLabels, pieces: []string{created, typedError}, outcome: "upstream_error"},
		{name: "a json error", labels: jsonLabels, pieces: []string{`{"error":{"message":"it is broken","code":500}}`}, outcome: "upstream_error"},

		// What breaks.
		{name: "chat, cut", labels: eventLabels, pieces: []string{eventA, eventB}, end: cut, result: broken, outcome: "truncated"},
		{name: "a value a line, cut", labels: anyLabels, pieces: []string{ollamaLine, ollamaLine}, end: cut, result: broken, outcome: "truncated"},
		{name: "text, cut", labels: anyLabels, pieces: []string{"Lorem ", "ipsum"}, end: cut, result: broken, outcome: "truncated"},
		{name: "json, cut", labels: jsonLabels, pieces: []string{`{"id":`}, end: cut, asked: onlyUnasked, nothing: true, result: told, outcome: "truncated"},
		{name: "chat, stalled", labels: eventLabels[:4], pieces: []string{eventA, eventA}, end: stall, result: broken, outcome: "truncated"},
		{name: "text, stalled", labels: anyLabels, pieces: []string{"Lorem ", "ipsum"}, end: stall, result: broken, outcome: "truncated"},
		{name: "chat, its connection stays", labels: eventLabels[:4], pieces: []string{eventA, eventB, doneEvent}, end: stall, held: doneEvent},
	}
}

// framings are the ways that an answer's end is told.
var framings = []string{"chunked", "length", "close", "http2"}

// A served shape is one with the headers that it is sent with.
type served struct {
	shape
	label, coding string
}

// send sends an answer as a framing does.
func (s *served) send(w http.ResponseWriter, r *http.Request, framing string) {
	_, _ = io.Copy(io.Discard, r.Body)
	all := strings.Join(s.pieces, "")
	declared := len(all)
	if s.end == cut {
		declared++
	}
	write, flush := io.Writer(w), func() { _ = http.NewResponseController(w).Flush() }
	end, gone := func() {}, func() { <-r.Context().Done() }
	if framing == "close" {
		conn, buffer, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(buffer, "HTTP/1.0 200 OK\r\nContent-Type: %s\r\n", s.label)
		if s.coding != "" {
			fmt.Fprintf(buffer, "Content-Encoding: %s\r\n", s.coding)
		}
		fmt.Fprint(buffer, "\r\n")
		write, flush = buffer, func() { _ = buffer.Flush() }
		end, gone = func() { _ = conn.Close() }, func() { _, _ = conn.Read(make([]byte, 1)) }
	} else {
		w.Header()["Content-Type"] = []string{s.label}
		if s.coding != "" {
			w.Header().Set("Content-Encoding", s.coding)
		}
		if framing == "length" {
			w.Header().Set("Connection", "close") // the client has it all before this handler has ended
			w.Header().Set("Content-Length", fmt.Sprint(declared))
		}
	}
	defer end()
	flush()
	for _, p := range s.pieces {
		_, _ = io.WriteString(write, p)
		flush()
		time.Sleep(time.Second)
	}
	switch {
	case s.end == stall:
		gone()
	case s.end == cut && framing != "close":
		panic(http.ErrAbortHandler)
	}
}

// TestShapes sends every shape in every framing, with every label, through the
// whole sidecar, and compares bytes, liveness, end and row with what went in.
func TestShapes(t *testing.T) {
	for _, framing := range framings {
		t.Run(framing, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var now atomic.Pointer[served]
				b := newBubbleWired(t, sidecartest.Wiring{
					Up: provider.NewPipe(), Down: provider.NewPipe(), HTTP2: framing == "http2",
					Provider: sidecartest.Serving(func(w http.ResponseWriter, r *http.Request) { now.Load().send(w, r, framing) }),
				}, "RATE_LIMIT_PER_MIN", "0")
				defer b.Stop()
				for _, s := range shapes() {
					if s.end == cut && framing == "close" || s.end == stall && framing == "length" {
						continue // it cannot be seen; and there a stall is a cut
					}
					codings := s.codings
					if codings == nil {
						codings = []string{""}
					}
					asked := s.asked
					if asked == nil {
						asked = []bool{true, false}
					}
					for _, label := range s.labels {
						for _, coding := range codings {
							for _, stream := range asked {
								now.Store(&served{s, label, coding})
								s.check(t, b, framing, label, fmt.Sprintf("%s, %s as %q %s, asked %v", s.name, framing, label, coding, stream), stream)
							}
						}
					}
				}
				time.Sleep(time.Minute) // of virtual time: the provider ends its last answer
			})
		})
	}
}

func (s *shape) check(t *testing.T, b *bubble, framing, label, name string, stream bool) {
	t.Helper()
	sent := strings.Join(s.pieces, "")
	want := s.out
	if want == "" && !s.nothing {
		want = sent
	}
	body := sidecartest.Chat
	if stream {
		body = sidecartest.ChatStream
	}
	session := fmt.Sprintf("s%d", nextSession())
	path := "/v1/session/" + session + "/chat/completions"
	if s.path != "" {
		path = "/v1/session/" + session + "/" + s.path
	}
	started := time.Now()
	type arrival struct {
		at    time.Duration
		bytes int
	}
	var got bytes.Buffer
	var arrivals []arrival
	resp := b.Post(t, t.Context(), path, body)
	buffer := make([]byte, 4096)
	var err error
	for err == nil {
		var n int
		n, err = resp.Body.Read(buffer)
		got.Write(buffer[:n])
		arrivals = append(arrivals, arrival{time.Since(started), got.Len()})
	}
	resp.Body.Close()
	result := ended
	switch {
	case resp.StatusCode == http.StatusBadGateway && strings.Contains(got.String(), "upstream_truncated"):
		result = told
		got.Reset()
	case !errors.Is(err, io.EOF):
		result = broken
	}
	// What broke off is told while nothing has left: the headers of a stream leave
	// after a second. Without framing every end may be a broken one.
	tolds := s.result == told && result == broken && isEvents(label)
	unframed := framing == "close" && s.name == "json, too short" && result != ended
	early := s.nothing && result == told
	if result != s.result && !tolds && !unframed && !early {
		t.Errorf("%s: %d, ended %q (%v), want %q", name, resp.StatusCode, result, err, s.result)
	}
	if unframed {
		want = ""
	}
	if framing == "length" && result == broken && got.Len() == len(want)-1 {
		want = want[:len(want)-1] // or the client would not see that it is broken
	}
	if result != told && got.String() != want {
		t.Errorf("%s: the client got\n%q, want\n%q", name, got.String(), want)
	}
	// What was sent by a second must have come by its end.
	live := len(want) - len(s.held)
	if s.result == broken && s.held != "" {
		live = len(want)
	}
	for i, due := 0, 0; i < len(s.pieces); i++ {
		due += len(s.pieces[i])
		if i < s.silent || result == told {
			continue
		}
		came := 0
		for _, a := range arrivals {
			if a.at < time.Duration(i+1)*time.Second {
				came = a.bytes
			}
		}
		if came < min(due, live) {
			t.Errorf("%s: %d bytes had come with piece %d, want %d", name, came, i, min(due, live))
		}
	}
	synctest.Wait()
	page, err := b.server.ledger.Requests(t.Context(), session, ledger.RecordQuery{})
	if err != nil || len(page.Records) != 1 {
		t.Fatalf("%s: %d rows, %v", name, len(page.Records), err)
	}
	outcome := s.outcome
	if outcome == "" {
		outcome = "complete"
	}
	if row := page.Records[0]; row.Outcome.String() != outcome || row.UsageKnown != s.usage {
		t.Errorf("%s: booked as %s, usage known %v; want %s, %v", name, row.Outcome, row.UsageKnown, outcome, s.usage)
	}
}

func isEvents(label string) bool {
	return strings.HasPrefix(strings.ToLower(label), "text/event-stream")
}

var sessions atomic.Int64

func nextSession() int64 { return sessions.Add(1) }
