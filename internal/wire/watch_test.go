package wire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// play pushes the parts of an answer and returns what left before the end and
// what was held until it.
func play(w *Watcher, parts ...string) (forward, tail string) {
	var b bytes.Buffer
	for _, p := range parts {
		b.Write(w.Push([]byte(p)))
	}
	return b.String(), string(w.Close())
}

// cuts returns the ways to read s that are worth trying: whole, in single bytes,
// and cut in two at every place.
func cuts(s string) [][]string {
	all := [][]string{{s}, strings.Split(s, "")}
	for i := 1; i < len(s); i++ {
		all = append(all, []string{s[:i], s[i:]})
	}
	return all
}

const (
	delta   = `data: {"id":"c1","object":"chat.completion.chunk","model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":"hi"}}],"usage":null}` + "\n\n"
	final   = `data: {"id":"c1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":2,"audio_tokens":1},"completion_tokens_details":{"reasoning_tokens":1,"audio_tokens":1}}}` + "\n\n"
	done    = "data: [DONE]\n\n"
	stop    = `data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	groq    = `data: {"id":"c1","model":"m","choices":[{"delta":{}}],"x_groq":{"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}}` + "\n\n"
	running = `data: {"id":"c1","model":"m","choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}` + "\n\n"
	last    = `data: {"id":"c1","model":"m","choices":[{"delta":{},"finish_reason":"stop"}],"usage": {"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}` + "\n\n"
)

// trailing is a chunk with usage, and what else it has.
func trailing(members string) string {
	return `data: {"id":"c1",` + members + `"usage":{"prompt_tokens":7,"completion_tokens":3}}` + "\n\n"
}

var (
	small = llm.Usage{Input: 7, Output: 3}
	full  = llm.Usage{Input: 7, Output: 3, Cached: 2, Reasoning: 1}
)

func responseEvent(name, usage string) string {
	return "event: " + name + "\ndata: " + `{"type":"` + name + `","response":{"id":"resp_1","model":"gpt-5","status":"x","usage":` + usage + "}}\n\n"
}

const responseUsage = `{"input_tokens":7,"input_tokens_details":{"cached_tokens":2},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":1},"total_tokens":10}`

func TestWatcher_HoldsOnlyTheEnd(t *testing.T) {
	responseFull := llm.Usage{Input: 7, Output: 3, Cached: 2, Reasoning: 1}
	word := "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"usage\"}\n\n"
	tests := []struct {
		name     string
		endpoint Endpoint
		live     string // what must leave before the end
		held     string
		usage    *llm.Usage
		complete bool
	}{
		{"chat with a usage chunk", Chat, delta + delta, final + done, &full, true},
		{"chat without usage", Chat, delta + delta, done, nil, true},
		{"usage in every chunk", Chat, running + running + last, done, &small, true},
		{"usage in every chunk and a chunk of its own", Chat, running + last, final + done, &full, true},
		{"usage in the last content chunk", Chat, delta + last, done, &small, true},
		{"usage inside x_groq", Chat, delta + groq, done, &small, true},
		{"no [DONE]", Chat, delta, final, &full, false},
		{"cut off", Chat, delta + delta, "", nil, false},
		{"heartbeats", Chat, ": ping\n" + delta + ": ping\n\n \n" + delta + "retry: 5\n\n", final + ": ping\n\n" + done, &full, true},
		{"empty choices without usage", Chat, `data: {"choices":[],"prompt_filter_results":[]}` + "\n\n" + delta, done, nil, true},
		{"zero usage", Chat, delta, `data: {"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}` + "\n\n" + done, &llm.Usage{}, true},
		{"usage that is no usage", Chat, delta + `data: {"choices":[],"usage":{}}` + "\n\n" + `data: {"choices":[],"usage":{"prompt_tokens":-1}}` + "\n\n", done, nil, true},
		{"usage in an event that is not json", Chat, delta + `data: {"choices":[]x,"usage":{"prompt_tokens":1}}` + "\n\n", done, nil, true},
		{"usage chunk first", Chat, final + delta + last, done, &full, true},
		{"usage as content", Chat, strings.Replace(delta, `"hi"`, `"\"usage\": {}"`, 1), done, nil, true},
		{"usage below the top level", Chat, strings.Replace(delta, `"content":"hi"`, `"usage":{"prompt_tokens":1,"completion_tokens":1}`, 1), done, nil, true},
		{"done and end in one event", Chat, delta, strings.TrimSuffix(final, "\n") + done, &full, true},
		{"json over several lines", Chat, "data: {\"choices\":[{}],\ndata: \"x\":1}\n\n", "data: {\"choices\":[],\ndata:  \"usage\":\ndata:{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n" + done, &small, true},
		{"completions", Completions, strings.ReplaceAll(delta, "delta", "text"), final + done, &full, true},
		{"responses", Responses, responseEvent("response.created", "null") + word + word, responseEvent("response.completed", responseUsage), &responseFull, true},
		{"responses with [DONE]", Responses, word, responseEvent("response.completed", responseUsage) + done, &responseFull, true},
		{"responses incomplete", Responses, word, responseEvent("response.incomplete", responseUsage), &responseFull, true},
		{"responses failed", Responses, word, responseEvent("response.failed", "null"), nil, true},
		{"responses with type last", Responses, word, `data: {"response":{"usage":` + responseUsage + `},"type":"response.completed"}` + "\n\n", &responseFull, true},
		{"responses with the type in the event line only", Responses, word, "event: response.completed\ndata: " + `{"response":{"usage":` + responseUsage + "}}\n\n", &responseFull, true},
		{"responses cut off", Responses, word, "", nil, false},
	}
	endings := map[string]string{"lf": "\n", "crlf": "\r\n", "cr": "\r"}
	for _, tt := range tests {
		for ending, eol := range endings {
			t.Run(tt.name+" "+ending, func(t *testing.T) {
				live, held := strings.ReplaceAll(tt.live, "\n", eol), strings.ReplaceAll(tt.held, "\n", eol)
				for _, parts := range cuts(live + held) {
					w := Watch(tt.endpoint, WatchOptions{Stream: true})
					forward, tail := play(w, parts...)
					if forward+tail != live+held {
						t.Fatalf("%d parts: the bytes changed:\n%q", len(parts), forward+tail)
					}
					if forward != live {
						t.Fatalf("%d parts, first %q: held until the end\n%q, want\n%q", len(parts), parts[0], tail, held)
					}
					u, ok := w.Usage()
					if ok != (tt.usage != nil) || ok && u != *tt.usage {
						t.Fatalf("usage %+v %v, want %+v", u, ok, tt.usage)
					}
					if w.Complete() != tt.complete {
						t.Fatalf("complete = %v", w.Complete())
					}
				}
			})
		}
	}
}

func TestWatcher_StripsOnlyTheChunkOfTheSplice(t *testing.T) {
	cost := `data: {"choices":[],"cost":"0.1"}` + "\n\n"
	tests := []struct{ name, in, out string }{
		{"the usage chunk", delta + final + done, delta + done},
		{"with fields and comments around it", delta + ": a\nid: 7\nevent: message\n" + final + ": b\n" + done, delta + ": a\n: b\n" + done},
		{"no usage chunk", delta + done, delta + done},
		{"usage in the last content chunk", delta + last + done, delta + last + done},
		{"usage in every chunk", running + last + done, running + last + done},
		{"usage in every chunk and one of its own", running + final + done, running + done},
		{"choices after it", final + delta + final + done, final + delta + done},
		{"something without choices after it", delta + final + cost + done, delta + cost + done},
		{"no [DONE] after it", delta + final, delta},
		{"no blank line after it", delta + strings.TrimSuffix(final, "\n") + done, delta + done},
		{"nothing after it", delta + strings.TrimSuffix(final, "\n\n"), delta},
		{"two of them", delta + final + final + done, delta + final + done},
		{"no choices at all", delta + trailing("") + done, delta + done},
		{"no choices, and something else", delta + trailing(`"citations":["a"],`) + done, delta + trailing(`"citations":["a"],`) + done},
		{"LiteLLM's", delta + stop + trailing(`"choices":[{"index":0,"delta":{}}],`) + done, delta + stop + done},
		{"no finish reason before it", delta + trailing(`"choices":[{"index":0,"delta":{}}],`) + done, delta + done},
		{"an empty delta", delta + stop + trailing(`"choices":[{"index":0,"delta":{"content":""},"finish_reason":null,"logprobs":null}],`) + done, delta + stop + done},
		{"a delta of nulls", delta + stop + trailing(`"choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[]}}],`) + done, delta + stop + done},
		{"an empty text", delta + stop + trailing(`"choices":[{"index":0,"text":"","finish_reason":""},{"index":1,"text":""}],`) + done, delta + stop + done},
		{"a delta that says something", delta + stop + trailing(`"choices":[{"index":0,"delta":{"content":"a"}}],`) + done, delta + stop + trailing(`"choices":[{"index":0,"delta":{"content":"a"}}],`) + done},
		{"a finish reason", delta + trailing(`"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],`) + done, delta + trailing(`"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],`) + done},
		{"an error", delta + trailing(`"choices":[{"index":0,"delta":{}}],"error":{"code":1},`) + done, delta + trailing(`"choices":[{"index":0,"delta":{}}],"error":{"code":1},`) + done},
		{"the role and a running total first", trailing(`"choices":[{"index":0,"delta":{"role":"assistant"}}],`) + delta + final + done, trailing(`"choices":[{"index":0,"delta":{"role":"assistant"}}],`) + delta + done},
		{"empty deltas over several lines", delta + "data: {\"choices\":[{\"delta\":{}}],\ndata: \"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n" + done, delta + done},
		{"choices null", delta + strings.Replace(final, "[]", "null", 1) + done, delta + done},
		{"over several lines", delta + "data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n" + done, delta + done},
	}
	for _, tt := range tests {
		for _, eol := range []string{"\n", "\r\n", "\r"} {
			t.Run(fmt.Sprintf("%s %q", tt.name, eol), func(t *testing.T) {
				in, want := strings.ReplaceAll(tt.in, "\n", eol), strings.ReplaceAll(tt.out, "\n", eol)
				for _, parts := range cuts(in) {
					forward, tail := play(Watch(Chat, WatchOptions{Stream: true, StripUsage: true}), parts...)
					if diff := cmp.Diff(want, forward+tail); diff != "" {
						t.Fatalf("%d parts, first %q: -want +got\n%s", len(parts), parts[0], diff)
					}
				}
			})
		}
	}
}

// endless returns an upstream that sends bytes without end.
func endless(pattern string) func() []byte {
	b := []byte(strings.Repeat(pattern, 4096/len(pattern)+1))
	return func() []byte { return b }
}

func TestWatcher_MemoryIsBounded(t *testing.T) {
	const total = 3 << 20
	tests := []struct{ name, start, pattern string }{
		{"a data line without end", "data: {\"choices\":[{\"delta\":{\"content\":\"", "x"},
		{"a data line without end in unread places", "data: ", "[1,"},
		{"a comment without end", ":", " ping"},
		{"a field without colon", "", "data"},
		{"data lines without a blank one", "", "data: {\n"},
		{"ids without a blank line", "", "id: 1\n"},
		{"carriage returns", "", "\r"},
		{"blank lines after the end", done, "\n"},
		{"comments after the usage chunk", final, ": x\n"},
		{"a comment after the usage chunk", final, ": x"},
		{"usage chunks", "", final},
		{"usage without end", `data: {"usage":{"prompt_tokens":1,"a":"`, "x"},
		{"a name without end", `data: {"`, "x"},
		{"nested without end", `data: {"a":`, `{"a":`},
	}
	for _, tt := range tests {
		for _, stream := range []bool{true, false} {
			t.Run(fmt.Sprint(tt.name, " ", stream), func(t *testing.T) {
				w := Watch(Chat, WatchOptions{Stream: stream})
				w.holdJSON = 64 << 10
				got := len(w.Push([]byte(tt.start)))
				next, sent := endless(tt.pattern), len(tt.start)
				for sent < total {
					p := next()
					sent += len(p)
					got += len(w.Push(p))
					if n := cap(w.held) + cap(w.spare) + cap(w.t.kept); n > 1<<20 {
						t.Fatalf("holds %d bytes after %d", n, sent)
					}
				}
				if sent-got > 2*holdEvents {
					t.Errorf("held back %d bytes", sent-got)
				}
				if got += len(w.Close()); got != sent {
					t.Errorf("%d bytes came, %d left", sent, got)
				}
			})
		}
	}
}

func TestWatcher_LongLines(t *testing.T) {
	long := strings.Repeat(`long \" text, `, 1<<20/14)
	content := strings.Replace(delta, "hi", long, 1)
	finish := `data: {"choices":[],"x":"` + long + `","usage":{"prompt_tokens":7,"completion_tokens":3}}`
	completed := `data: {"type":"response.completed","response":{"output":[{"content":"` + long + `"}],"usage":` + responseUsage + `}}`
	tests := []struct {
		name       string
		endpoint   Endpoint
		live, held string
		want       llm.Usage
	}{
		{"usage after a long line", Chat, delta + content + delta, final + done, full},
		{"usage behind a long line", Chat, delta + finish, "\n\n" + done, small},
		{"usage behind a long line with CRLF", Chat, delta + finish, "\r\n\r\n" + done, small},
		{"usage in a long content line", Chat, strings.Replace(last, `"delta"`, `"x":"`+long+`","delta"`, 1), done, small},
		{"a long comment", Chat, delta + ":" + long + "\n\n" + delta, final + done, full},
		{"over very many lines", Chat, "data: {\"choices\":[],\"x\":[0\n" + strings.Repeat("data: ,12345678\n", 1<<14) + "data: ],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}", "\n\n" + done, small},
		{"a long completed response", Responses, completed, "\n\n", llm.Usage{Input: 7, Output: 3, Cached: 2, Reasoning: 1}},
	}
	for _, tt := range tests {
		for _, size := range []int{1000, 4096, 32 << 10, 100_000, 1 << 22} {
			t.Run(fmt.Sprint(tt.name, " read by ", size), func(t *testing.T) {
				w := Watch(tt.endpoint, WatchOptions{Stream: true, StripUsage: true})
				if tt.want == full {
					w = Watch(tt.endpoint, WatchOptions{Stream: true})
				}
				var parts []string
				for rest := tt.live + tt.held; rest != ""; rest = rest[len(parts[len(parts)-1]):] {
					parts = append(parts, rest[:min(size, len(rest))])
				}
				forward, tail := play(w, parts...)
				// What fits may be held whole, so the cut is asked for only in small reads.
				if forward+tail != tt.live+tt.held && !strings.Contains(tt.name, "usage behind") && !strings.Contains(tt.name, "very many") {
					t.Fatal("the bytes changed")
				}
				if strings.Contains(tt.name, "very many") {
					if !strings.HasSuffix(tail, done) || len(tail) > 2*holdEvents {
						t.Errorf("held %d bytes", len(tail))
					}
				} else if size < holdEvents && (forward != tt.live || tail != tt.held) {
					t.Errorf("left %d bytes before the end, want %d; held %.60q", len(forward), len(tt.live), tail)
				}
				if u, ok := w.Usage(); !ok || u != tt.want {
					t.Errorf("usage %+v %v", u, ok)
				}
				if !w.Complete() {
					t.Error("not complete")
				}
			})
		}
	}
}

func TestWatcher_JSON(t *testing.T) {
	chat := `{"id":"chatcmpl-1","model":"gpt-4o","choices":[{"message":{"content":"\"usage\": {\"prompt_tokens\":9}","usage":{"prompt_tokens":99}}}],"usage": {"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":2,"audio_tokens":1},"completion_tokens_details":{"reasoning_tokens":1,"audio_tokens":1}}}`
	tests := []struct {
		name     string
		endpoint Endpoint
		body     string
		usage    *llm.Usage
		complete bool
		model    llm.Model
		failed   bool
		passes   bool
	}{
		{"chat", Chat, chat, &full, true, "gpt-4o", false, false},
		{"with space around", Chat, "\n " + chat + "\n", &full, true, "gpt-4o", false, false},
		{"error null", Chat, `{"error":null,"model":"m","usage":null}`, nil, true, "m", false, false},
		{"truncated", Chat, chat[:len(chat)-1], &full, false, "gpt-4o", false, false},
		{"truncated before usage", Chat, chat[:100], nil, false, "gpt-4o", false, false},
		{"truncated in usage", Chat, chat[:len(chat)-4], nil, false, "gpt-4o", false, false},
		{"two values", Chat, `{"usage":{"prompt_tokens":1}}{"usage":{"prompt_tokens":2}}`, nil, false, "", false, true},
		{"a value a line", Chat, chat + "\n" + chat + "\n", nil, false, "gpt-4o", false, true},
		{"a list", Chat, "[" + chat + ",\n" + chat + "]", nil, false, "gpt-4o", false, true},
		{"zero", Chat, `{"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}`, &llm.Usage{}, true, "", false, false},
		{"escaped names", Chat, `{"us\u0061ge":{"prompt_tokens":7,"completion_tokens":3}}`, &small, true, "", false, false},
		{"not numbers", Chat, `{"usage":{"prompt_tokens":"seven","completion_tokens":3}}`, nil, true, "", false, false},
		{"beyond all numbers", Chat, `{"usage":{"prompt_tokens":1e300,"completion_tokens":3}}`, nil, true, "", false, false},
		{"fractions spelled", Chat, `{"usage":{"prompt_tokens":7.0,"completion_tokens":0.3e1}}`, &small, true, "", false, false},
		{"deepseek", Chat, `{"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_cache_hit_tokens":2}}`, &llm.Usage{Input: 7, Output: 3, Cached: 2}, true, "", false, false},
		{"embeddings", Embeddings, `{"data":[{"embedding":[0.1,-2e-5]}],"model":"e","usage":{"prompt_tokens":7,"total_tokens":7}}`, &llm.Usage{Input: 7}, true, "e", false, false},
		{"responses", Responses, `{"id":"r","status":"completed","error":null,"model":"m","usage":` + responseUsage + `}`, &llm.Usage{Input: 7, Output: 3, Cached: 2, Reasoning: 1}, true, "m", false, false},
		{"responses failed", Responses, `{"id":"r","status":"failed","error":{"code":"server_error","message":"x"},"usage":null}`, nil, true, "", true, false},
		{"two places", Chat, `{"usage":{"prompt_tokens":7,"completion_tokens":3},"x_groq":{"usage":{"prompt_tokens":1}}}`, &small, true, "", false, false},
		{"not json", Chat, `<html>`, nil, false, "", false, true},
		{"nothing", Chat, ``, nil, false, "", false, false},
		{"not metered", Other, chat, nil, false, "", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, parts := range cuts(tt.body) {
				w := Watch(tt.endpoint, WatchOptions{})
				forward, tail := play(w, parts...)
				// Blanks before the value leave; what is not one value passes.
				live := tt.body[:len(tt.body)-len(strings.TrimLeft(tt.body, " \n"))]
				if forward+tail != tt.body || tt.endpoint != Other && !tt.passes && forward != live {
					t.Fatalf("left %q before the end, %q at it", forward, tail)
				}
				u, ok := w.Usage()
				if ok != (tt.usage != nil) || ok && u != *tt.usage {
					t.Fatalf("usage %+v %v, want %+v", u, ok, tt.usage)
				}
				if w.Complete() != tt.complete || w.Model() != tt.model || w.Failed() != tt.failed {
					t.Fatalf("complete %v, model %q, failed %v", w.Complete(), w.Model(), w.Failed())
				}
			}
		})
	}
}

func TestWatcher_LargeJSONFlows(t *testing.T) {
	body := `{"data":[` + strings.Repeat("0.123456,", 1<<17) + `0],"usage":{"prompt_tokens":7,"completion_tokens":3}}`
	for _, size := range []int{100, 5000, 100_000, len(body)} {
		w := Watch(Embeddings, WatchOptions{})
		w.holdJSON = 64 << 10
		var got bytes.Buffer
		for at := 0; at < len(body); at += size {
			got.Write(w.Push([]byte(body[at:min(at+size, len(body))])))
		}
		if u, ok := w.Usage(); !ok || u != small {
			t.Errorf("by %d: usage %+v %v", size, u, ok)
		}
		if held := len(body) - got.Len(); held < 1 || held > holdFlowing {
			t.Errorf("by %d: %d bytes held at the end", size, held)
		}
		if got.Write(w.Close()); got.String() != body {
			t.Errorf("by %d: the bytes changed", size)
		}
	}
}

func TestWatcher_StreamErrors(t *testing.T) {
	tests := []struct {
		name, in string
		endpoint Endpoint
	}{
		{"error event", delta + `data: {"error":{"message":"x","type":"server_error","code":"overloaded"}}` + "\n\n", Chat},
		{"named error event", delta + delta + delta + delta + delta + "event: error\ndata: " + `{"message":"x","code":503}` + "\n\n", Chat},
		{"error after many events", strings.Repeat(delta, 9) + `data: {"error":{"message":"x","type":"server_error"}}` + "\n\n", Chat},
		{"responses error", strings.Repeat(responseEvent("response.created", "null"), 5) + `data: {"type":"error","code":"rate_limit_exceeded","message":"x"}` + "\n\n", Responses},
		{"responses failed", "event: response.failed\ndata: " + `{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error"},"usage":null}}` + "\n\n", Responses},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := Watch(tt.endpoint, WatchOptions{Stream: true})
			forward, tail := play(w, tt.in)
			if !w.Failed() {
				t.Error("not failed")
			}
			if forward+tail != tt.in {
				t.Error("the bytes changed")
			}
		})
	}
}

