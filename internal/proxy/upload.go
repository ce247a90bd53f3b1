package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
)

// takePatience is how long a refused upload's rest is waited for. A client that
// sends on only when it has an answer gets the refusal.
const takePatience = 5 * time.Second

var errTaken = errors.New("the upload was refused, and is kept to be sent again")

// A patientBody holds a body that streams through to the rate of bodies. Only the
// time spent waiting for the client counts: a slow provider is not its fault. A small
// one is kept as it passes, so that it can be sent again. An attempt may read beside
// everything else.
type patientBody struct {
	rc   *http.ResponseController
	body io.Reader
	over atomic.Bool // the end was read

	reading chan struct{} // has room for who reads: an attempt, or take
	read    int
	waited  time.Duration

	mu     sync.Mutex
	closed bool
	taken  bool      // no attempt may read any more
	limit  time.Time // of all reads; zero: none
	most   int64     // bytes that are kept; 0: none
	kept   []byte
	memory memory.Hold // of kept
}

func newPatientBody(rc *http.ResponseController, body io.Reader) *patientBody {
	return &patientBody{rc: rc, body: body, reading: make(chan struct{}, 1)}
}

// keep lets bytes be kept, as long as they are no more than most.
func (b *patientBody) keep(most int64, hold memory.Hold) { b.most, b.memory = most, hold }

func (b *patientBody) Read(p []byte) (int, error) {
	b.reading <- struct{}{}
	defer func() { <-b.reading }()
	b.mu.Lock()
	taken := b.taken
	b.mu.Unlock()
	if taken {
		return 0, errTaken
	}
	return b.next(p)
}

func (b *patientBody) next(p []byte) (int, error) {
	started := time.Now()
	b.until(bodyDeadline(started.Add(-b.waited), b.read))
	n, err := b.body.Read(p)
	b.note(p[:n])
	b.read += n
	b.waited += time.Since(started)
	if errors.Is(err, io.EOF) {
		b.over.Store(true)
		// Behind the body the server waits for the client to leave, for as long as it
		// takes.
		b.until(time.Time{})
	}
	return n, err
}

func (b *patientBody) note(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch n := int64(len(b.kept) + len(p)); {
	case b.most == 0:
	case n > b.most || !b.memory.TryResize(n):
		b.drop()
	default:
		b.kept = append(b.kept, p...)
	}
}

// drop keeps nothing any more. The caller has mu.
func (b *patientBody) drop() {
	b.most, b.kept = 0, nil
	b.memory.Release()
}

// forget is called when nothing can be sent again.
func (b *patientBody) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop()
}

// take takes the body away from the attempt that was refused, reads what is left of
// it, and returns the whole. nil: it is too large, or its client does not send on.
func (b *patientBody) take() *heldBody {
	b.mu.Lock()
	if b.most == 0 {
		b.mu.Unlock()
		return nil
	}
	b.taken, b.limit = true, time.Now().Add(takePatience)
	b.mu.Unlock()
	if !b.over.Load() {
		b.until(b.limit) // the attempt may be reading
	}
	b.reading <- struct{}{}
	defer func() { <-b.reading }()
	for p := make([]byte, 4<<10); !b.over.Load(); {
		if _, err := b.next(p); err != nil && !errors.Is(err, io.EOF) {
			return nil
		}
		if !b.keeps() {
			return nil
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.most == 0 {
		return nil
	}
	held := &heldBody{bytes: b.kept, memory: b.memory}
	b.most, b.kept, b.memory = 0, nil, memory.Hold{}
	return held
}

func (b *patientBody) keeps() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.most > 0
}

// until bounds the reads from the client.
func (b *patientBody) until(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.limit.IsZero() && t.After(b.limit) {
		t = b.limit
	}
	if !b.closed {
		_ = b.rc.SetReadDeadline(t)
	}
}

// close leaves the connection to the server: the transport may read on behind
// the answer's end, and the deadline is then another's.
func (b *patientBody) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.drop()
}
