package middleware

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
)

// Middleware has the type that openai-go calls option.Middleware in each of its
// major versions: being an alias of an unnamed type, it is assignable to all of
// them without this package importing any.
type Middleware = func(*http.Request, func(*http.Request) (*http.Response, error)) (*http.Response, error)

// New returns a function for openai-go's option.WithMiddleware. It adds the
// session of the request's context, and what the options say, to requests for
// the sidecar at sidecarURL, and passes all others on as they are.
//
// sidecarURL is the base URL given to the SDK, with or without "/v1" or
// "/v1/session/{id}" at its end. openai-go runs middleware once per attempt, so
// its own retries carry the session as well. The function is safe for concurrent
// use. See the package comment for redirects.
func New(sidecarURL string, opts ...Option) Middleware {
	c := newCarrier(sidecarURL, opts)
	return func(req *http.Request, next func(*http.Request) (*http.Response, error)) (*http.Response, error) {
		out, err := c.prepare(req)
		if err != nil {
			// openai-go retries an error that comes without a response; this
			// one would only be made again, half a second later and then once more.
			return refusal(req), err
		}
		resp, err := next(out)
		return resp, c.explain(req, err)
	}
}

// Transport returns an http.RoundTripper that does for any http.Client what
// [New] does for openai-go, and also keeps the session from following a redirect
// to another origin. A nil base means http.DefaultTransport.
func Transport(sidecarURL string, base http.RoundTripper, opts ...Option) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{carrier: newCarrier(sidecarURL, opts), base: base}
}

// Client returns a copy of base that sends through [Transport]. The copy is what
// go-openai's ClientConfig.HTTPClient and openai-go's option.WithHTTPClient take;
// base itself is not changed. A nil base means http.DefaultClient.
func Client(sidecarURL string, base *http.Client, opts ...Option) *http.Client {
	if base == nil {
		base = http.DefaultClient
	}
	client := *base
	client.Transport = Transport(sidecarURL, base.Transport, opts...)
	return &client
}

// Check returns the fault that [New], [Transport] and [Client], called with the
// same arguments, would report on every request: an error wrapping [ErrBaseURL]
// or [ErrInvalidSession], one naming an option, or several of them joined. It
// does not connect.
func Check(sidecarURL string, opts ...Option) error {
	return newCarrier(sidecarURL, opts).err
}

type transport struct {
	*carrier
	base http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	out, err := t.prepare(req)
	if err != nil {
		if req.Body != nil {
			req.Body.Close() // a RoundTripper closes the body even of what it refuses
		}
		return nil, err
	}
	resp, err := t.base.RoundTrip(out)
	return resp, t.explain(req, err)
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach the base.
func (t *transport) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// carrier decides which headers a request gets. It is read-only once made, which
// is what makes everything built on it safe for concurrent use.
type carrier struct {
	settings
	sidecar target
	err     error // fault of construction, reported by every request
}

func newCarrier(sidecarURL string, opts []Option) *carrier {
	c := &carrier{settings: settings{header: DefaultHeader, hints: make(http.Header)}}
	var err error
	c.sidecar, err = parseTarget(sidecarURL)
	faults := []error{err}
	for _, opt := range opts {
		faults = append(faults, opt(&c.settings))
	}
	c.err = errors.Join(faults...)
	return c
}

// prepare returns the request to send in place of req, which stays as it was.
func (c *carrier) prepare(req *http.Request) (*http.Request, error) {
	if c.err != nil {
		return nil, c.err
	}
	if !c.sidecar.owns(req.URL) {
		return c.withhold(req), nil
	}
	inPath, err := c.sidecar.checkPath(req.URL)
	if err != nil {
		return nil, err
	}
	ctx := req.Context()
	add := make(http.Header)
	c.addTrace(ctx, add)
	for name, values := range c.hints {
		add[name] = values
	}
	if parent, ok := ctx.Value(parentKey{}).(string); ok {
		add.Set(parentHeader, encodeID(parent))
	}
	// The sidecar prefers the path to the header; sending both would leave two
	// answers to one question in the provider's logs and in ours.
	if !inPath {
		if id, ok := SessionFrom(ctx); ok {
			add.Set(c.header, encodeID(id))
		} else if c.session != "" {
			add.Set(c.header, encodeID(c.session))
		}
	}
	out := req.Clone(ctx)
	if out.Header == nil {
		out.Header = make(http.Header)
	}
	for name, values := range add {
		if _, explicit := out.Header[name]; !explicit {
			out.Header[name] = slices.Clone(values) // hints are shared by all requests
		}
	}
	return out, c.checkIDs(out.Header)
}

// checkIDs judges the ids that are about to be sent, wherever they came from.
func (c *carrier) checkIDs(h http.Header) error {
	for _, name := range []string{c.header, parentHeader} {
		values := h.Values(name)
		if len(values) > 1 {
			return fmt.Errorf("middleware: header %s is set %d times: %w", name, len(values), ErrInvalidSession)
		}
		if len(values) == 1 && !validInHeader(decodeID(values[0])) {
			return fmt.Errorf("middleware: header %s: %.140q: %w", name, values[0], ErrInvalidSession)
		}
	}
	return nil
}

// withhold removes the sidecar's headers from a request that http.Client made
// out of the sidecar's answer (then, and only then, Response is set), because
// it copied them there. On other requests such a header is the caller's own.
func (c *carrier) withhold(req *http.Request) *http.Request {
	if req.Response == nil {
		return req
	}
	out := req.Clone(req.Context())
	for _, name := range []string{
		c.header, parentHeader, timeoutHeader, priorityHeader, weightHeader, traceParentHeader, traceStateHeader,
	} {
		out.Header.Del(name)
	}
	return out
}

// explain turns a failed connection to the sidecar into advice. Failures of
// requests that have left, or that the caller gave up, stay as they are.
func (c *carrier) explain(req *http.Request, err error) error {
	if err == nil || req.Context().Err() != nil || !c.sidecar.owns(req.URL) {
		return err
	}
	// The transport says the one, http.Client makes the other of it.
	var notTLS tls.RecordHeaderError
	if errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &notTLS) && string(notTLS.RecordHeader[:]) == "HTTP/" {
		return fmt.Errorf("middleware: %w: %s speaks http, not https: %w", ErrBaseURL, req.URL.Host, err)
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		return err
	}
	return fmt.Errorf("middleware: %w at %s: start llm-queue-proxy there, or correct the base URL: %w", ErrUnreachable, req.URL.Host, err)
}

// refusal is the response that travels beside an error of ours, for openai-go
// alone: no SDK looks at more of it than the header.
func refusal(req *http.Request) *http.Response {
	if req.Body != nil {
		req.Body.Close()
	}
	return &http.Response{
		Status:     "400 Bad Request",
		StatusCode: http.StatusBadRequest,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     http.Header{"X-Should-Retry": {"false"}},
		Body:       http.NoBody,
		Request:    req,
	}
}

// addTrace adds the current trace context: the application's own, when it
// supplied a function, else the one that [Handler] found on the way in.
func (c *carrier) addTrace(ctx context.Context, h http.Header) {
	if c.trace != nil {
		c.trace(ctx, h)
		return
	}
	if incoming, ok := ctx.Value(traceKey{}).(traceContext); ok {
		h.Set(traceParentHeader, incoming.parent)
		if incoming.state != "" {
			h.Set(traceStateHeader, incoming.state)
		}
	}
}
