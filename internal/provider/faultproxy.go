package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Deed is what a FaultProxy does to a connection.
type Deed int

// The deeds. All but the last two happen once Damage.After bytes have passed.
const (
	Nothing   Deed = iota
	Cut            // close both sides with FIN
	Reset          // close the client's side with RST
	Hold           // let nothing more pass for Damage.For, zero: until either side closes
	HalfClose      // end the direction with FIN, leave the other one open
	Inject         // write Damage.Garbage, then go on
	Trickle        // pass the rest in pieces of Damage.Piece bytes, Damage.For apart

	GoAway       // speak HTTP/2 (without TLS) and answer the first request with GOAWAY, "not processed"
	RefuseStream // the same with RST_STREAM(REFUSED_STREAM)
)

// Damage is done to one connection. Bytes are counted on the wire, headers included.
type Damage struct {
	Deed    Deed
	After   int64 // bytes that pass before
	Request bool  // damage the client's bytes instead of the server's
	For     time.Duration
	Garbage []byte
	Piece   int
}

// FaultProxy passes TCP connections to a target and damages them as scripted. It is
// safe for concurrent use.
type FaultProxy struct {
	addr, target string
	ctx          context.Context //nolint:containedctx // the proxy's own life
	cancel       context.CancelFunc
	running      sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while down
	script   []Damage
	conns    map[net.Conn]struct{}
	accepted int
}

// NewFaultProxy starts a proxy to target (host:port) on a free loopback port. It runs until Close.
func NewFaultProxy(target string) (*FaultProxy, error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &FaultProxy{addr: "127.0.0.1:0", target: target, ctx: ctx, cancel: cancel, conns: map[net.Conn]struct{}{}}
	if err := p.Up(); err != nil {
		cancel()
		return nil, err
	}
	return p, nil
}

// Addr returns host:port of the proxy. It stays the same over Down and Up.
func (p *FaultProxy) Addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

// Script appends damages for the next connections, one each; later ones pass unharmed.
func (p *FaultProxy) Script(damages ...Damage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = append(p.script, damages...)
}

// Accepted returns how many connections there have been.
func (p *FaultProxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Up listens again after Down.
func (p *FaultProxy) Up() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(p.ctx, "tcp", p.addr)
	if err != nil {
		return fmt.Errorf("listen for the fault proxy: %w", err)
	}
	p.listener, p.addr = l, l.Addr().String()
	p.running.Go(func() { p.accept(l) })
	return nil
}

// Down refuses new connections; those that exist go on.
func (p *FaultProxy) Down() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		return nil
	}
	err := p.listener.Close()
	p.listener = nil
	return err
}

// Close ends the proxy and every connection, and waits for its goroutines.
func (p *FaultProxy) Close() error {
	err := p.Down()
	p.cancel()
	p.mu.Lock()
	for conn := range p.conns {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
	return err
}

func (p *FaultProxy) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed by Down
		}
		var d Damage
		p.mu.Lock()
		p.accepted++
		if len(p.script) > 0 {
			d, p.script = p.script[0], p.script[1:]
		}
		p.mu.Unlock()
		p.running.Go(func() { p.serve(conn, d) })
	}
}

// track registers conn for Close; it is false when the proxy is closed already.
func (p *FaultProxy) track(conn net.Conn) (untrack func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		_ = conn.Close()
		return nil, false
	}
	p.conns[conn] = struct{}{}
	return func() {
		_ = conn.Close()
		p.mu.Lock()
		delete(p.conns, conn)
		p.mu.Unlock()
	}, true
}

func (p *FaultProxy) serve(client net.Conn, d Damage) {
	untrack, ok := p.track(client)
	if !ok {
		return
	}
	defer untrack()
	if d.Deed == GoAway || d.Deed == RefuseStream {
		refuseHTTP2(client, d.Deed)
		return
	}
	server, err := (&net.Dialer{}).DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		return
	}
	untrackServer, ok := p.track(server)
	if !ok {
		return
	}
	defer untrackServer()

	up, down := Damage{}, d
	if d.Request {
		up, down = d, Damage{}
	}
	// A direction that holds its bytes does not read and so cannot see the other
	// side leave: the end of the undamaged direction ends its pauses.
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	l := &link{client: client, server: server, ctx: ctx}
	var both sync.WaitGroup
	both.Go(func() {
		l.pump(server, client, up)
		cancel()
	})
	both.Go(func() {
		l.pump(client, server, down)
		cancel()
	})
	both.Wait()
}

// link is one proxied connection.
type link struct {
	client, server net.Conn
	ctx            context.Context //nolint:containedctx // ends with either direction
}

// errDone ends a pump that has done its deed.
var errDone = errors.New("deed done")

// pump copies src to dst and does d. A sound end is passed on as a half-close, a
// broken one closes both sides.
func (l *link) pump(dst, src net.Conn, d Damage) {
	err := l.copy(dst, src, d)
	if err == nil || errors.Is(err, errDone) {
		if tcp, ok := dst.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		return
	}
	_ = dst.Close()
	_ = src.Close()
}

func (l *link) copy(dst, src net.Conn, d Damage) error {
	if d.Deed == Nothing {
		_, err := io.Copy(dst, src)
		return err
	}
	if d.After > 0 {
		if _, err := io.CopyN(dst, src, d.After); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
	switch d.Deed {
	case Cut:
		_ = l.server.Close()
		return l.client.Close()
	case Reset:
		abort(l.client)
		return l.server.Close()
	case HalfClose:
		return errDone
	case Hold:
		pause := d.For
		if pause == 0 {
			pause = -1
		}
		if err := sleep(l.ctx, pause); err != nil {
			return err
		}
	case Inject:
		if _, err := dst.Write(d.Garbage); err != nil {
			return err
		}
	case Trickle:
		return l.trickle(dst, src, d)
	}
	_, err := io.Copy(dst, src)
	return err
}

func (l *link) trickle(dst io.Writer, src io.Reader, d Damage) error {
	piece := make([]byte, max(1, d.Piece))
	for {
		n, err := src.Read(piece)
		if n > 0 {
			if _, err := dst.Write(piece[:n]); err != nil {
				return err
			}
			if err := sleep(l.ctx, d.For); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
