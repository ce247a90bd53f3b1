package main

import (
	"context"
	"hash/maphash"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/budget"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/metrics"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// A server holds every dependency of the handlers; nothing else is global.
type server struct {
	cfg      atomic.Pointer[config.Config] // never changed in place: a reload stores another
	key      *providerKey
	level    *slog.LevelVar // of logger
	logger   *slog.Logger
	metrics  *metrics.Metrics
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
	plain    modelSet     // models whose provider rejects stream_options
	drains   atomic.Int64 // answers read on for clients that left
	inFlight atomic.Int64 // answers under way
	lostAt   atomic.Int64 // when neither store nor journal took a record; Unix nanoseconds

	guard   *httpapi.Guard
	admin   *admin.Admin
	clients *httpapi.Connections
	systemd *systemd // nil: no service manager asks

	exchanges sync.WaitGroup
	over      context.Context // ends with the grace: every exchange ends with it
	endAll    context.CancelFunc
}

// routes is the whole HTTP surface.
func (s *server) routes() []httpapi.Route {
	routes := []httpapi.Route{
		{Pattern: httpapi.APIPattern, On: httpapi.MainListener, Handler: s.handle},
		{Pattern: "/v1", On: httpapi.MainListener, Handler: httpapi.Unknown}, // or the mux would redirect, past the guard
		{Pattern: "/", On: httpapi.BothListeners, Handler: httpapi.Unknown},
	}
	return append(routes, s.admin.Routes()...)
}

// handlerFor serves the routes of one listener.
func (s *server) handlerFor(on httpapi.Listener) http.Handler {
	address := s.cfg.Load().ListenAddr
	if on == httpapi.AdminListener {
		address = s.cfg.Load().AdminAddr
	}
	return s.guard.Handler(s.routes(), on, config.Loopback(address))
}

// serve answers on the listeners until ctx ends, then lets queue and streams
// finish for SHUTDOWN_GRACE. main is required, admin may be nil.
func (s *server) serve(ctx context.Context, main, admin net.Listener) error {
	failed := make(chan error, 2)
	var servers []*http.Server
	serveOn := func(on httpapi.Listener, l net.Listener) {
		server := s.httpServer(on)
		servers = append(servers, server)
		go func() { failed <- server.Serve(l) }()
	}
	main = s.clients.Listener(main) // health on the admin listener answers however full this one is
	serveOn(httpapi.MainListener, main)
	if admin != nil {
		serveOn(httpapi.AdminListener, admin)
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

func (s *server) httpServer(on httpapi.Listener) *http.Server {
	return &http.Server{
		Handler:           s.handlerFor(on),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ConnState:         s.clients.Note,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
}
