// Package upstream makes one attempt at the provider and says what may follow
// it. It never sends anything twice by itself: a second attempt has to wait in
// the queue again, which is the caller's business, so the transport's own
// hidden retries are switched off where it allows that.
//
// What may follow an attempt is one table, which docs/attempts.md repeats with
// the test of each row:
//
//	what came                                            what follows
//	429                                                  Throttled: again as the limiter says, unless waiting cures nothing
//	a rate limit inside a 200, before its answer         Throttled: as after a 429
//	503 or 529 with retry-after(-ms)                     Unavailable: again after that long
//	no connection: no name, refused, no route, timeout   Unreachable: again for UPSTREAM_PATIENCE, then 502
//	no connection that trying again would bring          Unreachable, Final: 502 at once
//	connection lost before a byte was written            NotSent: again after a backoff
//	HTTP/2 GOAWAY below the stream, or REFUSED_STREAM    NotSent: again after a backoff
//	the same, but an upload had begun to stream          Broken: 502, the upload cannot be read twice
//	any other answer                                     Pass: handed on as it came
//	any other reset or lost connection, reused or new    Broken: 502, the provider may have done the work
//	no answer's headers in time                          Timeout: 504, the provider may have done the work
//	an answer that breaks off                            cut off, or 502 where nothing of it was out
package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// headerTimeout is how long a provider may think before its answer's headers
// arrive. It is longer than any SDK waits (ten minutes), so a client's own
// timeout comes first.
const headerTimeout = 15 * time.Minute

// A Config says where the provider is and how to speak to it.
type Config struct {
	Base      *url.URL        // API base, e.g. https://api.openai.com/v1
	Key       func() string   // read at every attempt, so that rotation needs no restart
	KeyHeader string          // Bearer or another header's name; see setKey
	Private   []string        // request headers addressed to the sidecar: they stay here
	Secrets   func() []string // the clients' keys, wherever a request holds one; nil: none are known
	Via       string          // our own entry in the Via header, by which a loop is recognised
	Unread    int64           // bytes that answers may take which nobody reads; 0 = no bound
	Way       Way
	Transport http.RoundTripper // nil: one that takes this way, and follows the provider's address
}

// A Way is how the provider is connected to.
type Way struct {
	Proxy *url.URL       // on the way; nil: none
	Roots *x509.CertPool // who may vouch for the provider; nil: whom the system trusts
}

// A Client makes attempts. It is safe for concurrent use.
type Client struct {
	cfg     Config
	keeping keeping // of plain connections, after streams
	Reach
}

// New returns a client for the one provider that cfg names; nothing in a
// request can make it speak to another.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg} // its Reach is to be watched
	if cfg.Transport == nil {
		c.cfg.Transport = newAgingTransport(c.transport(cfg.Way))
	}
	return c
}

// Take has new requests take another way.
func (c *Client) Take(way Way) {
	if t, ok := c.cfg.Transport.(*agingTransport); ok {
		t.replace(c.transport(way))
	}
}

// transport makes transports that go this way.
func (c *Client) transport(way Way) func() *http.Transport {
	return func() *http.Transport {
		t := NewTransport()
		bound(t, c.cfg.Unread)
		if c.cfg.Base.Scheme == "http" {
			t.IdleConnTimeout = keepPlain
		}
		t.OnProxyConnectResponse = checkConnect
		if way.Proxy != nil {
			t.Proxy = http.ProxyURL(way.Proxy)
		}
		if way.Roots != nil {
			t.TLSClientConfig = &tls.Config{RootCAs: way.Roots}
		}
		return t
	}
}

// Host is the provider's host, without a port.
func (c *Client) Host() string { return c.cfg.Base.Hostname() }

// NewTransport returns a transport that follows no proxy variables (see Way), does not decompress (bytes pass as they are)
// and gives up idle connections after 30 s: providers and the load balancers
// before them close theirs later, and a request written into a closing
// connection is lost. Its buffers are small, as a stream holds them for minutes;
// what is larger passes them by.
func NewTransport() *http.Transport {
	return &http.Transport{
		DialContext:           dialCounted,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: headerTimeout,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       30 * time.Second,
		ReadBufferSize:        2 << 10,
		WriteBufferSize:       2 << 10,
		MaxIdleConns:          1024,
		MaxIdleConnsPerHost:   1024,
		DisableCompression:    true,
	}
}

