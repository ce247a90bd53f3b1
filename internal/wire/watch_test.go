package wire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	groq    = `data: {"id":"c1","model":"m","choices":[{"delta":{}}],"x_groq":{"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}}` + "\n\n"
	running = `data: {"id":"c1","model":"m","choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}` + "\n\n"
	last    = `data: {"id":"c1","model":"m","choices":[{"delta":{}}],"usage": {"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}` + "\n\n"
)

var (
	small = Usage{Prompt: 7, Completion: 3, Total: 10}
	full  = Usage{Prompt: 7, Completion: 3, Total: 10, Cached: 2, Reasoning: 1, AudioIn: 1, AudioOut: 1}
)

func responseEvent(name, usage string) string {
	return "event: " + name + "\ndata: " + `{"type":"` + name + `","response":{"id":"resp_1","model":"gpt-5","status":"x","usage":` + usage + "}}\n\n"
}

const responseUsage = `{"input_tokens":7,"input_tokens_details":{"cached_tokens":2},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":1},"total_tokens":10}`

func TestWatcher_HoldsOnlyTheEnd(t *testing.T) {
	responseFull := Usage{Prompt: 7, Completion: 3, Total: 10, Cached: 2, Reasoning: 1}
	word := "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"usage\"}\n\n"
	tests := []struct {
		name     string
		endpoint Endpoint
		live     string // what must leave before the end
		held     string
		usage    *Usage
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
		{"zero usage", Chat, delta, `data: {"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}` + "\n\n" + done, &Usage{}, true},
		{"usage that is no usage", Chat, delta + `data: {"choices":[],"usage":{}}` + "\n\n" + `data: {"choices":[],"usage":{"prompt_tokens":-1}}` + "\n\n", done, nil, true},
		{"usage chunk first", Chat, final + delta + last, done, &small, true},
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
		{"usage without choices", delta + `data: {"usage":{"prompt_tokens":7,"completion_tokens":3}}` + "\n\n" + done, delta + `data: {"usage":{"prompt_tokens":7,"completion_tokens":3}}` + "\n\n" + done},
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
