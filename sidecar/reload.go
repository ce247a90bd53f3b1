package main

import (
	"os"
	"os/signal"
	"reflect"
	"slices"
	"syscall"
	"time"
)

// needsRestart lists the settings that a running program cannot change: its
// sockets, its ledger, and what requests under way rely on. All others, and
// the whole of CONFIG_FILE, are taken up on SIGHUP.
var needsRestart = []string{
	"OPENAI_BASE_URL", "PROVIDER_PROFILE", "QUEUE_MAX_BYTES", "PORT", "LISTEN_ADDR", "ADMIN_ADDR", "REPOSITORY_TYPE",
	"SQLITE_DSN", "POSTGRES_DSN", "LEDGER_JOURNAL", "LEDGER_DURABILITY", "SESSION_HEADER", "LOG_FORMAT", "CONFIG_FILE",
}

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
	next, faults := readConfig(old.sources, old)
	if len(faults) == 0 {
		if err := s.limits.Reconfigure(limitConfig(next, s.logger)); err != nil {
			faults = []string{err.Error()}
		}
	}
	if len(faults) > 0 {
		s.metrics.reloaded.Set(0)
		s.logger.Error("settings not reloaded, the old ones stay", "faults", faults)
		return
	}
	s.cfg.Store(next)
	s.guard.Configure(accessOf(next))
	s.key.configure(next)
	s.budgets.Reread()                               // prices may have changed
	_ = s.level.UnmarshalText([]byte(next.LogLevel)) // checked by the setting
	s.metrics.reloaded.Set(1)
	s.metrics.reloadedAt.Set(float64(time.Now().Unix()))
	s.logger.Info("settings reloaded", "changed", next.changedFrom(old), "limits", next.limitsText())
	if len(next.pending) > 0 {
		s.logger.Warn("some changed settings need a restart, their old values stay", "settings", next.pending)
	}
}

// changedFrom names the settings, and the sections of CONFIG_FILE, that differ.
func (c *Config) changedFrom(old *Config) []string {
	changed := []string{}
	for _, s := range settings {
		if c.texts[s.name] != old.texts[s.name] {
			changed = append(changed, s.name)
		}
	}
	now, before := reflect.ValueOf(c.File), reflect.ValueOf(old.File)
	for i, field := range slices.Collect(now.Type().Fields()) {
		if field.Name != "Settings" && !reflect.DeepEqual(now.Field(i).Interface(), before.Field(i).Interface()) {
			changed = append(changed, field.Tag.Get("yaml"))
		}
	}
	return changed
}
