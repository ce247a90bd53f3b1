package middleware

import (
	"context"
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"time"
)

// DefaultHeader is the header that carries the session unless [Header] says
// otherwise. It is the default of the sidecar's SESSION_HEADER as well.
const DefaultHeader = "X-Session-Id"

// Headers addressed to the sidecar. It does not pass them on to the provider.
const (
	parentHeader   = "X-Parent-Session-Id"
	timeoutHeader  = "X-Queue-Timeout"
	priorityHeader = "X-Queue-Priority"
	weightHeader   = "X-Queue-Weight"
)

// An Option adjusts [New], [Transport] and [Client].
type Option func(*settings) error

type settings struct {
	header  string
	session string      // for contexts that carry none
	hints   http.Header // the X-Queue-* headers of every request
	trace   func(context.Context, http.Header)
}

// Header sets the name of the header that carries the session. It must equal the
// sidecar's SESSION_HEADER.
func Header(name string) Option {
	return func(s *settings) error {
		if !validHeaderName(name) {
			return fmt.Errorf("middleware: session header %.140q: want the name of an HTTP header", name)
		}
		s.header = textproto.CanonicalMIMEHeaderKey(name)
		return nil
	}
}

// DefaultSession sets the session of requests whose context carries none.
// Without it they are limited and recorded, but accounted to no session.
func DefaultSession(id string) Option {
	return func(s *settings) error {
		if !validInHeader(id) {
			return fmt.Errorf("middleware: default session %.140q: %w", id, ErrInvalidSession)
		}
		s.session = id
		return nil
	}
}

// QueueTimeout bounds the time that a request may wait in the sidecar's queue
// before it is refused with 503 and the code queue_timeout. The sidecar's own
// QUEUE_MAX_WAIT stays the upper bound.
func QueueTimeout(d time.Duration) Option {
	return hint(timeoutHeader, d.String(), d > 0, "a positive duration")
}

// QueuePriority asks for a band of the queue: "high", "normal" or "low". Anyone
// may go lower; higher only as far as the sidecar's configuration grants.
func QueuePriority(band string) Option {
	ok := band == "high" || band == "normal" || band == "low"
	return hint(priorityHeader, band, ok, `"high", "normal" or "low"`)
}

// QueueWeight sets the session's share, from 0.1 to 100, relative to the other
// sessions of the same client, which have 1 unless they say otherwise.
func QueueWeight(w float64) Option {
	ok := w >= 0.1 && w <= 100 // false for NaN
	return hint(weightHeader, strconv.FormatFloat(w, 'g', -1, 64), ok, "a number from 0.1 to 100")
}

func hint(header, value string, ok bool, want string) Option {
	return func(s *settings) error {
		if !ok {
			return fmt.Errorf("middleware: %s %.140q: want %s", header, value, want)
		}
		s.hints.Set(header, value)
		return nil
	}
}

// Trace sets the function that writes the trace context of ctx into h, which is
// called for each request, concurrently. Its headers go to the sidecar, which passes
// them on. With OpenTelemetry:
//
//	middleware.Trace(func(ctx context.Context, h http.Header) {
//		otel.GetTextMapPropagator().Inject(ctx, propagation.HeaderCarrier(h))
//	})
//
// Without it, the traceparent and tracestate that [Handler] found on an incoming
// request travel on unchanged.
func Trace(inject func(ctx context.Context, h http.Header)) Option {
	return func(s *settings) error {
		s.trace = inject
		return nil
	}
}

// validHeaderName reports whether name is a token of RFC 9110, section 5.6.2.
func validHeaderName(name string) bool {
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-' || c == '_' || c == '.' || c == '~' || c == '+' || c == '!' || c == '#' || c == '$' ||
			c == '%' || c == '&' || c == '\'' || c == '*' || c == '^' || c == '`' || c == '|':
		default:
			return false
		}
	}
	return name != ""
}
