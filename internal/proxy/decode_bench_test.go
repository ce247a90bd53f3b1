//go:build unix

package proxy

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openai/openai-go"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// decodeCases are the bodies that decode and estimate together are measured
// with, and the part of the SDK's time that they may take.
func decodeCases() []struct {
	name string
	body []byte
	gate float64
} {
	return []struct {
		name string
		body []byte
		gate float64
	}{
		{"1KB", chatOf(700, 0), 0.6},
		{"1KBTwoTools", chatOf(700, 2), 0.9},
		{"200KB", chatOf(200<<10, 0), 0.25},
		{"2MBImage", imageOf(2 << 20), 0.1},
	}
}

// chatOf returns a streaming chat request with size bytes of text in up to twenty
// messages.
func chatOf(size, tools int) []byte {
	type object = map[string]any
	const prose = "The quick brown fox jumps over the lazy dog; \"quoted\" words, numbers like 12.5 and a line end.\n"
	text := strings.Repeat(prose, size/len(prose)+1)[:size]
	var messages []object
	for len(text) > 0 {
		n := min(len(text), max(200, size/20))
		messages = append(messages, object{"role": "user", "content": text[:n]})
		text = text[n:]
	}
	body := object{"model": "gpt-4o", "messages": messages, "temperature": 0.2, "max_tokens": 400, "stream": true, "user": "u-1"}
	var list []object
	for range tools {
		list = append(list, object{"type": "function", "function": object{
			"name": "search_files", "description": "Searches files below a folder for a pattern.",
			"parameters": object{"type": "object", "properties": object{
				"path": object{"type": "string", "description": "The folder"}, "pattern": object{"type": "string"},
			}, "required": []string{"path"}},
		}})
	}
	if list != nil {
		body["tools"] = list
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return encoded
}

// imageOf returns a chat request that holds an image of about size bytes.
func imageOf(size int) []byte {
	image := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0x89, 'P', 1, 0xfe}, size/16*3))
	return fmt.Appendf(nil, `{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"text","text":"what is it?"},`+
		`{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}]}]}`, image)
}

// decodeAndEstimate is what handleProxy does with a body before it queues it.
func decodeAndEstimate(e *tokens.Estimator, body []byte) (tokens.Estimate, error) {
	req, err := wire.Decode(wire.Chat, body)
	if err != nil {
		return tokens.Estimate{}, err
	}
	return e.Estimate(tokens.Key{Model: req.Model, Client: "c", Session: "s"}, tokensRequest(req)), nil
}

func sdkUnmarshal(body []byte) error {
	var params openai.ChatCompletionNewParams
	return json.Unmarshal(body, &params)
}

func BenchmarkDecode_withEstimate(b *testing.B) {
	for _, c := range decodeCases() {
		b.Run(c.name, func(b *testing.B) {
			e := tokens.New(tokens.Config{})
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decodeAndEstimate(e, c.body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecode_bySDK is what BenchmarkDecode_withEstimate is measured against.
func BenchmarkDecode_bySDK(b *testing.B) {
	for _, c := range decodeCases() {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				if err := sdkUnmarshal(c.body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecode_gate reports decode and estimate as a part of the SDK's own
// decoding, of the same body in the same run, beside the part promised. The two
// take turns, and CPU time of the whole process is compared, the collector's
// share in it: the SDK's garbage is part of its price.
func BenchmarkDecode_gate(b *testing.B) {
	for _, c := range decodeCases() {
		b.Run(c.name, func(b *testing.B) {
			e := tokens.New(tokens.Config{})
			batch := 1 + (1<<20)/len(c.body)
			var ours, theirs time.Duration
			for b.Loop() {
				start := cpuTime()
				for range batch {
					if _, err := decodeAndEstimate(e, c.body); err != nil {
						b.Fatal(err)
					}
				}
				runtime.GC()
				middle := cpuTime()
				for range batch {
					if err := sdkUnmarshal(c.body); err != nil {
						b.Fatal(err)
					}
				}
				runtime.GC()
				ours, theirs = ours+middle-start, theirs+cpuTime()-middle
			}
			b.ReportMetric(float64(ours)/float64(theirs), "ours/SDK")
			b.ReportMetric(c.gate, "promised")
		})
	}
}

// cpuTime is what this process has computed so far.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// TestDecode_EstimatesWhatItMeasures guards the benchmarks: bodies that were not
// understood would be fast.
func TestDecode_EstimatesWhatItMeasures(t *testing.T) {
	for _, c := range decodeCases() {
		got, err := decodeAndEstimate(tokens.New(tokens.Config{}), c.body)
		if err != nil {
			t.Fatal(err)
		}
		low, high := int64(len(c.body)/8), int64(len(c.body)/3)
		if c.name == "2MBImage" {
			low, high = 100, 5000 // an image costs by its size in pixels, not in bytes
		}
		if got.Input < low || got.Input > high {
			t.Errorf("%s: %d tokens of %d bytes, want %d to %d", c.name, got.Input, len(c.body), low, high)
		}
	}
}
