package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

const (
	// idleTimeout is how long an answer may pause between two bytes. Reasoning
	// models are silent for minutes; a connection that is silent for longer is
	// taken for dead.
	idleTimeout = 10 * time.Minute
	// endPatience is how long the end of the body may take after the answer
	// said it was complete.
	endPatience = 2 * time.Second
)

var errStalled = errors.New("the answer stalled")

var errEnded = errors.New("the answer is complete, its connection stays open")

// Events are small and their streams long: a slow stream holds a small buffer,
// and takes a large one when it fills that.
var (
	relayBuffers = sync.Pool{New: func() any { b := make([]byte, relayBytes); return &b }}
	eventBuffers = sync.Pool{New: func() any { b := make([]byte, 1<<10); return &b }}
)

const relayBytes = 32 << 10

// A passage is one answer on its way from the provider to the client. The handler
// reads it step by step. While a step waits for bytes, and only then, timers may send
// what is not to wait with it: the handler has the turn from newPassage to close.
type passage struct {
	x    *exchange
	resp *http.Response
	over bool // the answer has ended

	buffers   *sync.Pool
	buffer    *[]byte
	came      int64 // bytes so far
	afterLeft int   // of them, since the client left

	idle  *time.Timer
	ended *time.Timer // since the answer is complete
	head  *time.Timer // until the headers leave without an event
	rest  *time.Timer // until a JSON value leaves without an end

	turn   chan struct{} // has room for who may act: a lock that may be waited for in virtual time
	closed bool
	steps  int
}

func newPassage(x *exchange, resp *http.Response) *passage {
	g := &passage{x: x, resp: resp, buffers: &relayBuffers, turn: make(chan struct{}, 1)}
	if x.ans.events || !x.held.buffers.TryGrow(relayBytes) {
		g.buffers = &eventBuffers
	}
	g.buffer = g.buffers.Get().(*[]byte)
	g.turn <- struct{}{}
	g.idle = time.AfterFunc(idleTimeout, func() { x.cancel(errStalled) })
	if x.watch != nil && x.ans.events && !x.ans.headerOut {
		g.head = time.AfterFunc(headPatience, g.sendHead)
	}
	return g
}

// close stops the timers.
func (g *passage) close() {
	defer func() { <-g.turn }()
	g.closed = true
	for _, t := range []*time.Timer{g.idle, g.ended, g.head, g.rest} {
		if t != nil {
			t.Stop()
		}
	}
	g.buffers.Put(g.buffer)
	g.x.held.buffers.Release()
}

// open makes steps until something of the answer has come. back is the way back to the
// queue, if a rate limit came in its place: nothing has left that could not be followed
// by another answer.
func (g *passage) open() (back func(context.Context) error, err error) {
	for !g.over && !g.x.watch.Opened() && back == nil && err == nil {
		back, err = g.read(true)
	}
	return back, err
}

// step reads once, and hands on what may leave.
func (g *passage) step() error {
	_, err := g.read(false)
	return err
}

func (g *passage) read(opening bool) (back func(context.Context) error, err error) {
	x := g.x
	<-g.turn
	n, readErr := g.resp.Body.Read(*g.buffer)
	g.turn <- struct{}{}
	g.idle.Reset(idleTimeout)
	g.steps++
	g.came += int64(n)
	forward := (*g.buffer)[:n]
	if x.watch != nil && n > 0 {
		over := x.watch.Terminal()
		forward = x.watch.Push(forward)
		if over && x.watch.Terminal() && len(forward) > 0 {
			// So much follows the end that it cannot be held: the record comes first.
			x.usage = x.reported()
			x.book(nil)
		}
		if back := g.fault(opening); back != nil {
			return back, nil
		}
	}
	if errors.Is(readErr, io.EOF) || g.came == g.resp.ContentLength {
		if err := g.short(forward); err != nil {
			return nil, err
		}
	}
	if len(forward) > 0 {
		g.send(forward)
	}
	if x.left.Load() {
		if g.afterLeft += n; g.afterLeft > drainBytes {
			// The cancel takes a moment to reach the connection: nothing more is read.
			x.cancel(httpapi.ErrClientGone)
			x.truncated = true
			return nil, httpapi.ErrClientGone
		}
	}
	g.await()
	switch {
	case readErr == nil:
		g.fit(n)
	case errors.Is(readErr, io.EOF), g.ended != nil:
		// Some servers keep the connection open behind the end of the answer.
		g.over = true
	default:
		x.truncated = true
		return nil, x.refused(truncation(x.ctx, readErr))
	}
	return nil, nil
}

