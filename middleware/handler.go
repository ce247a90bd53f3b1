package middleware

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
)

const (
	traceParentHeader = "Traceparent"
	traceStateHeader  = "Tracestate"
)

// A Source finds the session of an incoming request, or returns "" when the
// request does not tell. Any function will do that is safe for concurrent use: one
// that reads the user from the request's context after authentication, or an id
// from its path.
type Source func(*http.Request) string

// Handler takes the session of each incoming request into the request's context
// before next runs, so that a web service passes it on to the sidecar without a
// line in its handlers: they hand r.Context() to the SDK, as they do anyway. It
// takes the W3C trace context along (see [Trace]).
//
// The first source that finds a session wins; without sources it is
// FromHeader(DefaultHeader). An id of a source of yours that the sidecar would refuse
// is answered with 400 and next does not run. What a header says is the sender's word:
// where that matters, use a source that reads what was authenticated.
func Handler(next http.Handler, sources ...Source) http.Handler {
	if len(sources) == 0 {
		sources = []Source{FromHeader(DefaultHeader)}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := withTrace(r)
		for _, source := range sources {
			id := source(r)
			if id == "" {
				continue
			}
			if !validInHeader(id) {
				http.Error(w, "invalid session: "+ErrInvalidSession.Error(), http.StatusBadRequest)
				return
			}
			ctx = WithSession(ctx, id) //nolint:fatcontext // once: the loop ends here
			break
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// FromHeader returns a source that takes the session from a header, decoded as the
// sidecar does. What is no session id, such as a placeholder that a chat program
// has left, names no session: it must not break the request.
func FromHeader(name string) Source {
	return func(r *http.Request) string {
		if id := decodeID(r.Header.Get(name)); validInHeader(id) {
			return id
		}
		return ""
	}
}

// FromCookie returns a source that derives the session from a cookie. The
// cookies that name sessions of a web service are credentials, and session ids
// appear in the sidecar's answers and database; so the session is "cookie-" and
// the first 128 bits of the value's SHA-256 in hexadecimal.
func FromCookie(name string) Source {
	return func(r *http.Request) string {
		cookie, err := r.Cookie(name)
		if err != nil || cookie.Value == "" {
			return ""
		}
		sum := sha256.Sum256([]byte(cookie.Value))
		return "cookie-" + hex.EncodeToString(sum[:16])
	}
}

// traceContext is an incoming W3C trace context, kept as text: a party that takes
// no part in a trace forwards it unchanged.
type traceContext struct{ parent, state string }

func withTrace(r *http.Request) context.Context {
	parents := r.Header.Values(traceParentHeader)
	if len(parents) != 1 || !validTraceParent(parents[0]) {
		return r.Context() // the specification: ignore it, and tracestate with it
	}
	return context.WithValue(r.Context(), traceKey{}, traceContext{
		parent: parents[0],
		state:  strings.Join(r.Header.Values(traceStateHeader), ","),
	})
}

// validTraceParent checks the form version-trace-parent-flags of W3C Trace Context
// level 1, section 3.2. Later versions may append fields after another dash.
func validTraceParent(s string) bool {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	version, trace, parent, flags := s[:2], s[3:35], s[36:52], s[53:55]
	for _, field := range []string{version, trace, parent, flags} {
		if strings.Trim(field, "0123456789abcdef") != "" {
			return false
		}
	}
	return version != "ff" &&
		strings.Trim(trace, "0") != "" && strings.Trim(parent, "0") != "" &&
		(len(s) == 55 || version != "00" && s[55] == '-')
}
