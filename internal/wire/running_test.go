package wire

import "testing"

// A usage in every chunk is a running total: of a stream that broke off it is
// not what the answer cost.
func TestWatcher_RunningTotalIsNoUsage(t *testing.T) {
	running := `data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}` + "\n\n"
	final := `data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}` + "\n\n"
	for _, c := range []struct {
		name, stream string
		closed       bool
		want         int64 // completion tokens; −1: unknown
	}{
		{"broken off", running, false, -1},
		{"broken off behind the final chunk", running + final, false, 2},
		{"ended cleanly without a final chunk", running, true, 1},
		{"ended by [DONE]", running + "data: [DONE]\n\n", false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := Watch(Chat, WatchOptions{Stream: true})
			w.Push([]byte(c.stream))
			if c.closed {
				w.Close()
			}
			if u, known := w.Usage(); known != (c.want >= 0) || known && u.Output != c.want {
				t.Errorf("usage %+v, known %v; want %d", u, known, c.want)
			}
		})
	}
}

func TestWatcher_ResponseEndsWithItsBlankLine(t *testing.T) {
	event := "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":2,\"total_tokens\":3}}}\n"
	w := Watch(Responses, WatchOptions{Stream: true})
	w.Push([]byte(event))
	if _, known := w.Usage(); w.Complete() || !known || !w.Terminal() {
		t.Errorf("without its blank line: complete %v, usage known %v", w.Complete(), known)
	}
	w.Push([]byte("\n"))
	if !w.Complete() {
		t.Error("with its blank line it is not complete")
	}
	w = Watch(Responses, WatchOptions{Stream: true})
	w.Push([]byte(event))
	if tail := w.Close(); !w.Complete() || string(tail) != event {
		t.Errorf("ended cleanly: complete %v, tail %q", w.Complete(), tail)
	}
	w = Watch(Chat, WatchOptions{Stream: true})
	w.Push([]byte("data: [DONE]\n"))
	if !w.Complete() {
		t.Error("[DONE] needs no blank line")
	}
}