// fit takes a large buffer once the small one, with n bytes in it, was full, and gives
// it back where memory is short.
func (g *passage) fit(n int) {
	small, short := g.buffers == &eventBuffers, g.x.watch != nil && g.x.watch.Short()
	switch {
	case small && !short && n == len(*g.buffer) && g.x.held.buffers.TryGrow(relayBytes):
		g.buffers.Put(g.buffer)
		g.buffers = &relayBuffers
	case !small && short:
		g.buffers.Put(g.buffer)
		g.buffers = &eventBuffers
		g.x.held.buffers.Release()
	default:
		return
	}
	g.buffer = g.buffers.Get().(*[]byte)
}

// short says that an answer which ends here has broken off, and sends what is left of
// it. If a length was declared, its last byte stays: a client that has them all sees
// no end that is broken. JSON that breaks off in a frame that is whole is handed on as
// it came.
func (g *passage) short(last []byte) error {
	x := g.x
	if x.watch == nil || !x.watch.Truncated() {
		return nil
	}
	x.truncated = true
	if !x.watch.Events() && !unframed(g.resp) {
		return nil
	}
	if len(last) > 0 && x.ans.length {
		last = last[:len(last)-1]
	}
	if len(last) > 0 && x.ans.headerOut {
		g.send(last)
	}
	return x.refused(truncation(x.ctx, errEndedEarly))
}

// await sets the timers for what may not come behind an answer that is complete.
func (g *passage) await() {
	w := g.x.watch
	switch {
	case w == nil || !w.Terminal():
	case w.Events():
		if g.ended == nil && w.Complete() {
			g.ended = time.AfterFunc(endPatience, func() { g.x.cancel(errEnded) })
		}
	default:
		step := g.steps
		if g.rest != nil {
			g.rest.Stop()
		}
		g.rest = time.AfterFunc(restPatience, func() { g.sendRest(step) })
	}
}

// send hands bytes on to a client that is there.
func (g *passage) send(p []byte) {
	if g.x.left.Load() {
		return
	}
	g.x.writeHeader(g.resp)
	if err := g.x.ans.write(p, true); err != nil {
		g.x.leave()
	}
}

// sendHead lets the headers go without an event.
func (g *passage) sendHead() {
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	if g.closed || g.over || g.x.ans.headerOut || g.x.left.Load() {
		return
	}
	g.x.writeHeader(g.resp)
	_ = http.NewResponseController(g.x.ans.w).Flush()
}

// sendRest lets a JSON value go whose connection does not end. What follows, if
// anything does, will pass.
func (g *passage) sendRest(step int) {
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	if g.closed || g.over || g.steps != step {
		return
	}
	x := g.x
	rest, whole := x.watch.Quiet()
	if whole {
		x.usage = x.reported()
		x.book(nil)
		rest = x.watch.Close()
	}
	if len(rest) > 0 {
		g.send(rest)
	}
}

// fault takes in an error that came inside the answer. One that is a rate limit and
// came first is as good as a 429, and the way back to the queue is returned; a later
// one pauses others only.
func (g *passage) fault(opening bool) (back func(context.Context) error) {
	x := g.x
	body, first := x.watch.Fault()
	if body == nil {
		return nil
	}
	kind, signal, limited := wire.ParseThrottleInside(x.p.upstream.Host(), g.resp.Header, body, time.Now())
	if !limited {
		return nil
	}
	back, _ = x.p.throttled(x, kind, signal, x.p.upstream.KeyOf(g.resp), func() bool {
		return opening && first && !x.left.Load() && x.ans.replaceable()
	})
	return back
}
