package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// TestResources_Memory keeps all at once, in a cgroup of 256 MiB, what can fill a
// memory: answers whose last byte is late, streams in the middle of giant frames, large
// bodies that wait for their answers, and gzip bombs that come down. Nothing is killed,
// no answer is cut, each has its row; who finds no room is told so.
func TestResources_Memory(t *testing.T) {
	cgroup := measured(t, "CGROUP")
	load := newMemoryLoad()
	base := sidecartest.Scripted(t, load.serve)
	p := confined(cgroup).Child(t, base, sidecartest.SQLite(t)...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	var clients sync.WaitGroup
	served, full := map[string]*atomic.Int64{}, map[string]*atomic.Int64{}
	transport := &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true, ExpectContinueTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	for _, kind := range load.kinds {
		served[kind.name], full[kind.name] = new(atomic.Int64), new(atomic.Int64)
		if kind.least < int64(kind.many) {
			load.sure.Wait() // these take what is left, and would leave nothing to the others
		}
		for range kind.many {
			clients.Go(func() {
				code, sum, err := kind.ask(ctx, transport, p.URL)
				switch {
				case err == nil && code == http.StatusOK && sum == kind.sum:
					served[kind.name].Add(1)
				case err == nil && code == http.StatusServiceUnavailable:
					full[kind.name].Add(1)
					load.reached(kind) // it will never be at the provider
				default:
					t.Errorf("%s: %d, %v, the right bytes: %v", kind.name, code, err, sum == kind.sum)
					cancel()
				}
			})
		}
	}
	go func() {
		load.half.Wait() // everything that can be held is held
		close(load.rest)
	}()
	clients.Wait()
	survived(t, cgroup)
	if t.Failed() {
		return
	}

	status := sidecartest.At(t, p.URL).Status()
	for _, kind := range load.kinds {
		n, s := served[kind.name].Load(), status[kind.name]
		t.Logf("%d %s: %d served, %d refused", kind.many, kind.name, n, full[kind.name].Load())
		if n < kind.least || s.RequestCount != n {
			t.Errorf("%s: %d served, at least %d expected; the ledger has %d", kind.name, n, kind.least, s.RequestCount)
		}
		if kind.gzip == nil && (s.PromptTokens != 7*n || s.CompletionTokens != 3*n) {
			t.Errorf("%s: the usage of %d answers is %+v", kind.name, n, s)
		}
	}
	var queue struct {
		Memory struct{ Limit, Held, Peak int64 }
	}
	if err := json.Unmarshal([]byte(sidecartest.Send(t, "GET", p.URL+"/queue/status", "").Body), &queue); err != nil {
		t.Fatal(err)
	}
	t.Logf("peak of the cgroup %s bytes; of the account %d of %d", peakOf(cgroup), queue.Memory.Peak, queue.Memory.Limit)
	if m := queue.Memory; m.Held != 0 || m.Limit != 64<<20 || m.Peak < m.Limit/2 || m.Peak > m.Limit*5/4 {
		t.Errorf("the account says %+v", m)
	}
	if n := p.Series(`llm_queue_proxy_held_bytes_short_total{kind="answers"}`); n == 0 {
		t.Error("there was room for all answers: the test held nothing")
	}
	if a := sidecartest.Send(t, "POST", p.URL+"/v1/session/after/chat/completions", strings.Replace(sidecartest.Chat, "gpt-4o", "bombs", 1)); a.StatusCode != 200 {
		t.Errorf("the next request: %d", a.StatusCode)
	}
}

// TestResources_Crowd sends more small requests than fit a cgroup of 256 MiB. Those that
// do not fit are told so; the others wait on.
func TestResources_Crowd(t *testing.T) {
	cgroup := measured(t, "CGROUP")
	const crowd, fits = 7000, (128 << 20) / (24 << 10)
	_, base := sidecartest.Simulated(t, provider.Config{TTFT: time.Hour})
	p := confined(cgroup).Child(t, base, "MAX_CONCURRENT_REQUESTS", "1", "QUEUE_MAX_WAIT", "1h", "DISCONNECT_POLICY", "cancel")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	defer transport.CloseIdleConnections()
	var clients sync.WaitGroup
	var full, broken atomic.Int64
	for i := range crowd {
		clients.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("%s/v1/session/s-%d/chat/completions", p.URL, i%100), strings.NewReader(sidecartest.Chat))
			resp, err := transport.RoundTrip(req)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				broken.Add(1)
				return
			}
			defer resp.Body.Close()
			if text, _ := io.ReadAll(resp.Body); strings.Contains(string(text), `"queue_full"`) {
				full.Add(1)
			}
		})
	}
	p.Until("each waits or was refused", func() bool {
		return p.Series("llm_queue_proxy_queue_depth")+float64(1+full.Load()+broken.Load()) >= crowd
	})
	waiting := p.Series("llm_queue_proxy_queue_depth")
	t.Logf("%.0f wait, %d were refused; %d bytes resident", waiting, full.Load(), p.Resident())
	if waiting < fits*9/10 || waiting > fits || broken.Load() > 0 {
		t.Errorf("%.0f wait, %d broken", waiting, broken.Load())
	}
	survived(t, cgroup)
	leave()
	clients.Wait()
	p.Until("nothing is left", func() bool { return p.Series("llm_queue_proxy_overhead_bytes") == 0 })
}

