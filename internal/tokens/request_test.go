package tokens

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

func estimate(r Request) Estimate {
	return New(Config{}).Estimate(Key{Model: "gpt-4o"}, r)
}

// The counts below are the API's own, as published in the cookbook notebook and by
// the authors of token counters who asked it.
func TestRequest_Messages(t *testing.T) {
	tests := []struct {
		name, messages string
		want           int64
	}{
		{"one word", `[{"role":"user","content":"hello"}]`, 8},
		{"two words", `[{"role":"user","content":"hello world"}]`, 9},
		{"three messages", `[{"role":"system","content":"# Important: you're the best robot"},{"role":"user","content":"hello robot"},{"role":"assistant","content":"hello world"}]`, 27},
		{"a call and its arguments", `[{"role":"assistant","content":"","function_call":{"name":"do_stuff","arguments":"{\"foo\": \"bar\", \"baz\": 1.5}"}}]`, 26},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := estimate(Request{Messages: []byte(tt.messages)}).Input; abs(got-tt.want) > 2+tt.want/20 {
				t.Errorf("estimated %d, API counts %d", got, tt.want)
			}
		})
	}
}

func TestRequest_Tools(t *testing.T) {
	const foo = `"name":"foo"`
	const bing = `"name":"bing_bong","description":"Do a bing bong"`
	tests := []struct {
		name, function string
		want           int64
	}{
		{"no parameters", `{` + foo + `,"parameters":{"type":"object","properties":{}}}`, 31},
		{"described", `{` + foo + `,"description":"Do a foo","parameters":{"type":"object","properties":{}}}`, 36},
		{"one parameter", `{` + bing + `,"parameters":{"type":"object","properties":{"foo":{"type":"string"}}}}`, 49},
		{"two parameters", `{` + bing + `,"parameters":{"type":"object","properties":{"foo":{"type":"string"},"bar":{"type":"number","description":"A number"}}}}`, 57},
		{"nested parameters", `{` + bing + `,"parameters":{"type":"object","properties":{"foo":{"type":"object","properties":{"bar":{"type":"string","enum":["a","b","c"]},"baz":{"type":"boolean"}}}}}}`, 68},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			messages := []byte(`[{"role":"user","content":"hello"}]`)
			old := estimate(Request{Messages: messages, Functions: []byte(`[` + tt.function + `]`)})
			if math.Abs(float64(old.Input)/float64(tt.want)-1) > .1 {
				t.Errorf("estimated %d, API counts %d", old.Input, tt.want)
			}
			wrapped := estimate(Request{Messages: messages, Tools: []byte(`[{"type":"function","function":` + tt.function + `}]`)})
			flat := estimate(Request{Messages: messages, Tools: []byte(`[{"type":"function",` + tt.function[1:] + `]`)})
			if abs(wrapped.Input-old.Input) > 4 || abs(flat.Input-old.Input) > 4 {
				t.Errorf("as function %d, as chat tool %d, as responses tool %d", old.Input, wrapped.Input, flat.Input)
			}
		})
	}
}

