package wire

import (
	"bytes"
	"strings"
	"testing"
)

// An ending is what a Watcher makes of a whole answer.
type ending struct {
	truncated, events, failed, refused, usage bool
}

func endingOf(w *Watcher, parts ...string) (e ending, forward, tail string) {
	var b bytes.Buffer
	for _, p := range parts {
		b.Write(w.Push([]byte(p)))
	}
	e = ending{truncated: w.Truncated(), events: w.Events()}
	tail = string(w.Close())
	_, e.usage = w.Usage()
	e.failed, e.refused = w.Failed(), w.Refused()
	return e, b.String(), tail
}

// TestWatcher_TellsShapesByTheirBytes reads answers cut anywhere.
func TestWatcher_TellsShapesByTheirBytes(t *testing.T) {
	const (
		mid   = `data: {"id":"c1","error":{"code":502},"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}` + "\n\n"
		first = `data: {"error":{"code":429}}` + "\n\n"
		mark  = "\xEF\xBB\xBF"
	)
	two := strings.Replace(stop, `"index":0`, `"index":1`, 1)
	tests := []struct {
		name    string
		options WatchOptions
		body    string
		want    ending
	}{
		{"nothing", WatchOptions{Asked: true}, "", ending{truncated: true, events: true}},
		{"nothing, unasked", WatchOptions{}, "", ending{truncated: true}},
		{"signs of life", WatchOptions{Stream: true}, ": a\n\n \n:b", ending{truncated: true, events: true}},
		{"signs of life and a stream", WatchOptions{}, "\r\n: a\n\n" + delta + stop, ending{events: true}},
		{"signs of life and json", WatchOptions{Asked: true}, "\n \n\t" + `{"usage":{"prompt_tokens":1}}`, ending{usage: true}},
		{"a byte order mark and a stream", WatchOptions{}, mark + delta + final + done, ending{events: true, usage: true}},
		{"a byte order mark and json", WatchOptions{}, mark + `{"usage":{"prompt_tokens":1}}`, ending{usage: true}},
		{"half a byte order mark", WatchOptions{}, mark[:2], ending{truncated: true}},
		{"half a name", WatchOptions{}, "dat", ending{truncated: true}},
		{"a name without a colon", WatchOptions{Stream: true}, "data\n\n", ending{events: true}},
		{"what is nearly a name", WatchOptions{}, "database\n", ending{}},
		{"a line that means nothing", WatchOptions{Stream: true}, "hello: you\n" + delta + stop, ending{events: true}},
		{"text under the label of events", WatchOptions{Stream: true}, "hello\n{\"a\":1}\nid\n", ending{truncated: true, events: true}},
		{"text", WatchOptions{Asked: true}, "hello\ndata: a\n", ending{}},
		{"no finish reason", WatchOptions{Stream: true}, delta + delta, ending{truncated: true, events: true}},
		{"a finish reason", WatchOptions{Stream: true}, delta + stop, ending{events: true}},
		{"a finish reason without its blank line", WatchOptions{Stream: true}, delta + strings.TrimSuffix(stop, "\n"), ending{truncated: true, events: true}},
		{"a finish reason without a blank line, and more", WatchOptions{Stream: true}, delta + strings.TrimSuffix(stop, "\n") + delta, ending{events: true}},
		{"an empty finish reason", WatchOptions{Stream: true}, delta + strings.Replace(stop, `"stop"`, `""`, 1), ending{truncated: true, events: true}},
		{"a finish reason as content", WatchOptions{Stream: true}, delta + strings.Replace(delta, `"hi"`, `"\"finish_reason\":\"stop\""`, 1), ending{truncated: true, events: true}},
		{"a finish reason elsewhere", WatchOptions{Stream: true}, delta + strings.Replace(delta, `"content":"hi"`, `"finish_reason":"stop"`, 1), ending{truncated: true, events: true}},
		{"one of two choices", WatchOptions{Stream: true, Choices: 2}, delta + two + delta, ending{truncated: true, events: true}},
		{"both choices", WatchOptions{Stream: true, Choices: 2}, delta + two + stop, ending{events: true}},
		{"one choice of two that were asked for", WatchOptions{Stream: true, Choices: 2}, delta + stop, ending{events: true}},
		{"[DONE] without its line's end", WatchOptions{Stream: true}, delta + "data: [DONE]", ending{events: true}},
		{"another dialect", WatchOptions{Stream: true}, "data: {\"token\":\"a\"}\n\ndata: b\n\n", ending{events: true}},
		{"an error at last", WatchOptions{Stream: true}, delta + first, ending{events: true, failed: true}},
		{"an error first", WatchOptions{Stream: true}, first + done, ending{events: true, failed: true, refused: true}},
		{"an error in a chunk", WatchOptions{Stream: true}, delta + delta + delta + delta + delta + mid + done, ending{events: true, failed: true}},
		{"an error in words", WatchOptions{Stream: true}, "event: error\ndata: ouch\n\n", ending{events: true, failed: true, refused: true}},
		{"an error of vLLM", WatchOptions{Stream: true}, delta + delta + delta + delta + delta + `data: {"object":"error","message":"x","code":400}` + "\n\n", ending{events: true, failed: true}},
		{"an error that is none", WatchOptions{Stream: true}, delta + strings.Replace(stop, `"choices"`, `"error":null,"choices"`, 1), ending{events: true}},
		{"an error that is false", WatchOptions{}, `{"error":false,"choices":[]}`, ending{}},
		{"a json error", WatchOptions{}, `{"error":{"code":1}}`, ending{failed: true, refused: true}},
		{"a list of errors", WatchOptions{}, `[{"error":{"code":1}}]`, ending{failed: true, refused: true}},
		{"a bare code", WatchOptions{}, `{"code":"429","message":"x"}`, ending{failed: true, refused: true}},
		{"a bare code of something else", WatchOptions{}, `{"code":200,"message":"x"}`, ending{}},
		{"half a value", WatchOptions{}, `{"a":`, ending{truncated: true}},
		{"half a list", WatchOptions{}, `[{"a":1},{"`, ending{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, parts := range cuts(tt.body) {
				got, forward, tail := endingOf(Watch(Chat, tt.options), parts...)
				if got != tt.want {
					t.Fatalf("%d parts, first %q: %+v, want %+v", len(parts), parts[0], got, tt.want)
				}
				if forward+tail != tt.body {
					t.Fatalf("%d parts: the bytes changed: %q, %q", len(parts), forward, tail)
				}
			}
		})
	}
}

