package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"hash/maphash"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/budget"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// A server holds every dependency of the handlers; nothing else is global.
type server struct {
	cfg      atomic.Pointer[Config] // never changed in place: a reload stores another
	key      *providerKey
	level    *slog.LevelVar // of logger
	logger   *slog.Logger
	metrics  *metrics
	limits   *limit.Limiter
	tokens   *tokens.Estimator
	upstream *upstream.Client
	ledger   *ledger.Store
	budgets  *budget.Book
	lineage  *budget.Lineage
	bodies   *byteBudget
	instance string // our entry in the Via header
	seed     maphash.Seed

	repeats  repeatBudget
	plain    modelSet // models whose provider rejects stream_options
	draining atomic.Bool
	drains   atomic.Int64 // answers read on for clients that left
	inFlight atomic.Int64 // answers under way
	lostAt   atomic.Int64 // when neither store nor journal took a record; Unix nanoseconds

	clients *connections
	systemd *systemd // nil: no service manager asks

	exchanges sync.WaitGroup
	over      context.Context // ends with the grace: every exchange ends with it
	endAll    context.CancelFunc
}

// A handler answers a request, or returns the error to answer with. client is
// the name of the key it came with, else its address.
type handler func(w http.ResponseWriter, r *http.Request, client string) error

type listener uint8

const (
	mainListener listener = 1 << iota
	adminListener
	bothListeners = mainListener | adminListener
)

// apiPattern is the route whose answers take as long as the provider's.
const apiPattern = "/v1/{rest...}"

// A route is one line of the HTTP surface.
type route struct {
	pattern string
	on      listener
	open    bool // needs no client key, whatever its host
	handler handler
}

// routes is the whole HTTP surface. With ADMIN_ADDR the main listener serves
// the API and health only.
func (s *server) routes() []route {
	admin := bothListeners
	if s.cfg.Load().AdminAddr != "" {
		admin = adminListener
	}
	return []route{
		{apiPattern, mainListener, false, s.handleProxy},
		{"/v1", mainListener, false, s.handleUnknown}, // or the mux would redirect, past the guard
		{"GET /v1/session/{id}/status", mainListener, false, s.handleSessionStatus},

		{"GET /sessions/status", admin, false, s.handleStatus},
		{"GET /sessions/{id}/status", admin, false, s.handleSessionStatus},
		{"GET /sessions/{id}/requests", admin, false, s.handleRequests},
		{"GET /sessions", admin, false, s.handleSessions},
		{"DELETE /sessions/{id}", admin, false, s.handleDeleteSession},
		{"GET /usage", admin, false, s.handleUsage},
		{"GET /queue/status", admin, false, s.handleQueue},
		{"GET /metrics", admin, false, s.handleMetrics},

		{"GET /livez", bothListeners, true, s.handleLive},
		{"GET /healthz", bothListeners, true, s.handleLive},
		{"GET /readyz", bothListeners, true, s.handleReady},

		{"/", bothListeners, false, s.handleUnknown},
	}
}

// handlerFor serves the routes of one listener.
func (s *server) handlerFor(on listener) http.Handler {
	mux := http.NewServeMux()
	address := s.cfg.Load().ListenAddr
	if on == adminListener {
		address = s.cfg.Load().AdminAddr
	}
	for _, route := range s.routes() {
		if route.on&on != 0 {
			mux.Handle(route.pattern, s.guard(address, route))
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The mux would answer such a path with a redirect to a cleaned one.
		if err := session.CheckPath(r.URL.EscapedPath()); err != nil {
			writeError(w, toAPIError(err))
			return
		}
		rc := http.NewResponseController(w)
		// The last answer on this connection may have left its deadline behind.
		_ = rc.SetWriteDeadline(time.Time{})
		if r.ContentLength != 0 {
			// Where no handler reads the body, or not all of it, does before it sends an answer.
			_ = rc.SetReadDeadline(time.Now().Add(bodyPatience))
		}
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		// net/http reads what is left of a body, up to 256 KiB, at any pace.
		defer func() { _ = rc.SetReadDeadline(time.Now().Add(bodyRest)) }()
		mux.ServeHTTP(w, r)
	})
}