func TestWatcher_SaysWhoAnsweredAndWhen(t *testing.T) {
	w := Watch(Chat, WatchOptions{Stream: true})
	w.Push([]byte(delta))
	if w.Model() != "gpt-4o-mini" || w.ResponseID() != "c1" || w.Terminal() {
		t.Errorf("model %q, id %q, terminal %v", w.Model(), w.ResponseID(), w.Terminal())
	}
	w.Push([]byte(final))
	if !w.Terminal() || w.Complete() {
		t.Errorf("after the usage chunk: terminal %v, complete %v", w.Terminal(), w.Complete())
	}
	w.Push([]byte(delta))
	if w.Terminal() {
		t.Error("terminal though content followed")
	}
	w.Push([]byte(done))
	if !w.Terminal() || !w.Complete() {
		t.Errorf("after [DONE]: terminal %v, complete %v", w.Terminal(), w.Complete())
	}
	if tail := string(w.Close()); tail != done {
		t.Errorf("tail %q", tail)
	}
	if late := string(w.Push([]byte("late"))); late != "late" || w.Close() != nil {
		t.Errorf("after Close: %q", late)
	}
}

// An event over several lines is read as it comes: one that turns out to be no
// JSON says nothing of usage, whatever it holds.
func TestWatcher_BrokenEventsSayNoUsage(t *testing.T) {
	known := "data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n"
	for _, event := range []string{
		"data: {\"usage\"{\"prompt_tokens\":9},\ndata: \"a\":1}\n\n",
		"data: {\"usage\":{\"prompt_tokens\":9},\ndata: \"a\":1]\n\n",
		"data: {\"usage\":{\"prompt_tokens\":9}]",
		"data: {\"usage\":{\"prompt_tokens\":9}",
	} {
		w := Watch(Chat, WatchOptions{Stream: true})
		w.Push([]byte(known + event))
		w.Close()
		if u, ok := w.Usage(); !ok || u.Input != 3 {
			t.Errorf("%q: usage %+v %v", event, u, ok)
		}
	}
}

func TestWatcher_EventsCostNoAllocation(t *testing.T) {
	for _, e := range events {
		w := Watch(e.endpoint, WatchOptions{Stream: true, StripUsage: true})
		whole, half := []byte(e.event), []byte(e.event[:50])
		for range identifyWithin {
			w.Push(half)
			w.Push(whole[50:])
		}
		if n := testing.AllocsPerRun(100, func() { w.Push(whole) }); n != 0 {
			t.Errorf("%s: %v allocations", e.name, n)
		}
		if n := testing.AllocsPerRun(100, func() { w.Push(half); w.Push(whole[50:]) }); n != 0 {
			t.Errorf("%s split: %v allocations", e.name, n)
		}
	}
}