// A memoryLoad is a provider, and what is asked of it.
type memoryLoad struct {
	kinds []*memoryKind
	half  sync.WaitGroup // requests that have not got what they get before rest
	sure  sync.WaitGroup // of them, those of kinds that all have to be served
	rest  chan struct{}  // closed when the answers' second parts may come
}

// A memoryKind is requests of one kind: the provider sends begin, waits, and sends end.
type memoryKind struct {
	name       string // also of model and session
	many       int
	least      int64  // that have to be served
	body       string // of the request
	kind       string // Content-Type of the answer
	begin, end string
	gzip       []byte // in place of both: coded
	sum        [sha256.Size]byte
}

func newMemoryLoad() *memoryLoad {
	const usage = `"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}`
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write([]byte(`{"x":"`))
	for range 64 {
		_, _ = z.Write(bytes.Repeat([]byte("x"), 1<<20))
	}
	_, _ = z.Write([]byte(`",` + usage + `}`))
	_ = z.Close()
	body := func(model, more, text string) string {
		return fmt.Sprintf(`{"model":%q%s,"messages":[{"role":"user","content":%q}]}`, model, more, text)
	}
	const stream = `,"stream":true`
	usageChunk := "data: {\"choices\":[]," + usage + "}\n\n"
	load := &memoryLoad{rest: make(chan struct{}), kinds: []*memoryKind{
		{
			name: "answers", many: 40, least: 40, body: body("answers", "", "x"), kind: "application/json",
			begin: `{"x":"` + strings.Repeat("x", 7_800_000) + `",` + usage, end: "}",
		},
		{
			name: "frames", many: 300, least: 300, body: body("frames", stream+`,"stream_options":{"include_usage":true}`, "x"), kind: "text/event-stream",
			begin: `data: {"choices":[{"delta":{"content":"` + strings.Repeat("x", 700_000), end: "\"}}]}\n\n" + usageChunk + "data: [DONE]\n\n",
		},
		{ // each a little more than a relay's buffer, and less than what is held of a stream
			name: "events", many: 300, least: 300, body: body("events", stream+`,"stream_options":{"include_usage":true}`, "x"), kind: "text/event-stream",
			begin: `data: {"choices":[{"delta":{"content":"` + strings.Repeat("x", 50_000), end: "\"}}]}\n\n" + usageChunk + "data: [DONE]\n\n",
		},
		{name: "bombs", many: 40, least: 40, body: body("bombs", "", "x"), kind: "application/json", gzip: bomb.Bytes()},
		{ // our splice is in each
			name: "bodies", many: 60, least: 5, body: body("bodies", stream, strings.Repeat("lorem ", 1_000_000)), kind: "text/event-stream",
			end: "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n" + "data: [DONE]\n\n",
		},
	}}
	for _, k := range load.kinds {
		load.half.Add(k.many)
		if k.least == int64(k.many) {
			load.sure.Add(k.many)
		}
		k.sum = sha256.Sum256([]byte(k.begin + k.end))
		if k.gzip != nil {
			k.sum = sha256.Sum256(k.gzip)
		}
	}
	// The usage chunk that the splice asks for is taken out again.
	spliced := load.kinds[len(load.kinds)-1]
	spliced.end = strings.Replace(spliced.end, "data: [DONE]", usageChunk+"data: [DONE]", 1)
	return load
}

// reached says that one more request of k has got what it gets before rest.
func (l *memoryLoad) reached(k *memoryKind) {
	l.half.Done()
	if k.least == int64(k.many) {
		l.sure.Done()
	}
}

func (l *memoryLoad) serve(w http.ResponseWriter, r *http.Request) {
	head := make([]byte, 64)
	n, _ := io.ReadFull(r.Body, head)
	_, _ = io.Copy(io.Discard, r.Body)
	for _, k := range l.kinds {
		if !bytes.Contains(head[:n], []byte(k.name)) {
			continue
		}
		w.Header().Set("Content-Type", k.kind)
		switch {
		case k.gzip != nil:
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(k.gzip[:len(k.gzip)-1])
		case k.begin != "":
			_, _ = io.WriteString(w, k.begin)
		}
		if k.begin != "" || k.gzip != nil {
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-l.rest: // later ones are served at once
		default:
			l.reached(k)
			select {
			case <-l.rest:
			case <-r.Context().Done():
				return
			}
		}
		if k.gzip != nil {
			_, _ = w.Write(k.gzip[len(k.gzip)-1:])
			return
		}
		_, _ = io.WriteString(w, k.end)
		return
	}
}

// ask sends one request, and reads the answer at a pace of its own.
func (k *memoryKind) ask(ctx context.Context, transport *http.Transport, url string) (status int, sum [sha256.Size]byte, err error) {
	req, _ := http.NewRequestWithContext(ctx, "POST", url+"/v1/session/"+k.name+"/chat/completions", strings.NewReader(k.body))
	req.Header.Set("Expect", "100-continue") // so that a refusal is read before the body is sent
	req.Header.Set("Content-Type", "application/json")
	if k.gzip != nil {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, sum, err
	}
	defer resp.Body.Close()
	h := sha256.New()
	_, err = io.Copy(h, resp.Body)
	return resp.StatusCode, [sha256.Size]byte(h.Sum(nil)), err
}
