package httpapi

import (
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
)

// A Handler answers a request of a caller, or returns the error to answer with.
type Handler func(w http.ResponseWriter, r *http.Request, who Caller) error

// A Listener is one of the two that a sidecar may have, or both.
type Listener uint8

// The listeners; a route may be on both.
const (
	MainListener Listener = 1 << iota
	AdminListener
	BothListeners = MainListener | AdminListener
)

// A Route is one line of the HTTP surface.
type Route struct {
	Pattern string
	On      Listener
	To      Audience
	API     bool // of the provider: its answers take as long as the provider's
	Handler Handler
}

const (
	// BodyPatience is how long a client may take to begin with a body.
	BodyPatience = 30 * time.Second
	// bodyRest is how long it may take for what is left of a body once it is answered.
	bodyRest = 5 * time.Second
	// SlowReader is how long a client may block one write: past it its place
	// upstream goes to another.
	SlowReader = 2 * time.Minute
)

// A Guard lets requests through to their handlers, and answers with the errors
// that those return. It is safe for concurrent use.
type Guard struct {
	logger  *slog.Logger
	refused func(code string)

	access atomic.Pointer[Access]
	ending atomic.Bool
}

// NewGuard makes a guard that admits by a. refused hears the code of every error
// that is answered.
func NewGuard(a Access, logger *slog.Logger, refused func(code string)) *Guard {
	g := &Guard{logger: logger, refused: refused}
	g.Configure(a)
	return g
}

// Configure takes up another access for the requests that come from now on.
func (g *Guard) Configure(a Access) { g.access.Store(&a) }

// Drain has every answer from now on ask its client to close the connection.
func (g *Guard) Drain() { g.ending.Store(true) }

// Draining reports whether drain was called.
func (g *Guard) Draining() bool { return g.ending.Load() }

// Handler serves the routes of one listener. local tells that it is on loopback.
func (g *Guard) Handler(routes []Route, on Listener, local bool) http.Handler {
	mux := http.NewServeMux()
	for _, route := range routes {
		if route.On&on != 0 {
			mux.Handle(route.Pattern, g.admitted(route, on, local))
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer handled(r)()
		access := g.access.Load()
		access.Origins.allow(w.Header(), r)
		// The mux would answer such a path with a redirect to a cleaned one.
		if err := session.CheckPath(r.URL.EscapedPath()); err != nil {
			g.refuse(w, ErrorOf(err))
			return
		}
		if isPreflight(r) && access.preflight(w, r, local) {
			return
		}
		rc := http.NewResponseController(w)
		// The last answer on this connection may have left its deadline behind.
		_ = rc.SetWriteDeadline(time.Time{})
		if r.ContentLength != 0 {
			// Where no handler reads the body, or not all of it, does before it sends an answer.
			_ = rc.SetReadDeadline(time.Now().Add(BodyPatience))
		}
		if g.ending.Load() {
			w.Header().Set("Connection", "close")
		}
		// net/http reads what is left of a body, up to 256 KiB, at any pace.
		defer func() { _ = rc.SetReadDeadline(time.Now().Add(bodyRest)) }()
		mux.ServeHTTP(w, r)
	})
}

// admitted lets a request through to its handler if its host, its origin and
// its key are accepted, and answers with the error that the handler returns.
func (g *Guard) admitted(route Route, on Listener, local bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !route.API {
			// Who does not read a page would hold its connection for ever.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(SlowReader))
		}
		access, who := g.access.Load(), Caller{}
		var err error
		if route.To != ToAnybody { // a kubelet knows neither our names nor our keys
			if err = access.checkHost(r, local); err == nil {
				who, err = access.callerOf(r, route.To, on, local)
			}
		}
		if err == nil {
			err = route.Handler(w, r, who)
		}
		switch {
		case err == nil:
		case Silent(err):
			// A clean end would tell a client that closed only its sending half
			// that what it has is the whole answer.
			if !r.ProtoAtLeast(1, 1) {
				reset(w)
			}
			panic(http.ErrAbortHandler)
		default:
			e := ErrorOf(err)
			if e.Status == http.StatusInternalServerError {
				g.logger.Error("request failed", "route", r.Pattern, "error", err.Error())
			}
			g.refuse(w, e)
		}
	})
}

func (g *Guard) refuse(w http.ResponseWriter, e *Error) {
	g.refused(e.Code)
	writeError(w, e)
}

// reset cuts a connection with RST. An HTTP/1.0 answer has no other end than
// that of its connection, so a FIN would make a part look like the whole.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// checkHost refuses a request for a host that is not ours, or from a page of another one.
func (a *Access) checkHost(r *http.Request, local bool) error {
	if !a.hostAllowed(r.Host, local) {
		return errHost
	}
	if origin := r.Header.Get("Origin"); origin != "" && !a.ours(origin, r.Host, local) && !a.Origins.allowed(r) {
		return errOrigin
	}
	return nil
}

// hostAllowed guards a listener on loopback against web pages whose name
// resolves to 127.0.0.1 (DNS rebinding).
func (a *Access) hostAllowed(hostport string, local bool) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if len(a.Hosts) == 0 && !local {
		return true
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback() ||
		slices.Contains(a.Hosts, host) || slices.Contains(a.Hosts, strings.ToLower(hostport))
}

// Unknown answers for every path that has no route.
func Unknown(http.ResponseWriter, *http.Request, Caller) error { return errUnknownRoute }