func TestRequest_Shapes(t *testing.T) {
	const sentence = "The quick brown fox jumps over the lazy dog."
	text := fmt.Sprintf("%q", sentence)
	plain := estimate(Request{Prompt: []byte(text)}).Raw
	if plain < 8 || plain > 12 {
		t.Fatalf("the sentence weighs %d", plain)
	}
	chat := func(content string) Request {
		return Request{Messages: []byte(`[{"content":` + content + `,"role":"user"}]`)}
	}
	responses := func(item string) Request { return Request{Messages: []byte(`[` + item + `]`)} }
	tests := []struct {
		name          string
		r             Request
		raw, overhead int64
		unknown       bool
	}{
		{"string content", chat(text), plain, 7, false},
		{"text parts", chat(`[{"type":"text","text":` + text + `},{"text":` + text + `,"type":"text"}]`), 2 * plain, 7, false},
		{"null content", chat(`null`), 0, 7, false},
		{"one part without an array", chat(`{"text":` + text + `}`), plain, 7, false},
		{"content of a wrong type", chat(`12345`), 0, 7, false},
		{"named message", Request{Messages: []byte(`[{"role":"user","name":"bob","content":` + text + `}]`)}, plain + 1, 8, false},
		{"white space between all tokens", Request{Messages: []byte(" [ { \"role\" : \"user\" ,\n\t\"content\" : " + text + " } ] ")}, plain, 7, false},
		{"fields nobody knows", Request{Messages: []byte(`[{"role":"user","content":` + text + `,"cache":{"a":["b\"]}"]}}]`)}, plain, 7, false},
		{"prompt array", Request{Prompt: []byte(`[` + text + `,` + text + `]`)}, 2 * plain, 0, false},
		{"token array", Request{Prompt: []byte(`[1, 22,333]`)}, 0, 3, false},
		{"token arrays", Request{Prompt: []byte(`[[1,22],[333,4444,5]]`)}, 0, 5, false},
		{"embedding input", Request{NoOutput: true, Prompt: []byte(`[` + text + `]`)}, plain, 0, false},
		{"embedding tokens", Request{NoOutput: true, Prompt: []byte(`[[9,9],[9]]`)}, 0, 3, false},
		{"responses string", Request{Messages: []byte(text)}, plain, 7, false},
		{"responses instructions", Request{Messages: []byte(text), Instructions: []byte(text)}, 2 * plain, 11, false},
		{"responses item without a type", responses(`{"role":"user","content":` + text + `}`), plain, 7, false},
		{"responses parts", responses(`{"role":"user","type":"message","content":[{"type":"input_text","text":` + text + `}]}`), plain, 7, false},
		{"responses call output", responses(`{"type":"function_call_output","call_id":"call_12345678","output":` + text + `}`), plain, 7, false},
		{"responses reasoning summary", responses(`{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":` + text + `}]}`), plain, 7, false},
		{"responses item reference", responses(`{"type":"item_reference","id":"msg_1"}`), 0, 7, true},
		{"responses encrypted reasoning", responses(`{"type":"reasoning","encrypted_content":"gAAAAABo"}`), 0, 7, true},
		{"uploaded file", chat(`[{"type":"file","file":{"file_id":"file-1"}}]`), 0, 7, true},
		{"conversation", Request{Messages: []byte(text), OpaqueContext: true}, plain, 7, true},
		{"no JSON", Request{Body: []byte(strings.Repeat("x", 400))}, 100, 0, false},
		{"nothing", Request{}, 0, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := estimate(tt.r)
			if abs(got.Raw-tt.raw) > 1 || got.Overhead != tt.overhead || got.Media != 0 || got.Unknown != tt.unknown {
				t.Errorf("got raw %d, overhead %d, media %d, unknown %t; want %d, %d, 0, %t", got.Raw, got.Overhead, got.Media, got.Unknown, tt.raw, tt.overhead, tt.unknown)
			}
		})
	}
}

func TestRequest_BinaryIsNotText(t *testing.T) {
	data := strings.Repeat("QUJD", 1<<18) // 1 MB that would be some 700,000 tokens as text
	for name, part := range map[string]string{
		"image of unknown format": `{"type":"image_url","image_url":{"url":"data:image/png;base64,` + data + `"}}`,
		"image in a responses":    `{"type":"input_image","image_url":"data:image/png;base64,` + data + `"}`,
		"anthropic image":         `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + data + `"}}`,
		"audio":                   `{"type":"input_audio","input_audio":{"format":"wav","data":"` + data + `"}}`,
		"file":                    `{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,` + data + `"}}`,
		"responses file":          `{"type":"input_file","filename":"a.pdf","file_data":"` + data + `"}`,
		"a part nobody knows":     `{"type":"hologram","hologram":{"data":"` + data + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			got := estimate(Request{Messages: []byte(`[{"role":"user","content":[` + part + `]}]`)})
			if got.Raw != 0 || got.Media > 50_000 {
				t.Errorf("raw %d, media %d", got.Raw, got.Media)
			}
			if got.Media == 0 && !strings.Contains(part, "hologram") {
				t.Error("media weighs nothing")
			}
		})
	}
}

func TestRequest_OutputIsBoundedByTheCaps(t *testing.T) {
	tests := []struct {
		name      string
		r         Request
		out, most int64
	}{
		{"no cap", Request{}, 512, 0},
		{"small cap", Request{MaxOutput: 100}, 100, 100},
		{"large cap", Request{MaxOutput: 4096}, 512, 4096},
		{"choices", Request{MaxOutput: 100, Choices: 3}, 300, 300},
		{"embedding", Request{NoOutput: true, MaxOutput: 100}, 0, 0},
		{"absurd numbers", Request{MaxOutput: math.MaxInt64, Choices: math.MaxInt64}, maxTokens, maxTokens},
		{"negative numbers", Request{MaxOutput: -5, Choices: -7}, 512, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := estimate(tt.r); got.Output != tt.out || got.MaxOutput != tt.most {
				t.Errorf("output %d of at most %d, want %d of %d", got.Output, got.MaxOutput, tt.out, tt.most)
			}
		})
	}
}

func abs(n int64) int64 { return max(n, -n) }
