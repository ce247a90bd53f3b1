package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/openai/openai-go"
)

const prose = "The quick brown fox jumps over the lazy dog; \"quoted\" words, numbers like 12.5 and a line end.\n"

// chatBody returns a chat request with about size bytes of message text.
func chatBody(size int, tools bool) []byte {
	type object = map[string]any
	text := strings.Repeat(prose, size/len(prose)+1)[:size]
	var messages []object
	for len(text) > 0 {
		n := min(len(text), max(200, size/20))
		messages = append(messages, object{"role": "user", "content": text[:n]})
		text = text[n:]
	}
	body := object{"model": "gpt-4o", "messages": messages, "temperature": 0.2, "max_tokens": 400, "stream": true, "user": "u-1"}
	if tools {
		tool := object{"type": "function", "function": object{"name": "search_files", "description": "Searches files below a folder for a pattern.", "parameters": object{
			"type": "object", "properties": object{"path": object{"type": "string", "description": "The folder"}, "pattern": object{"type": "string"}}, "required": []string{"path"},
		}}}
		body["tools"] = []object{tool, tool}
	}
	b, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return b
}

func imageBody(size int) []byte {
	url := "data:image/png;base64," + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0x89, 'P', 1, 0xfe}, size/16*3))
	return fmt.Appendf(nil, `{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"text","text":"what is it?"},{"type":"image_url","image_url":{"url":%q}}]}]}`, url)
}

var bodies = []struct {
	name string
	body []byte
}{
	{"1KB", chatBody(700, false)},
	{"1KBTwoTools", chatBody(700, true)},
	{"200KB", chatBody(200<<10, false)},
	{"2MBImage", imageBody(2 << 20)},
}

func BenchmarkDecode(b *testing.B) {
	for _, bb := range bodies {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(bb.body)))
			b.ReportAllocs()
			for b.Loop() {
				r, err := Decode(Chat, bb.body)
				if err != nil || !r.Valid {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecode_hostile: the time per byte must not grow with the body.
func BenchmarkDecode_hostile(b *testing.B) {
	for name, pattern := range map[string]string{
		"names": `"A":1,`, "escapedNames": `"\u0061":1,`, "sameName": `"stop":["a"],`, "deep": `"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `,`, "escapes": `"a":"\n\"\u0041",`,
	} {
		for _, size := range []int{64 << 10, 1 << 20} {
			body := []byte("{" + strings.Repeat(pattern, size/len(pattern)) + `"z":0}`)
			b.Run(fmt.Sprintf("%s/%dKB", name, size>>10), func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				for b.Loop() {
					if r, err := Decode(Chat, body); err != nil || !r.Valid {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkUnmarshal_SDK is what BenchmarkDecode is measured against.
func BenchmarkUnmarshal_SDK(b *testing.B) {
	for _, bb := range bodies {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(bb.body)))
			b.ReportAllocs()
			for b.Loop() {
				var p openai.ChatCompletionNewParams
				if err := json.Unmarshal(bb.body, &p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRequest_Upstream(b *testing.B) {
	for _, bb := range bodies[:3] {
		r, err := Decode(Chat, bb.body)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, spliced := r.Upstream(); !spliced {
					b.Fatal("no splice")
				}
			}
		})
	}
}

var events = []struct {
	name     string
	endpoint Endpoint
	event    string
}{
	{"plain", Chat, strings.Replace(chunk, `,"usage":null`, "", 1)},
	{"usageNull", Chat, chunk},
	{"responses", Responses, "event: response.output_text.delta\n" + `data: {"type":"response.output_text.delta","sequence_number":17,"item_id":"msg_68af4030baa48193b0b43b4c2a176a1a0e6967589080e78b","output_index":0,"content_index":0,"delta":" there","logprobs":[],"obfuscation":"AbCdEfGhIj"}` + "\n\n"},
}

const chunk = `data: {"id":"chatcmpl-CqZ8f5ZvTQ9Zt7bW0bXwVbYcdefgh","object":"chat.completion.chunk","created":1766000000,"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_560af6e559","choices":[{"index":0,"delta":{"content":" there"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"AbCdEfGhIj"}` + "\n\n"

// BenchmarkWatcher_Push is the cost of one event; BenchmarkWatcher_IndexUsage
// is what it is measured against.
func BenchmarkWatcher_Push(b *testing.B) {
	for _, e := range events {
		b.Run(e.name, func(b *testing.B) {
			w := Watch(e.endpoint, WatchOptions{Stream: true, StripUsage: true})
			event := []byte(e.event)
			for range identifyWithin {
				w.Push(event)
			}
			b.ReportAllocs()
			for b.Loop() {
				if len(w.Push(event)) != len(event) {
					b.Fatal("held")
				}
			}
		})
	}
}

func BenchmarkWatcher_IndexUsage(b *testing.B) {
	for _, e := range events {
		b.Run(e.name, func(b *testing.B) {
			event := []byte(e.event)
			n := 0
			for b.Loop() {
				n += bytes.Index(event, usageName)
			}
			sink = n
		})
	}
}

var sink int

// BenchmarkTracker_Feed reads an answer of embeddings, which is nearly all numbers.
func BenchmarkTracker_Feed(b *testing.B) {
	body := []byte(`{"object":"list","data":[{"embedding":[` + strings.Repeat("-0.0123456789,", 1<<16) + `0]}],"usage":{"prompt_tokens":5,"total_tokens":5}}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		t := tracker{format: &chunks}
		t.feed(body)
		if t.event.usageRank == rankNone {
			b.Fatal("no usage")
		}
	}
}
