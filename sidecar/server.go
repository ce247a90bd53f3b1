package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/metrics"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/proxy"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
)

// A server is the parts of the program, put together.
type server struct {
	cfg     atomic.Pointer[config.Config] // never changed in place: a reload stores another
	level   *slog.LevelVar                // of logger
	logger  *slog.Logger
	metrics *metrics.Metrics
	limits  *limit.Limiter
	tokens  *tokens.Estimator
	ledger  *ledger.Store

	proxy   *proxy.Proxy
	admin   *admin.Admin
	guard   *httpapi.Guard
	clients *httpapi.Connections
	systemd *systemd // nil: no service manager asks
}

// routes is the whole HTTP surface.
func (s *server) routes() []httpapi.Route {
	routes := []httpapi.Route{{Pattern: "/", On: httpapi.BothListeners, To: httpapi.ToOwners, Handler: httpapi.Unknown}}
	for _, root := range session.Roots() {
		routes = append(
			routes,
			httpapi.Route{Pattern: root + "/{rest...}", On: httpapi.MainListener, API: true, Handler: s.proxy.Serve},
			httpapi.Route{Pattern: root, On: httpapi.MainListener, Handler: httpapi.Unknown}, // or the mux would redirect, past the guard
		)
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
		go func() { failed <- server.Serve(httpapi.Shaped(l)) }()
	}
	main = s.clients.Listener(main) // health on the admin listener answers however full this one is
	serveOn(httpapi.MainListener, main)
	if admin != nil {
		serveOn(httpapi.AdminListener, admin)
	}
	select {
	case err := <-failed:
		s.proxy.EndAll()
		s.proxy.RejectWaiting()
		for _, server := range servers {
			server.Close()
		}
		s.proxy.Wait()
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

// watch adds the gauges of the parts that several rooms share.
func (s *server) watch() {
	gauge, store := s.metrics.Gauge, s.ledger
	gauge("queue_depth", "Requests waiting.", func() float64 { return float64(s.limits.Waiting()) })
	gauge("in_flight", "Places granted: requests on their way upstream and answers under way.", func() float64 { return float64(s.limits.InFlight()) })
	gauge("ledger_pending", "Records waiting to be committed.", func() float64 { return float64(store.Stats().Pending) })
	gauge("ledger_journaled", "Records in the journal, waiting for the store.", func() float64 { return float64(store.Stats().Journaled) })
	s.metrics.Counter("ledger_restored_total", "Times that the ledger's file was removed or replaced under the program.", func() float64 { return float64(store.Stats().Restored) })
	gauge("ledger_degraded", "1 while the store cannot be written.", func() float64 {
		if store.Stats().Degraded {
			return 1
		}
		return 0
	})
}

func (s *server) httpServer(on httpapi.Listener) *http.Server {
	return &http.Server{
		Handler:           s.handlerFor(on),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ConnState:         s.clients.Note,
		ConnContext:       httpapi.ShapedContext,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
}
