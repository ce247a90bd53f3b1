package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

const (
	// lameDuckShare and lameDuckMax bound how long connections are still taken
	// after readiness has failed, for load balancers to notice.
	lameDuckShare = 10
	lameDuckMax   = 3 * time.Second
	// lateComers is how long requests on connections that were taken in the last
	// moment may still join the queue.
	lateComers = time.Second
)

// drain ends the service: readiness fails at once, connections are taken for a
// short while more, what waits is served for as long as it can still finish,
// what is then left is told to come back, and what outlasts the grace is cut.
func (s *server) drain(servers []*http.Server) error {
	grace := s.cfg.Load().ShutdownGrace
	s.draining.Store(true)
	s.logger.Info("draining", "grace", grace.String())
	s.systemd.stopping(grace + closeTimeout)
	last := grace / 5 // for answers that are already on their way
	reject := time.AfterFunc(grace-last, s.rejectWaiting)
	defer reject.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	// Websockets are not the servers' any more, who do not wait for them.
	defer context.AfterFunc(ctx, s.endAll)()

	s.lameDuck(min(grace/lameDuckShare, lameDuckMax))
	late := time.AfterFunc(lateComers, s.limits.Drain)
	defer late.Stop()
	var failed error
	for _, server := range servers {
		if err := server.Shutdown(ctx); err != nil {
			s.logger.Warn("grace is over, connections are cut")
			failed = errors.Join(failed, server.Close())
		}
	}
	s.exchanges.Wait() // their rows come before the ledger's end
	return failed
}

// lameDuck goes on serving for d, or until nobody is connected. Answers carry
// "Connection: close" meanwhile, so that whoever is connected leaves in order.
func (s *server) lameDuck(d time.Duration) {
	over := time.NewTimer(d)
	defer over.Stop()
	for s.connections.Load() > 0 {
		select {
		case <-over.C:
			return
		case <-s.disconnected:
		}
	}
}

// connState counts connections; it is an http.Server's ConnState.
func (s *server) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.connections.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.connections.Add(-1)
		select {
		case s.disconnected <- struct{}{}:
		default: // lameDuck looks at the count, once is enough
		}
	}
}