// TestWatcher_PassesWhatItDoesNotUnderstandLive compares what has left after each part.
func TestWatcher_PassesWhatItDoesNotUnderstandLive(t *testing.T) {
	for name, parts := range map[string][]string{
		"text": {"hello", " ", "world\n", "x"}, "bytes": {"\x00", "\xff\xfe", "\x1f\x8b\x08"}, "comments": {":", " a", "\n", "\n", ":"},
		"blanks": {"\n", " ", "\r\n", "\t"}, "a list": {`[{"a":1},`, `{"b`, `":2}`, "]"}, "a value a line behind the first": {"{\"a\":1}\n{", "\"b", "\":2}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, o := range []WatchOptions{{}, {Asked: true}, {Stream: true, Asked: true}} {
				w := Watch(Chat, o)
				for i, p := range parts {
					if got := string(w.Push([]byte(p))); got != p {
						t.Errorf("%+v: of part %d %q left", o, i, got)
					}
				}
			}
		})
	}
}

func TestWatcher_QuietBehindAValue(t *testing.T) {
	answer := `{"choices":[{"message":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`
	chunk := `{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`
	for _, tt := range []struct {
		name, body string
		asked      bool
		whole      bool
	}{
		{"an answer", answer, false, true},
		{"an answer to who asked for a stream", answer, true, true},
		{"a chunk", chunk, true, false},
		{"the same to who asked for none", chunk, false, true},
		{"an error", `{"error":{}}`, true, true},
		{"something else", `{"a":1}`, false, false},
		{"embeddings", `{"data":[],"usage":{"prompt_tokens":1,"total_tokens":1}}`, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := Watch(Chat, WatchOptions{Asked: tt.asked})
			if got := w.Push([]byte(tt.body)); len(got) > 0 {
				t.Fatalf("%q left", got)
			}
			forward, whole := w.Quiet()
			if whole != tt.whole || !whole && string(forward) != tt.body {
				t.Errorf("whole %v, %q left", whole, forward)
			}
			if whole {
				forward = w.Close()
			}
			if string(forward) != tt.body || string(w.Push([]byte("more"))) != "more" || w.Truncated() {
				t.Errorf("%q left, truncated %v", forward, w.Truncated())
			}
			if _, known := w.Usage(); known != (whole && strings.Contains(tt.body, "usage")) {
				t.Errorf("usage known: %v", known)
			}
		})
	}
}

