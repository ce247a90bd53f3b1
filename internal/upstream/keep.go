package upstream

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// Some servers (llama.cpp's is one) close a plain connection that has carried a stream
// without saying so. The next request would be written into it and lost, and it may not
// be sent again. Most keep it, and a connection for each stream is a waste. Which kind
// the provider is, one stream at a time finds out, over a connection that nobody else
// uses: if it is still open keepProof after the stream's end, it would have carried the
// next request. Until that is known, and with those that close, streams say that their
// connection ends with them.
const (
	keepProof = 250 * time.Millisecond
	keepDoubt = time.Second      // one that is closed so soon after a stream speaks against it
	keepAgain = 10 * time.Minute // then one that closes is tried anew
	// keepPlain is how long a plain connection is kept idle: model servers and their
	// frameworks often close theirs after five seconds.
	keepPlain = 4 * time.Second
)

// A habit is what a provider does with a plain connection after a stream.
type habit uint8

const (
	unknown habit = iota
	keeps
	closes
)

// A keeping is what is known of the provider's habit. It is safe for concurrent use;
// its zero value knows nothing.
type keeping struct {
	mu     sync.Mutex
	trying bool // a stream is finding out
	habit  habit
	until  time.Time // of closes
}

// A plan says what becomes of the connection of a stream.
type plan uint8

const (
	keepOpen   plan = iota
	closeAfter      // it ends with the stream, and the request says so
	findOut         // a trial watches it after the stream
)

func (k *keeping) plan(now time.Time) plan {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.habit == keeps:
		return keepOpen
	case k.trying || k.habit == closes && now.Before(k.until):
		return closeAfter
	}
	k.trying = true
	return findOut
}

// learn notes what was seen, and ends a trial.
func (k *keeping) learn(what habit) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trying, k.habit, k.until = false, what, time.Now().Add(keepAgain)
}

// A carrier is what one attempt is sent over.
type carrier struct {
	http.RoundTripper
	closing bool   // its connection ends with it, and it says so
	trial   *trial // nil: it is none
}

// A trial is a stream whose connection is watched after its end.
type trial struct {
	transport *http.Transport // of this one connection
	keeping   *keeping
	kept      atomic.Bool // the connection was sound at the end of the answer
}

// choose finds what an attempt is sent over, and adds to its hooks what watches it.
func (c *Client) choose(r Request, written *writes, hooks *httptrace.ClientTrace) carrier {
	over := carrier{RoundTripper: c.cfg.Transport}
	if !r.Events || c.cfg.Base.Scheme != "http" {
		return over
	}
	switch c.keeping.plan(time.Now()) {
	case closeAfter:
		over.closing = true
		return over
	case findOut:
		switch t := c.cfg.Transport.(type) {
		case *agingTransport:
			over.trial = &trial{transport: t.another(), keeping: &c.keeping}
		case *http.Transport:
			over.trial = &trial{transport: t.Clone(), keeping: &c.keeping}
		default: // nothing of its connections can be seen
			c.keeping.learn(closes)
			over.closing = true
			return over
		}
		over.RoundTripper = over.trial.transport
	}
	hooks.PutIdleConn = func(err error) {
		conn := written.connection()
		if err != nil || conn == nil {
			return
		}
		conn.stream.Store(&streamEnd{time.Now(), &c.keeping})
		if over.trial != nil {
			over.trial.kept.Store(true)
		}
	}
	return over
}

// answered notes what came of the attempt, over this connection. A trial judges once
// the answer's body is closed.
func (o carrier) answered(resp *http.Response, err error, conn *countedConn) {
	if conn != nil {
		conn.stream.Store(nil)
	}
	switch {
	case o.trial == nil:
	case err != nil || resp.StatusCode > 299 || resp.ContentLength >= 0: // no stream: it tells nothing of streams
		o.trial.end(unknown)
	case conn == nil:
		o.trial.end(closes)
	case resp.Close: // it says so when it closes
		o.trial.end(keeps)
	default:
		resp.Body = &watchedBody{resp.Body, sync.OnceFunc(func() { o.trial.judge(conn) })}
	}
}

// judge waits for what the provider does with a connection whose answer is over.
func (t *trial) judge(conn *countedConn) {
	if !t.kept.Load() { // the answer broke off, or nobody wanted its end
		t.end(unknown)
		return
	}
	time.AfterFunc(keepProof, func() {
		if conn.gone.Load() {
			t.end(closes)
		} else {
			t.end(keeps)
		}
	})
}

func (t *trial) end(what habit) {
	t.keeping.learn(what)
	t.transport.CloseIdleConnections() // closes what is in use as soon as it is not
}

// A watchedBody tells when it is closed.
type watchedBody struct {
	io.ReadCloser
	closed func()
}

func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	b.closed()
	return err
}

// A streamEnd is when a connection has carried a stream to its end, and was kept.
type streamEnd struct {
	at      time.Time
	keeping *keeping
}

// unread notes that reading failed, for which the peer may be to blame.
func (c *countedConn) unread() {
	if c.closed.Load() {
		return // by us
	}
	c.gone.Store(true)
	if end := c.stream.Load(); end != nil && time.Since(end.at) < keepDoubt {
		end.keeping.learn(closes)
	}
}
