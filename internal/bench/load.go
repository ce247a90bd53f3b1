//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A row is one figure of the table.
type row struct {
	name, unit string
	more       bool // more is better
}

// The rows of the table, in its order.
var (
	latency   = row{"p50, one connection, 600 B prompt", "ms", false}
	cpuSmall  = row{"CPU a request, 1 KB prompt", "µs", false}
	cpuMiddle = row{"CPU a request, 20 KB prompt", "µs", false}
	cpuLarge  = row{"CPU a request, 200 KB prompt", "µs", false}
	rate      = row{"requests a second, 64 connections", "1/s", true}
	cpuRate   = row{"CPU a request, 64 connections", "µs", false}
	firstByte = row{"first event of a stream, p50", "ms", false}
	cpuStream = row{fmt.Sprintf("CPU a stream of %d events", streamEvents), "µs", false}

	rows = []row{latency, cpuSmall, cpuMiddle, cpuLarge, rate, cpuRate, firstByte, cpuStream}
)

// results has each row's figure for each target, one for each round.
type results map[row]map[string][]float64

func (r results) add(what row, t *target, figure float64) {
	if r[what] == nil {
		r[what] = map[string][]float64{}
	}
	r[what][t.name] = append(r[what][t.name], figure)
}

// measure loads the targets, so many rounds after one that does not count.
func measure(ctx context.Context, targets []*target, rounds int, scale float64) (results, error) {
	out := results{}
	for round := range rounds + 1 {
		for i := range targets {
			t := targets[(i+round)%len(targets)]
			r, factor := out, scale
			if round == 0 {
				r, factor = results{}, scale/5
			}
			if err := r.measure(ctx, t, func(n int) int { return max(4, int(float64(n)*factor)) }); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	return out, nil
}

func (r results) measure(ctx context.Context, t *target, requests func(int) int) error {
	small := requestBody(600, false)
	took, _, err := t.load(ctx, small, 1, requests(1000))
	if err != nil {
		return err
	}
	r.add(latency, t, median(took)*1e3)
	for _, c := range []struct {
		row         row
		prompt, num int
	}{{cpuSmall, 1_000, 2000}, {cpuMiddle, 20_000, 1000}, {cpuLarge, 200_000, 200}} {
		n := requests(c.num)
		before := t.cpu()
		if _, _, err := t.load(ctx, requestBody(c.prompt, false), 1, n); err != nil {
			return err
		}
		r.add(c.row, t, float64((t.cpu()-before).Microseconds())/float64(n))
	}
	n := requests(6400)
	before := t.cpu()
	_, all, err := t.load(ctx, small, 64, n)
	if err != nil {
		return err
	}
	r.add(rate, t, float64(n)/all.Seconds())
	r.add(cpuRate, t, float64((t.cpu()-before).Microseconds())/float64(n))

	n = requests(500)
	before = t.cpu()
	first, _, err := t.load(ctx, requestBody(600, true), 1, n)
	if err != nil {
		return err
	}
	r.add(firstByte, t, median(first)*1e3)
	r.add(cpuStream, t, float64((t.cpu()-before).Microseconds())/float64(n))
	return nil
}

// load sends body n times over so many connections. took is how many seconds each request was without
// an answer: to its end, or to its first event if it is streamed.
func (t *target) load(ctx context.Context, body []byte, connections, n int) (took []float64, all time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	took = make([]float64, n)
	var next atomic.Int64
	var workers sync.WaitGroup
	started := time.Now()
	for range connections {
		workers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				seconds, err := t.ask(ctx, body, i)
				if err != nil {
					cancel(err)
				}
				took[i] = seconds
			}
		})
	}
	workers.Wait()
	return took, time.Since(started), context.Cause(ctx)
}

// ask makes one request and reads its answer to the end, which has to be whole.
func (t *target) ask(ctx context.Context, body []byte, i int) (seconds float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url+"/chat/completions", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer sk-bench")
	req.Header.Set("X-Session-Id", fmt.Sprintf("agent-%d", i%40))
	started := time.Now()
	resp, err := t.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var answer []byte
	stream := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")
	if stream {
		head := make([]byte, 512)
		got, err := resp.Body.Read(head)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		seconds = time.Since(started).Seconds()
		answer = head[:got]
	}
	rest, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if !stream {
		seconds = time.Since(started).Seconds()
	}
	answer = append(answer, rest...)
	if resp.StatusCode != http.StatusOK || stream && (bytes.Count(answer, []byte("data: ")) != streamEvents || !bytes.HasSuffix(answer, []byte("data: [DONE]\n\n"))) {
		return 0, fmt.Errorf("answered %d, %.200q", resp.StatusCode, answer)
	}
	t.sent.Add(1)
	return seconds, nil
}

// requestBody is a chat completion whose prompt has so many bytes.
func requestBody(prompt int, stream bool) []byte {
	const text = "The quick brown fox jumps over the lazy dog, and 12 of 30 agents wait for their answer (see §4.2); it costs $0.75 a day. "
	start := rand.IntN(len(text) / 2) // providers cache, and so might we
	content := strings.ToValidUTF8(strings.Repeat(text, prompt/len(text)+2)[start:start+prompt], "")
	request := map[string]any{
		"model": "gpt-4o-mini", "stream": stream, "max_tokens": 200,
		"messages": []map[string]string{{"role": "system", "content": "You are a careful assistant."}, {"role": "user", "content": content}},
	}
	if stream {
		request["stream_options"] = map[string]bool{"include_usage": true}
	}
	body, _ := json.Marshal(request)
	return body
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