// TestWatcher_FaultIsWhatTheUpstreamWrote gives the error to who has to read it.
func TestWatcher_FaultIsWhatTheUpstreamWrote(t *testing.T) {
	for _, tt := range []struct {
		name     string
		endpoint Endpoint
		body     string
		fault    string
		first    bool
	}{
		{"an event", Chat, `data: {"error":{"code":429}}` + "\n\n", `{"error":{"code":429}}`, true},
		{"behind content", Chat, delta + `data: {"error":{"code":429}}` + "\n\n", `{"error":{"code":429}}`, false},
		{"over lines", Chat, "data: {\"error\":\ndata: 1}\n\n", "{\"error\":\n1}\n", true},
		{"a response", Responses, `data: {"type":"response.failed","response":{"error":{"code":"x"}}}` + "\n\n", `{"error":{"code":"x"}}`, true},
		{"a choice", Chat, `data: {"choices":[{"error":{"code":1}}]}` + "\n\n", `{"error":{"code":1}}`, true},
		{"json", Chat, " " + `{"error":{"code":1}}` + "\n", `{"error":{"code":1}}`, true},
		{"a list", Chat, "[\n" + `{"error":{"code":1}}` + "]", `{"error":{"code":1}}`, true},
		{"none", Chat, delta, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := Watch(tt.endpoint, WatchOptions{Stream: true})
			w.Push([]byte(tt.body))
			fault, first := w.Fault()
			if string(fault) != tt.fault || first != tt.first {
				t.Errorf("%q, first %v", fault, first)
			}
			if again, _ := w.Fault(); again != nil {
				t.Errorf("once more: %q", again)
			}
		})
	}
}

// FuzzShape: whatever an answer is and however it is cut, its bytes pass, and what is
// made of it is the same.
func FuzzShape(f *testing.F) {
	for _, s := range []string{
		delta + stop, final + done, ": a\n\n" + delta, "\xEF\xBB\xBFdata: a", `{"a":1}{"b":2}`, `[{"error":{}}`, `[[1],2]`, "data\r\rdatb", "event: error\ndata: x\n\n",
		`data: {"choices":[{"index":70,"finish_reason":"x"},{}],"usage":{"prompt_tokens":1}}` + "\n\n", `{"code":429}`, "re", "id: 1\n\nid", `data: {"error":[{"error":0}]}` + "\n\n",
	} {
		f.Add([]byte(s), uint8(3), uint8(7))
	}
	f.Fuzz(func(t *testing.T, body []byte, options, size uint8) {
		o := WatchOptions{Stream: options&1 > 0, Asked: options&2 > 0, Choices: int(options >> 2 & 3)}
		endpoint := Endpoint(options >> 4 % uint8(len(formats)))
		var parts []string
		for rest := string(body); rest != ""; rest = rest[len(parts[len(parts)-1]):] {
			parts = append(parts, rest[:min(len(rest), int(size)+1)])
		}
		got, forward, tail := endingOf(Watch(endpoint, o), parts...)
		if forward+tail != string(body) {
			t.Fatalf("the bytes changed: %q, %q", forward, tail)
		}
		if want, _, _ := endingOf(Watch(endpoint, o), string(body)); want != got {
			t.Fatalf("cut %+v, whole %+v", got, want)
		}
	})
}