// A Request is what one attempt sends. Path and RawQuery are below the base,
// escaped as the client sent them.
type Request struct {
	Method, Path, RawQuery string
	Origin                 string // in place of Path: a path below the provider's origin
	Header                 http.Header
	KeyHeader              string    // in place of the Config's; "" = that
	Body                   []byte    // a body that is kept, and can be sent again
	Edit                   Edit      // of Body
	Stream                 io.Reader // else a body that can be read once
	Length                 int64     // of Stream; −1 = unknown
	Identity               bool      // ask for an uncoded answer, because its usage has to be read
	Events                 bool      // the answer will be a stream of events
	Websocket              bool      // asks for a websocket: a 101 is an answer, whose Body is an io.ReadWriteCloser
	// Interim gets the statuses from 102 to 199 that precede the answer, with
	// headers that are fit to be passed on; nil drops them. It runs in another
	// goroutine than Do's, and may still run when Do has returned.
	Interim func(status int, h http.Header)
}

// An Edit says which bytes of a body give way to which: those from From up to To. It
// is applied as the body is sent, because a copy of a large body would take as much
// memory again. The zero Edit changes nothing.
type Edit struct {
	From, To int
	Text     string
}

// oneWrite is what net/http's buffer takes of headers and body. A small edited body is
// copied: net/http sends the headers before a body that it does not know to be in
// memory, and a client that leaves between the two leaves half a request.
const oneWrite = 4 << 10

func (e Edit) length(body []byte) int64 { return int64(len(body) - (e.To - e.From) + len(e.Text)) }

func (e Edit) read(body []byte) io.Reader {
	if e == (Edit{}) {
		return bytes.NewReader(body)
	}
	if n := e.length(body); n <= oneWrite {
		joined := make([]byte, 0, n)
		joined = append(append(append(joined, body[:e.From]...), e.Text...), body[e.To:]...)
		return bytes.NewReader(joined)
	}
	return io.MultiReader(bytes.NewReader(body[:e.From]), strings.NewReader(e.Text), bytes.NewReader(body[e.To:]))
}

// Do makes one attempt. The error is an *Error, or the context's cause; where the
// context ended before there was a connection, it is both. The caller must close the
// response's body.
func (c *Client) Do(ctx context.Context, r Request) (*http.Response, error) {
	var (
		written writes
		read    atomic.Bool
	)
	began := time.Now()
	if d := c.bound(); d > 0 {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx) // ends with its parent
		defer time.AfterFunc(d, func() {
			if !written.begun() {
				cancel(errConnectTime)
			}
		}).Stop()
	}
	hooks := &httptrace.ClientTrace{
		GotConn:        func(info httptrace.GotConnInfo) { written.begin(info); c.connected() },
		Got1xxResponse: c.interim(r.Interim),
	}
	over := c.choose(r, &written, hooks)
	traced := httptrace.WithClientTrace(ctx, hooks)
	req, err := http.NewRequestWithContext(traced, r.Method, c.target(r), nil)
	if err != nil {
		return nil, &Error{Kind: Broken, Err: fmt.Errorf("build request: %w", err)}
	}
	req.Header = c.requestHeader(r)
	req.Close = over.closing
	switch {
	case len(r.Body) > 0:
		// No GetBody: the transport would take it as leave to send again.
		req.Body, req.ContentLength = io.NopCloser(r.Edit.read(r.Body)), r.Edit.length(r.Body)
	case r.Stream != nil && r.Length != 0:
		// NopCloser: an attempt that found no connection has read nothing of it, so the next one may.
		req.Body, req.ContentLength = io.NopCloser(&tracked{r.Stream, &read}), r.Length
	case slices.Contains(bodiless, r.Method):
		// An empty body in place of none: with none the transport repeats these
		// by itself. It finds out that there is nothing in it and sends none.
		req.Body = io.NopCloser(strings.NewReader(""))
	}
	resp, err := over.RoundTrip(req)
	if err == nil {
		err = c.misdirected(resp)
	}
	over.answered(resp, err, written.connection())
	switch { // HTTP/2 lets statuses of any size through, which net/http's server panics at
	case err == nil && (resp.StatusCode >= 200 && resp.StatusCode <= 999 || r.Websocket && switched(resp)):
		c.answered.Store(true)
		return resp, nil
	case err == nil:
		resp.Body.Close()
		return nil, &Error{Kind: Broken, Err: fmt.Errorf("status %d ends no request", resp.StatusCode)}
	case errors.Is(context.Cause(ctx), errConnectTime):
		err = os.ErrDeadlineExceeded
	case ctx.Err() != nil && !written.begun():
		return nil, &Error{Kind: NotSent, Err: context.Cause(ctx)}
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	e := errorOf(err, &written)
	if e.Kind == Unreachable {
		c.failed(began, e.Class)
	} else if e.Kind == NotSent && read.Load() {
		e.Kind = Broken // a part of the body is gone
	}
	return nil, e
}

