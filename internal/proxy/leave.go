package proxy

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
)

// The bounds of reading an answer on after its client has left (contract,
// DISCONNECT_POLICY).
const (
	drainTime  = 10 * time.Second
	drainBytes = 1 << 20
	drainShare = 10 // one in so many answers under way
)

// A life is how long the attempts of a request may go on. It ends with the client, or
// a while after it, and with the grace.
type life struct {
	ctx    context.Context // of the attempts: outlives the client by DISCONNECT_POLICY
	cancel context.CancelCauseFunc
	stop   []func() bool // of leave and of the end of the grace

	sent atomic.Bool // an attempt has been made: counted in inFlight
	left atomic.Bool // the client has gone

	mu      sync.Mutex  // leave may run beside end
	ended   bool        // nothing may be taken any more
	reading *time.Timer // an answer is read on, counted in drains
}

// leave is called once the client has gone. An answer under way is read on for
// a while to learn what it cost, within the bounds above.
func (x *exchange) leave() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.left.Swap(true) || x.ended {
		return
	}
	places := max(1, x.p.inFlight.Load()/drainShare)
	switch {
	case x.req.cfg.DisconnectPolicy == "cancel", !x.sent.Load(), !x.req.endpoint.TellsUsage():
		x.cancel(httpapi.ErrClientGone)
	case x.p.drains.Add(1) > places:
		x.p.drains.Add(-1)
		x.cancel(httpapi.ErrClientGone)
	default:
		x.reading = time.AfterFunc(drainTime, func() { x.cancel(httpapi.ErrClientGone) })
	}
}

// settleDrain gives back what leave took, and lets it take no more.
func (x *exchange) settleDrain() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
	if x.reading != nil {
		x.reading.Stop()
		x.p.drains.Add(-1)
	}
}

func (x *exchange) clientGone() bool { return x.left.Load() || x.req.r.Context().Err() != nil }
