package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
)

// halfPatience is how long the other half of a tunnel may be silent once one
// side has said that it sends no more.
const halfPatience = 30 * time.Second

// refusedHandshake reports whether x wanted to become a websocket and has not: then
// nothing was done for it, and its place is given back. A nil resp is no answer.
func (x *exchange) refusedHandshake(resp *http.Response) bool {
	return x.up.Websocket && (resp == nil || resp.StatusCode != http.StatusSwitchingProtocols)
}

// tunnel joins the client's connection to the provider's after a 101, until
// both have ended. It holds its place all that while. What passes is not looked
// into, so its usage stays unknown.
func (p *Proxy) tunnel(x *exchange, resp *http.Response) error {
	provider, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		return x.refused(fmt.Errorf("switch protocols: the provider's connection cannot be written to"))
	}
	client, buffered, err := http.NewResponseController(x.ans.w).Hijack()
	if err != nil {
		return x.refused(fmt.Errorf("switch protocols: %w", err))
	}
	t := &tunnel{x: x, client: client, provider: provider}
	t.idle = time.AfterFunc(idleTimeout, func() { x.cancel(errStalled) })
	defer t.idle.Stop()
	// Closing is what ends reads and writes under way.
	defer context.AfterFunc(x.ctx, t.close)()
	defer t.close()

	x.ans.headerOut = true
	header := http.Header{}
	x.answerHeader(header, resp)
	header.Set("Connection", "Upgrade")
	header.Set("Upgrade", "websocket")
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = header.Write(&head)
	head.WriteString("\r\n")
	_ = client.SetDeadline(time.Time{})
	if err := t.toClient(head.Bytes()); err != nil {
		return httpapi.ErrClientGone
	}

	var both sync.WaitGroup
	both.Go(func() {
		t.pump(provider, t.toClient, client, httpapi.ErrClientGone, errProviderGone)
	})
	both.Go(func() {
		// What the client sent behind its handshake is in the server's buffer. Read
		// through that, the connection's end would cancel the request's context.
		early := io.LimitReader(buffered, int64(buffered.Reader.Buffered()))
		t.pump(io.MultiReader(early, client), t.toProvider, provider, errProviderGone, httpapi.ErrClientGone)
	})
	both.Wait()
	switch cause := context.Cause(x.ctx); {
	case cause == nil, errors.Is(cause, errUntold):
		return nil
	case errors.Is(cause, httpapi.ErrClientGone):
		x.left.Store(true)
		return httpapi.ErrClientGone
	default:
		return httpapi.Abort(cause)
	}
}

var (
	errProviderGone = errors.New("the provider's connection broke")
	errUntold       = errors.New("the end cannot be passed on but by closing")
)

// A tunnel is an exchange whose connections have become a websocket.
type tunnel struct {
	x        *exchange
	client   net.Conn
	provider io.ReadWriteCloser
	idle     *time.Timer

	mu   sync.Mutex
	half bool // one direction has ended
}

func (t *tunnel) close() {
	_ = t.client.Close()
	_ = t.provider.Close()
}

// active notes that a byte has moved.
func (t *tunnel) active() {
	t.mu.Lock()
	defer t.mu.Unlock()
	patience := idleTimeout
	if t.half {
		patience = halfPatience
	}
	t.idle.Reset(patience)
}

func (t *tunnel) toClient(p []byte) error {
	_ = t.client.SetWriteDeadline(time.Now().Add(httpapi.SlowReader))
	_, err := t.client.Write(p)
	return err
}

func (t *tunnel) toProvider(p []byte) error {
	_, err := t.provider.Write(p)
	return err
}

// pump moves one direction. A sound end is passed on as such; a broken one ends
// the tunnel, for the reason given: unwritten or unread.
func (t *tunnel) pump(src io.Reader, write func([]byte) error, dst any, unwritten, unread error) {
	// Most tunnels are idle most of the time: a large buffer is for those that fill
	// the small one.
	hold := t.x.p.memory.Hold(memory.Answers)
	defer hold.Release()
	buffers := &eventBuffers
	buffer := buffers.Get().(*[]byte)
	defer func() { buffers.Put(buffer) }()
	for {
		n, err := src.Read(*buffer)
		t.active()
		if n > 0 {
			if failed := write((*buffer)[:n]); failed != nil {
				t.x.cancel(unwritten)
				return
			}
			t.active()
		}
		switch {
		case err == nil:
			if n == len(*buffer) && buffers == &eventBuffers && hold.TryGrow(relayBytes) {
				buffers.Put(buffer)
				buffers = &relayBuffers
				buffer = buffers.Get().(*[]byte)
			}
			continue
		case !errors.Is(err, io.EOF):
			t.x.cancel(unread)
			return
		}
		t.mu.Lock()
		t.half = true
		t.mu.Unlock()
		t.active()
		half, ok := dst.(interface{ CloseWrite() error })
		if !ok || half.CloseWrite() != nil {
			t.x.cancel(errUntold)
		}
		return
	}
}
