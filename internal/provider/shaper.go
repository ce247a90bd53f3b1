package provider

import (
	"compress/gzip"
	"context"
	"net"
	"net/http"
	"time"
)

// shaper writes an answer's body and does to it what the fault says.
type shaper struct {
	http.ResponseWriter
	ctx   context.Context //nolint:containedctx // lives as long as its request
	rc    *http.ResponseController
	fault Fault
	sent  int64
	zip   *gzip.Writer
	ended bool
	err   error // first error of writing
}

func newShaper(w http.ResponseWriter, r *http.Request, f Fault) *shaper {
	s := &shaper{ResponseWriter: w, ctx: r.Context(), rc: http.NewResponseController(w), fault: f}
	if f.gzip {
		s.zip = gzip.NewWriter(body{s})
		w.Header().Set("Content-Encoding", "gzip")
	}
	return s
}

// Write implements io.Writer. It does not return when the fault ends the connection.
func (s *shaper) Write(p []byte) (int, error) {
	if s.zip != nil {
		return s.zip.Write(p)
	}
	return body{s}.Write(p)
}

// flush sends what was written.
func (s *shaper) flush() {
	if s.zip != nil {
		_ = s.zip.Flush()
	}
	s.keep(s.rc.Flush())
}

// finish ends the body.
func (s *shaper) finish() {
	if s.zip != nil {
		s.keep(s.zip.Close())
	}
	s.keep(s.rc.Flush())
}

func (s *shaper) keep(err error) {
	if s.err == nil {
		s.err = err
	}
}

// body is the wire below the compression: where the bytes are counted.
type body struct{ *shaper }

// Write implements io.Writer.
func (b body) Write(p []byte) (int, error) {
	s, n := b.shaper, len(p)
	if s.ended {
		return n, nil
	}
	if s.fault.action != actionNone && s.sent <= s.fault.at && s.sent+int64(n) > s.fault.at {
		head := p[:s.fault.at-s.sent]
		_, err := s.ResponseWriter.Write(head)
		s.keep(err)
		s.keep(s.rc.Flush())
		s.sent += int64(len(head))
		p = p[len(head):]
		s.act()
		if s.ended {
			return n, nil
		}
	}
	m, err := s.ResponseWriter.Write(p)
	s.sent += int64(m)
	s.keep(err)
	return n, err
}

// act is the fault's moment.
func (s *shaper) act() {
	switch s.fault.action {
	case actionCut:
		panic(http.ErrAbortHandler)
	case actionReset:
		reset(s.rc)
	case actionEnd:
		s.ended = true
	case actionStall:
		s.fault.action = actionNone
		s.keep(sleep(s.ctx, s.fault.pause))
	}
}

// reset sends RST instead of FIN. Over HTTP/2, where there is no connection to
// hijack, the stream is reset.
func reset(rc *http.ResponseController) {
	conn, _, err := rc.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	abort(conn)
	panic(http.ErrAbortHandler)
}

// abort closes conn with RST where it is a TCP connection, or one that plays it.
func abort(conn net.Conn) {
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// sleep waits for d, negative meaning for ever, or for ctx's end, which it returns.
func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	if d < 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