// switched reports whether an answer makes the connection a websocket.
func switched(resp *http.Response) bool {
	return resp.StatusCode == http.StatusSwitchingProtocols && strings.EqualFold(resp.Header.Get("Upgrade"), "websocket")
}

// maxInterim bounds the interim answers that are passed on for one attempt.
const maxInterim = 100

// interim passes interim answers on, which a proxy must (RFC 9110 section 15.2).
// 100 is between the provider and us.
func (c *Client) interim(pass func(int, http.Header)) func(int, textproto.MIMEHeader) error {
	passed := 0
	return func(status int, h textproto.MIMEHeader) error {
		if passed++; pass == nil || status <= http.StatusSwitchingProtocols || passed > maxInterim {
			return nil
		}
		fit := http.Header{}
		c.CopyHeader(fit, &http.Response{Header: http.Header(h)})
		pass(status, fit)
		return nil
	}
}

// bodiless lists the methods whose empty body net/http leaves out.
var bodiless = []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete, "PROPFIND", "SEARCH"}

func (c *Client) target(r Request) string {
	u := *c.cfg.Base
	base := strings.TrimSuffix(u.EscapedPath(), "/")
	// Joined as text: parsing and printing again could change the client's escapes.
	target := u.Scheme + "://" + u.Host + base
	if r.Origin != "" {
		target = u.Scheme + "://" + u.Host + "/" + r.Origin
	} else if r.Path != "" {
		target += "/" + r.Path
	}
	if query := c.scrubQuery(r.RawQuery); query != "" {
		target += "?" + query
	}
	return target
}

// ServesOrigin reports whether requests may name a path below the provider's
// origin: the base is the usual one of an API, so that Azure's /openai/… stands
// beside it, and not behind some gateway's path.
func (c *Client) ServesOrigin() bool {
	return slices.Contains([]string{"", "/v1", "/openai", "/openai/v1"}, strings.TrimSuffix(c.cfg.Base.EscapedPath(), "/"))
}

// A Kind says how an attempt without an answer ended.
type Kind uint8

// The kinds of the table above.
const (
	Broken Kind = iota
	NotSent
	Unreachable
	Timeout
)

// An Error is an attempt that brought no answer. Its text can hold addresses
// and is for logs, not for clients.
type Error struct {
	Kind  Kind
	Class Class // of Unreachable
	Final bool  // of Unreachable: it would be the same the next time
	Err   error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// errorOf reads the transport's error. Its sentinels are not exported, so their
// texts are what there is; TestDo_SaysWhatMayFollow holds them.
func errorOf(err error, written *writes) *Error {
	text := err.Error()
	refusal := (*proxyRefusal)(nil)
	switch {
	case errors.As(err, &refusal), errors.Is(err, errSpeaksTLS), unwelcome(err):
		class, final := classify(err)
		return &Error{Kind: Unreachable, Class: class, Final: final, Err: err}
	case strings.Contains(text, "; PROTOCOL_ERROR; received from peer"):
		return &Error{Kind: Broken, Err: err} // the transport repeats these, but they say nothing of what was done
	case strings.Contains(text, "cannot rewind body after connection loss"),
		strings.Contains(text, "define Request.GetBody to avoid this error"):
		// The transport would have retried had we let it: it does so without
		// an idempotent method only where nothing was written or processed.
		return &Error{Kind: NotSent, Err: err}
	case !written.begun():
		class, final := classify(err)
		return &Error{Kind: Unreachable, Class: class, Final: final, Err: err}
	case written.none():
		return &Error{Kind: NotSent, Err: err}
	case strings.Contains(text, "timeout awaiting response headers"):
		return &Error{Kind: Timeout, Err: err}
	}
	if netErr := net.Error(nil); errors.As(err, &netErr) && netErr.Timeout() {
		return &Error{Kind: Timeout, Err: err}
	}
	return &Error{Kind: Broken, Err: err}
}
