package tokens

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// FuzzEstimate feeds any bytes into every span: nothing may panic, no figure may
// be negative, and none may outgrow what its bytes can hold.
func FuzzEstimate(f *testing.F) {
	for _, s := range []string{
		`[{"role":"user","content":"hi \u00e9\ud83d\ude00 \"x\" \\"}]`,
		`[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAZAAAAEs"}}]}]`,
		`[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]`,
		`[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"x":{"enum":[1,"a"]}}}}}]`,
		`[[1,2],[3]]`, `"unterminated \`, `[{"content":"`, `{]}[`, "[{\"content\":\"\xff\xe2\x82\"}]", `["\u12", "\ud800\u0041"]`, "\x00",
		`[{"content":[{"input_audio":{"data":"UklGRgAAAABXQVZF"}},{"file":{"file_data":"data:text/plain;base64,QUJD"}},{"source":{"data":"/9j/4AAQ"}}]}]`,
	} {
		f.Add([]byte(s), "gpt-4o", int64(1), int64(16))
	}
	e := New(Config{})
	f.Fuzz(func(t *testing.T, b []byte, model string, choices, most int64) {
		before := bytes.Clone(b)
		k := Key{Model: llm.Model(model), Client: model, Session: model}
		for _, r := range []Request{
			{Messages: b, Tools: b, ResponseFormat: b},
			{Messages: b, Instructions: b, Functions: b, PreviousResponseID: model},
			{Prompt: b, NoOutput: true},
			{Body: b},
		} {
			r.Choices, r.MaxOutput = choices, most
			est := e.Estimate(k, r)
			if est.Raw < 0 || est.Overhead < 0 || est.Media < 0 || est.Input < 0 || est.Chars < 0 || est.Output < 0 || est.MaxOutput < 0 {
				t.Fatalf("negative: %+v", est)
			}
			if limit := int64(len(b))*3*16 + 64; est.Raw > limit || est.Chars > limit || est.wide > est.Raw+1 {
				t.Fatalf("%d bytes: %+v", len(b), est)
			}
			e.Observe(k, est, llm.Usage{Input: choices, Output: most}, model)
		}
		if !bytes.Equal(b, before) {
			t.Fatal("the request was changed")
		}
	})
}

// FuzzScan holds the scanner to the slow way of saying the same: its cost is the
// product of features and weights, it ends at the first quote that no backslash
// takes, and escapes weigh as what they stand for.
func FuzzScan(f *testing.F) {
	for _, s := range []string{"plain words, 123 HTTPServer\n\tx==y", `esc \"aped\" \\ \u0041`, "día 你好 ไทย हिन्दी 😀", "\xff\xfe broken \xe4\xbd", "cut\\", `cut\u00`, "\"rest"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var x text
		n := x.scan(b)
		if n > len(b) || n < len(b) && b[n] != '"' {
			t.Fatalf("read %d of %d bytes", n, len(b))
		}
		if rest := (&cursor{b: append([]byte{'"'}, b...)}).str(); len(rest) != n && json.Valid(append([]byte{'"'}, append(bytes.Clone(b[:n]), '"')...)) {
			t.Fatalf("scan reads %d bytes, cursor %d", n, len(rest))
		}
		var cost float64
		for i, v := range Features(b) {
			if i < numStates*NumClasses {
				cost += v * float64(stepWeights[i/NumClasses][i%NumClasses])
			} else {
				i -= numStates * NumClasses
				cost += v * float64(pairWeights[i/26][i%26])
			}
		}
		if cost != float64(x.cost) {
			t.Fatalf("scan costs %d, features cost %.0f", x.cost, cost)
		}
		if !utf8.Valid(b) {
			return
		}
		var direct, escaped text
		direct.scan(quoted(t, string(b))[1:])
		escaped.scan(allEscaped(string(b)))
		if direct != escaped {
			t.Fatalf("as it is %+v, all escaped %+v", direct, escaped)
		}
	})
}

// allEscaped is s with every character as \u escapes.
func allEscaped(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, '\\', 'u')
		for shift := 12; shift >= 0; shift -= 4 {
			b = append(b, "0123456789abcdef"[u>>shift&0xf])
		}
	}
	return b
}

// FuzzImageSize: sizes come from strangers' bytes and must stay sane.
func FuzzImageSize(f *testing.F) {
	for _, s := range []string{"iVBORw0KGgoAAAANSUhEUgAAAZAAAAEs", "R0lGODlhLAHIAA", "/9j/4AAQSkZJRgABAQAAAQABAAD/wAARCAAeACgDASIA", "UklGRgAAAABXRUJQVlA4WAAAAAAAAAAAKwEAxwAA"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		w, h := imageSize(base64(b))
		if w < 0 || h < 0 || w > 1<<16 || h > 1<<16 || (w == 0) != (h == 0) {
			t.Fatalf("%d x %d", w, h)
		}
		for _, model := range []string{"gpt-4o", "gpt-4o-mini", "gpt-4.1-mini", "claude-3"} {
			if cost := priceOf(llm.Model(model)).cost(image{width: w, height: h}); cost <= 0 || cost > 100_000 {
				t.Fatalf("%s: %d x %d costs %d", model, w, h, cost)
			}
		}
	})
}
