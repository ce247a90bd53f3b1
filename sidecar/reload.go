package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// reloadOnHangup reloads on every SIGHUP until stop is closed.
func (s *server) reloadOnHangup(stop <-chan struct{}, hangup <-chan os.Signal) {
	for {
		select {
		case <-stop:
			return
		case <-hangup:
			s.systemd.reloading()
			s.reload()
			s.systemd.ready(s.statusLine())
		}
	}
}

// notifyHangup catches SIGHUP, which would end the program. The caller must
// call stop.
func notifyHangup() (hangup <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}

// reload reads the settings again and takes up what a running program can
// change, all of it or, if anything is wrong, nothing. Requests on their way
// keep the settings they came under; waiting ones keep their places.
func (s *server) reload() {
	old := s.cfg.Load()
	next, faults := old.Reread()
	if len(faults) == 0 {
		if err := s.limits.Reconfigure(next.Limiter(s.logger)); err != nil {
			faults = []string{err.Error()}
		}
	}
	if len(faults) > 0 {
		s.metrics.Reloaded.Set(0)
		s.logger.Error("settings not reloaded, the old ones stay", "faults", faults)
		return
	}
	s.cfg.Store(next)
	s.guard.Configure(accessOf(next))
	s.proxy.Reconfigure()
	_ = s.level.UnmarshalText([]byte(next.LogLevel)) // checked by the setting
	s.metrics.Reloaded.Set(1)
	s.metrics.ReloadedAt.Set(float64(time.Now().Unix()))
	s.logger.Info("settings reloaded", "changed", next.ChangedFrom(old), "limits", next.LimitsText())
	if moved := next.Renamed(old); len(moved) > 0 {
		s.logger.Warn("client keys without a name have another place, and with it other sessions: name them", "clients", moved)
	}
	if len(next.Pending) > 0 {
		s.logger.Warn("some changed settings need a restart, their old values stay", "settings", next.Pending)
	}
}
