package wire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
)

// account returns one of which answers may have n bytes.
func account(n int64) *memory.Account { return memory.NewAccount(2 * n) }

// TestWatcher_FlowsWhereMemoryIsShort: the bytes are the same, the usage is known,
// the end waits, and no more is held than the account has, but for what a Watcher
// may hold without asking.
func TestWatcher_FlowsWhereMemoryIsShort(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	stream := delta + strings.Replace(delta, "hi", long, 1) + strings.Replace(delta, "hi", strings.Repeat("y", 40<<10), 1) + final + done
	json := `{"choices":[{"message":{"content":"` + long + `"}}],"usage":{"prompt_tokens":7,"completion_tokens":3}}`
	for _, c := range []struct {
		name, body string
		stream     bool
		length     int64
	}{
		{"a stream with giant events", stream, true, 0},
		{"JSON", json, false, 0},
		{"JSON that says its length", json, false, int64(len(json))},
	} {
		for _, room := range []int64{0, 10 << 10, 300 << 10} {
			for _, size := range []int{700, 32 << 10} {
				t.Run(fmt.Sprint(c.name, " ", room, " ", size), func(t *testing.T) {
					a := account(room)
					hold := a.Hold(memory.Answers)
					w := Watch(Chat, WatchOptions{Stream: c.stream, Length: c.length, Memory: &hold})
					var got bytes.Buffer
					for at := 0; at < len(c.body); at += size {
						got.Write(w.Push([]byte(c.body[at:min(at+size, len(c.body))])))
						if n := cap(w.held) + cap(w.spare); int64(n) > room+4*int64(size)+4*holdUnasked {
							t.Fatalf("%d bytes are held, %d are counted", n, hold.Bytes())
						}
					}
					if got.Len() >= len(c.body) {
						t.Error("the end did not wait")
					}
					if u, ok := w.Usage(); !ok || u.Input == 0 {
						t.Errorf("usage %+v %v", u, ok)
					}
					if got.Write(w.Close()); got.String() != c.body {
						t.Error("the bytes changed")
					}
					hold.Release()
					if n := a.Held().All; n != 0 {
						t.Errorf("%d bytes are left", n)
					}
				})
			}
		}
	}
}

// TestWatcher_CountsWhatItGivesUp: an answer that turns out to be none of ours leaves at
// once, and is counted while its client takes it.
func TestWatcher_CountsWhatItGivesUp(t *testing.T) {
	whole := `{"x":"` + strings.Repeat("x", 3<<20) + `"}`
	hold := account(8 << 20).Hold(memory.Answers)
	w := Watch(Chat, WatchOptions{Memory: &hold})
	if forward := w.Push([]byte(whole)); len(forward) > 0 {
		t.Fatalf("%d bytes left early", len(forward))
	}
	if forward := w.Push([]byte("\n{}")); string(forward) != whole+"\n{}" || hold.Bytes() < int64(len(whole)) {
		t.Errorf("%d bytes leave, %d are counted", len(forward), hold.Bytes())
	}
	if forward := w.Push([]byte("\n{}")); string(forward) != "\n{}" || hold.Bytes() != 0 {
		t.Errorf("%d bytes leave, %d are counted", len(forward), hold.Bytes())
	}
}

// TestWatcher_HoldsWholeWhereThereIsRoom is the other side: an answer that fits
// waits whole, and is counted.
func TestWatcher_HoldsWholeWhereThereIsRoom(t *testing.T) {
	body := `{"x":"` + strings.Repeat("x", 3<<20) + `","usage":{"prompt_tokens":7,"completion_tokens":3}}`
	for _, length := range []int64{-1, int64(len(body))} {
		hold := account(8 << 20).Hold(memory.Answers)
		w := Watch(Chat, WatchOptions{Length: length, Memory: &hold})
		for at := 0; at < len(body); at += 1000 {
			if forward := w.Push([]byte(body[at:min(at+1000, len(body))])); len(forward) > 0 {
				t.Fatalf("%d bytes left early", len(forward))
			}
		}
		if n := hold.Bytes(); n < int64(len(body)) || n > int64(2*len(body)) {
			t.Errorf("%d bytes are counted of %d", n, len(body))
		}
	}
}