// guard lets a request through to its handler when its host, its origin and its
// key are accepted, and answers with the error that the handler returns.
func (s *server) guard(address string, route route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if route.pattern != apiPattern {
			// Who does not read a page would hold its connection for ever.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(slowReader))
		}
		client, err := s.admit(r, address, route.open)
		if err == nil {
			err = route.handler(w, r, client)
		}
		var aborted *abortError
		switch {
		case err == nil:
		case gone(err), errors.As(err, &aborted):
			// A clean end would tell a client that closed only its sending half
			// that what it has is the whole answer.
			if !r.ProtoAtLeast(1, 1) {
				reset(w)
			}
			panic(http.ErrAbortHandler)
		default:
			e := toAPIError(err)
			if e.status == http.StatusInternalServerError {
				s.logger.Error("request failed", "route", r.Pattern, "error", err.Error())
			}
			s.metrics.refused.WithLabelValues(e.code).Inc()
			writeError(w, e)
		}
	})
}

// reset cuts a connection with RST. An HTTP/1.0 answer has no other end than
// that of its connection, so a FIN would make a part look like the whole.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// admit checks host, origin and key. Health routes are open: a kubelet knows
// neither our names nor our keys.
func (s *server) admit(r *http.Request, address string, open bool) (client string, err error) {
	if open {
		return "", nil
	}
	cfg := s.cfg.Load()
	if !cfg.hostAllowed(address, r.Host) {
		return "", errHost
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || !cfg.hostAllowed(address, u.Host) {
			return "", errOrigin
		}
	}
	if len(cfg.ClientKeys) == 0 {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			return r.RemoteAddr, nil
		}
		return host, nil
	}
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") { // RFC 9110, section 11.1
		key = r.Header.Get("Api-Key")
	}
	if key == "" && wantsWebsocket(r) {
		key = protocolKey(r)
	}
	// Digests have one length, so the comparison tells nothing of the keys'.
	given := sha256.Sum256([]byte(key))
	for _, k := range cfg.ClientKeys {
		known := sha256.Sum256([]byte(string(k.Key)))
		if subtle.ConstantTimeCompare(given[:], known[:]) == 1 {
			client = k.Name
		}
	}
	if client == "" {
		return "", errUnauthorized
	}
	return client, nil
}

// hostAllowed guards a listener on loopback against web pages whose name
// resolves to 127.0.0.1 (DNS rebinding).
func (c *Config) hostAllowed(address, hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if len(c.AllowedHosts) > 0 {
		return slices.Contains(c.AllowedHosts, host) || slices.Contains(c.AllowedHosts, strings.ToLower(hostport))
	}
	if !loopback(address) {
		return true
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (s *server) handleUnknown(http.ResponseWriter, *http.Request, string) error {
	return errUnknownRoute
}

// serve answers on the listeners until ctx ends, then lets queue and streams
// finish for SHUTDOWN_GRACE. main is required, admin may be nil.
func (s *server) serve(ctx context.Context, main, admin net.Listener) error {
	failed := make(chan error, 2)
	var servers []*http.Server
	serveOn := func(on listener, l net.Listener) {
		server := s.httpServer(on)
		servers = append(servers, server)
		go func() { failed <- server.Serve(l) }()
	}
	main = s.clients.listener(main) // health on the admin listener answers however full this one is
	serveOn(mainListener, main)
	if admin != nil {
		serveOn(adminListener, admin)
	}
	select {
	case err := <-failed:
		s.endAll()
		s.rejectWaiting()
		for _, server := range servers {
			server.Close()
		}
		s.exchanges.Wait()
		return err
	case <-ctx.Done():
	}
	return s.drain(servers, func() {
		main.Close()
		if admin != nil {
			admin.Close()
		}
		for range servers { // whatever was accepted is known now
			<-failed
		}
	})
}

// rejectWaiting tells everybody who waits to come back.
func (s *server) rejectWaiting() {
	s.budgets.RejectWaiting()
	s.limits.RejectWaiting()
}

func (s *server) httpServer(on listener) *http.Server {
	return &http.Server{
		Handler:           s.handlerFor(on),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ConnState:         s.clients.note,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
}
