package wire

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// TestWatcher_AnyStream puts streams together from pieces that mean something,
// cuts them anywhere, and compares with go-sse and with itself.
func TestWatcher_AnyStream(t *testing.T) {
	pieces := []string{
		delta, final, done, running, last, groq, ": ping", " ", "id: 7", "event: message", "event: error", "retry: 3", "data", "data:", "data: text",
		`data: {"choices":[],"cost":1}`, `data: {"choices":[]`, `data: ,"usage":{"prompt_tokens":1,"completion_tokens":2}}`, `data: {"choices":null,"usage":{"total_tokens":4}}`,
		`data: {"usage":null}`, `data: {"choices":[{}],"usage" : {"prompt_tokens":5}}`, `data:[DONE]`, `data: {"error":{"code":"x"}}`, "x: y", "usage",
	}
	rapid.Check(t, func(t *rapid.T) {
		eol := rapid.SampledFrom([]string{"\n", "\r\n", "\r"}).Draw(t, "eol")
		var b bytes.Buffer
		for _, p := range rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 12).Draw(t, "pieces") {
			b.WriteString(string(bytes.ReplaceAll([]byte(p), []byte("\n"), []byte(eol))))
			for range rapid.IntRange(0, 2).Draw(t, "ends") {
				b.WriteString(eol)
			}
		}
		stream := b.Bytes()
		strip := rapid.Bool().Draw(t, "strip")
		w := Watch(Chat, WatchOptions{Stream: true, StripUsage: strip})
		var got bytes.Buffer
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), rapid.IntRange(1, 400).Draw(t, "read"))
			p := bytes.Clone(rest[:n]) // a reader's buffer, used again below
			got.Write(w.Push(p))
			clear(p)
			rest = rest[n:]
		}
		got.Write(w.Close())

		whole := Watch(Chat, WatchOptions{Stream: true, StripUsage: strip})
		want := append(bytes.Clone(whole.Push(stream)), whole.Close()...)
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("cut:   %q\nwhole: %q", got.Bytes(), want)
		}
		if !strip && !bytes.Equal(want, stream) {
			t.Fatalf("the bytes changed: %q", want)
		}
		if strip && bytes.Count(stream, []byte("\n\n"))-bytes.Count(want, []byte("\n\n")) > bytes.Count(stream, usageName) {
			t.Fatalf("more was taken out than usage: %q", want)
		}
		u, ok := w.Usage()
		if v, found := whole.Usage(); u != v || ok != found || w.Complete() != whole.Complete() || w.Failed() != whole.Failed() || w.Terminal() != whole.Terminal() {
			t.Fatalf("cut: %+v %v, whole: %+v %v", u, ok, v, found)
		}
		if !sameReading(stream) {
			return
		}
		said, complete := reference(stream)
		if ref, known := said.usage(true); known && (!ok || u != ref) || complete && !w.Complete() {
			t.Fatalf("usage %+v %v, complete %v; go-sse finds %+v, %v", u, ok, w.Complete(), ref, complete)
		}
	})
}

// TestTracker_AnyObject compares the passing reader with the validating walk.
func TestTracker_AnyObject(t *testing.T) {
	values := []string{`1`, `-0.5e3`, `true`, `null`, `"a\\\"b"`, `""`, `[]`, `{}`, `[1,[2,{"usage":3}]]`, `{"usage":{"prompt_tokens":9},"choices":[1]}`, `{"prompt_tokens":3,"completion_tokens":4}`, `"\u00e9"`}
	names := []string{`usage`, `model`, `id`, `choices`, `type`, `status`, `other`, `us\u0061ge`, ``}
	rapid.Check(t, func(t *rapid.T) {
		b := []byte("{")
		for i := range rapid.IntRange(0, 8).Draw(t, "members") {
			if i > 0 {
				b = append(b, rapid.SampledFrom([]string{",", " ,\n"}).Draw(t, "comma")...)
			}
			b = append(b, '"')
			b = append(b, rapid.SampledFrom(names).Draw(t, "name")...)
			b = append(b, rapid.SampledFrom([]string{`":`, `" : `}).Draw(t, "colon")...)
			b = append(b, rapid.SampledFrom(values).Draw(t, "value")...)
		}
		b = append(b, '}')
		tr := tracker{format: &chunks}
		for rest := b; len(rest) > 0; {
			n := min(len(rest), rapid.IntRange(1, 9).Draw(t, "read"))
			tr.feed(rest[:n])
			rest = rest[n:]
		}
		if !tr.done || tr.junk {
			t.Fatalf("%s: done %v, junk %v", b, tr.done, tr.junk)
		}
		var usage tally
		var found, choices bool
		var model string
		for m := membersOf(b); m.next(); {
			switch {
			case nameIs(m.name, "usage"):
				if u, ok := readUsage(m.value); ok {
					usage, found = u, true
				}
			case nameIs(m.name, "choices"):
				choices = choices || m.value[0] == '[' && len(m.value) > 2
			case nameIs(m.name, "model"):
				model, _ = stringValue(m.value)
			}
		}
		e := &tr.event
		if e.usage != usage || (e.usageRank == rankTop) != found {
			t.Fatalf("%s: usage %+v, want %+v", b, e.usage, usage)
		}
		if string(e.model) != model {
			t.Fatalf("%s: model %q, want %q", b, e.model, model)
		}
		if choices && !e.hasChoices {
			t.Fatalf("%s: choices not seen", b)
		}
	})
}
