package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// endless is a body of one line without an end.
type endless struct{ left int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := int(min(e.left, int64(len(p))))
	for i := range p[:n] {
		p[i] = 'x'
	}
	e.left -= int64(n)
	return n, nil
}

// nobody takes an answer and keeps nothing of it.
type nobody struct {
	header http.Header
	bytes  int64
}

func (n *nobody) Header() http.Header              { return n.header }
func (n *nobody) WriteHeader(int)                  {}
func (n *nobody) Write(p []byte) (int, error)      { n.bytes += int64(len(p)); return len(p), nil }
func (n *nobody) FlushError() error                { return nil }
func (n *nobody) SetWriteDeadline(time.Time) error { return nil }

// TestRelay_EndlessLineTakesNoMemory relays 1 GB without a newline; in short mode an eighth of it.
func TestRelay_EndlessLineTakesNoMemory(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() {
		size /= 8
	}
	for name, start := range map[string]string{"a stream": `data: {"x":"`, "a JSON answer": `{"x":"`, "a text": "x"} {
		t.Run(name, func(t *testing.T) {
			p := made(t)
			w := &nobody{header: http.Header{}}
			x := p.begin(w, httptest.NewRequestWithContext(t.Context(), "POST", "/v1/chat/completions", nil), session.Identity{}, httpapi.Caller{Name: "c"})
			defer func() { x.end(nil) }()
			x.req.endpoint, x.req.decoded = wire.Chat, &wire.Request{Endpoint: wire.Chat, Stream: true}
			x.req.await()
			lease, err := p.limits.Acquire(t.Context(), p.limitRequest(x))
			if err != nil {
				t.Fatal(err)
			}
			defer lease.Release()
			x.attempt(lease)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			resp := &http.Response{
				StatusCode: 200, Header: http.Header{}, TransferEncoding: []string{"chunked"}, ContentLength: -1,
				Body: io.NopCloser(io.MultiReader(strings.NewReader(start), &endless{size})),
			}
			if back, err := p.open(x, resp); back != nil || err != nil {
				t.Fatal(err)
			}
			err = p.relay(x, resp)
			runtime.ReadMemStats(&after)
			// A JSON answer is held up to 8 MiB, which takes twice that to grow.
			if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 64<<20 {
				t.Errorf("%d MB were allocated for it", allocated>>20)
			}
			// The stream is cut without its last line's end, which never came.
			if (err != nil) != (name == "a stream") || w.bytes+int64(len(x.ans.tail)) != size+int64(len(start)) || x.truncated != (name != "a text") {
				t.Errorf("%d bytes passed, %v", w.bytes, err)
			}
		})
	}
}
