package main

import (
	"context"
	"errors"
	"net/http"
	"time"
)

const (
	// lameDuckShare and lameDuckMax bound how long connections are still taken
	// after readiness has failed, for load balancers to notice.
	lameDuckShare = 10
	lameDuckMax   = 3 * time.Second
	// lateComers is how long a connection that was taken in the last moment has
	// to send its request.
	lateComers = time.Second
)

// drain ends the service: readiness fails at once, connections are taken for a
// short while more, what waits is served for as long as it can still finish,
// what is then left is told to come back, and what outlasts the grace is cut.
func (s *server) drain(servers []*http.Server, stopListening func()) error {
	grace := s.cfg.Load().ShutdownGrace
	s.guard.Drain()
	s.logger.Info("draining", "grace", grace.String())
	s.systemd.stopping(grace + closeTimeout)
	last := grace / 5 // for answers that are already on their way
	reject := time.AfterFunc(grace-last, s.proxy.RejectWaiting)
	defer reject.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	// Websockets are not the servers' any more, who do not wait for them.
	defer context.AfterFunc(ctx, s.proxy.EndAll)()

	s.clients.Await(min(grace/lameDuckShare, lameDuckMax), s.clients.None)
	// A server that is shutting down drops the request of a connection it has
	// just accepted. So nothing more is accepted first, and the last ones are heard.
	stopListening()
	s.clients.Await(min(grace/lameDuckShare, lateComers), s.clients.NoneNew)
	var failed error
	for _, server := range servers {
		if err := server.Shutdown(ctx); err != nil {
			s.logger.Warn("grace is over, connections are cut")
			failed = errors.Join(failed, server.Close())
		}
	}
	s.proxy.Wait() // their rows come before the ledger's end
	return failed
}
