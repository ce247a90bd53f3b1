// Llm-queue-proxy is an OpenAI-compatible sidecar: applications that share one
// API key point base_url at it, and rate limits stop being their problem.
// Requests wait in a weighted, fair queue instead of failing with 429, each
// session's exact token usage is in a ledger, and everything else about the
// API is unchanged, byte for byte.
//
//	llm-queue-proxy [serve]       serve; settings come from the environment
//	llm-queue-proxy demo          see it work, without a key or a network
//	llm-queue-proxy config check  say what is wrong with the settings
//	llm-queue-proxy config print  show every setting and where it comes from
//	llm-queue-proxy config reference  print docs/configuration.md
//	llm-queue-proxy healthcheck   exit 0 if the sidecar of these settings is ready
//	llm-queue-proxy queue         show the queue of a running sidecar
//	llm-queue-proxy usage         show what sessions, models, days or clients used
//	llm-queue-proxy prices import make prices for the file from a public list
//	llm-queue-proxy version
//	llm-queue-proxy completion    scripts for bash, zsh, fish and PowerShell
//
// Every setting is an environment variable; README.md lists them. Each but the
// secrets is also a flag: RATE_LIMIT_PER_MIN is --rate-limit-per-min.
//
// Exit status: 0 done, 1 failed, 2 wrong usage, 78 wrong settings.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/budget"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/metrics"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

const (
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78 // EX_CONFIG of sysexits.h
)

func main() {
	harden()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitStatus(err))
	}
}

func exitStatus(err error) int {
	var (
		wrong *config.Error
		usage *usageError
	)
	switch {
	case errors.As(err, &wrong):
		return exitConfig
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}

// run is the program without its process: everything it uses comes in.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	root := commands(getenv, stdout, stderr)
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

// runServe serves with the given settings until ctx ends. Beside them, getenv
// tells of a service manager.
func runServe(ctx context.Context, cfg *config.Config, getenv func(string) string, stderr io.Writer) error {
	hangup, ignoreHangup := notifyHangup()
	defer ignoreHangup()
	level := new(slog.LevelVar)
	logger := newLogger(cfg, level, stderr)
	main, admin, err := listen(cfg, getenv)
	if err != nil {
		return err
	}
	s, err := build(ctx, cfg, logger, level)
	if err == nil {
		if s.systemd, err = newSystemd(getenv); err != nil {
			err = errors.Join(err, s.close())
		}
	}
	if err != nil {
		main.Close()
		if admin != nil {
			admin.Close()
		}
		return err
	}
	defer s.systemd.close()
	if strings.Trim(cfg.BaseURL.Path, "/") == "" {
		logger.Warn("OPENAI_BASE_URL has no path, most providers' ends with /v1: is it whole?", "upstream", cfg.BaseURL.String())
	}
	logger.Info("serving", "addr", main.Addr().String(), "upstream", cfg.BaseURL.String(), "limits", cfg.LimitsText(), "repository", s.ledger.Place())

	stop := make(chan struct{})
	var helpers sync.WaitGroup
	helpers.Go(func() { s.saveRegularly(stop) })
	helpers.Go(func() { s.reloadOnHangup(stop, hangup) })
	helpers.Go(func() { s.systemd.report(stop, s.statusLine) })
	s.systemd.ready(s.statusLine())
	err = s.serve(ctx, main, admin)
	close(stop)
	helpers.Wait()
	err = errors.Join(err, s.close())
	logger.Info("stopped")
	return err
}

// listen takes the sockets of a service manager, or opens those of cfg. The
// addresses of inherited ones are put into cfg and meet the same rules.
func listen(cfg *config.Config, getenv func(string) string) (main, admin net.Listener, err error) {
	if main, admin, err = inherit(getenv); err != nil {
		return nil, nil, &config.Error{Faults: []string{err.Error()}}
	}
	if main != nil {
		cfg.ListenAddr = main.Addr().String()
		if admin != nil {
			cfg.AdminAddr = admin.Addr().String()
		}
		if faults := cfg.Validate(); len(faults) > 0 {
			err = &config.Error{Faults: faults}
		}
	} else if main, err = net.Listen("tcp", cfg.ListenAddr); err != nil {
		return nil, nil, fmt.Errorf("LISTEN_ADDR: %w", err)
	}
	if err == nil && admin == nil && cfg.AdminAddr != "" {
		if admin, err = net.Listen("tcp", cfg.AdminAddr); err != nil {
			err = fmt.Errorf("ADMIN_ADDR: %w", err)
		}
	}
	if err != nil {
		main.Close()
		if admin != nil {
			admin.Close()
		}
		return nil, nil, err
	}
	return main, admin, nil
}

// build makes every part and puts them together.
func build(ctx context.Context, cfg *config.Config, logger *slog.Logger, level *slog.LevelVar) (*server, error) {
	store, err := openLedger(ctx, cfg, logger)
	if err != nil {
		return nil, err
	}
	s := newServer(dependencies{
		Config: cfg, Logger: logger, Level: level, Ledger: store,
		Limits:  limit.New(cfg.Limiter(logger)),
		Tokens:  tokens.New(tokens.Config{}),
		Metrics: metrics.New(),
	})
	s.restore(ctx)
	return s, nil
}

// closeTimeout bounds the ledger's last commit.
const closeTimeout = 10 * time.Second

// close saves what was learned and commits what was accepted.
func (s *server) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	s.limits.Close()
	s.budgets.Close()
	s.save(ctx)
	if err := s.ledger.Close(ctx); err != nil {
		return fmt.Errorf("close ledger: %w", err)
	}
	return nil
}

// dependencies is everything a server is made of. Upstream is made from Config
// where it is nil.
type dependencies struct {
	Config   *config.Config
	Logger   *slog.Logger
	Level    *slog.LevelVar // the one that Logger obeys
	Ledger   *ledger.Store
	Limits   *limit.Limiter
	Tokens   *tokens.Estimator
	Metrics  *metrics.Metrics
	Upstream *upstream.Client
}

func newServer(d dependencies) *server {
	name := make([]byte, 6)
	_, _ = rand.Read(name) // never fails
	s := &server{
		logger: d.Logger, level: d.Level, metrics: d.Metrics, limits: d.Limits, tokens: d.Tokens,
		upstream: d.Upstream, ledger: d.Ledger,
		bodies:   &byteBudget{max: d.Config.QueueMaxBytes},
		instance: fmt.Sprintf("%s%x", viaName, name),
		seed:     maphash.MakeSeed(),
		clients:  httpapi.NewConnections(httpapi.ConnectionsFor(maxFiles())),
	}
	s.cfg.Store(d.Config)
	s.guard = httpapi.NewGuard(accessOf(d.Config), d.Logger, func(code string) { s.metrics.Refused.WithLabelValues(code).Inc() })
	s.admin = &admin.Admin{
		Settings: &s.cfg, Ledger: d.Ledger, Limits: d.Limits, Metrics: d.Metrics.Handler(), Logger: d.Logger,
		Draining: s.guard.Draining, Unfit: func() error { return s.ledgerFit(s.cfg.Load()) },
	}
	s.key = newProviderKey(d.Config, d.Logger)
	if s.upstream == nil {
		keyHeader := "Authorization"
		if d.Config.Profile == "azure" {
			keyHeader = "api-key"
		}
		s.upstream = upstream.New(upstream.Config{
			Base: d.Config.BaseURL, KeyHeader: keyHeader,
			Key:     s.key.current,
			Private: append(session.Headers(), d.Config.SessionHeader),
			Via:     "1.1 " + s.instance,
		})
	}
	s.budgets, s.lineage = s.newBudgets(), budget.NewLineage(maxLinks)
	s.over, s.endAll = context.WithCancel(context.Background())
	s.watch()
	return s
}

// accessOf is what the settings say of who is let in.
func accessOf(cfg *config.Config) httpapi.Access {
	a := httpapi.Access{Hosts: cfg.AllowedHosts}
	for _, k := range cfg.ClientKeys {
		a.Keys = append(a.Keys, httpapi.Key{Name: k.Name, Key: string(k.Key)})
	}
	return a
}

func openLedger(ctx context.Context, cfg *config.Config, logger *slog.Logger) (*ledger.Store, error) {
	store, err := ledger.Open(ctx, cfg.Ledger(logger))
	switch {
	case err == nil:
		return store, nil
	case errors.Is(err, ledger.ErrJournal):
		return nil, &config.Error{Faults: []string{fmt.Sprintf("LEDGER_JOURNAL=%q: %v", cfg.LedgerJournal, err)}}
	case cfg.RepositoryType == "sqlite":
		return nil, &config.Error{Faults: []string{fmt.Sprintf("SQLITE_DSN=%q: %v", cfg.SQLiteDSN, err)}}
	case cfg.RepositoryType == "postgres" && errors.Is(err, ledger.ErrUnavailable):
		return nil, err // the setting may well be right, and the server down
	case cfg.RepositoryType == "postgres":
		return nil, &config.Error{Faults: []string{fmt.Sprintf("POSTGRES_DSN: %v", err)}}
	}
	return nil, &config.Error{Faults: []string{fmt.Sprintf("REPOSITORY_TYPE=%q: %v", cfg.RepositoryType, err)}}
}

const calibrationState = "calibration"

// restore takes up what the last process learned, so that a restart starts
// with calibrated estimates and a level that counts its last minute.
func (s *server) restore(ctx context.Context) {
	data, err := s.ledger.LoadState(ctx, calibrationState)
	if err == nil && len(data) > 0 {
		var learned []tokens.Calibration
		if err = json.Unmarshal(data, &learned); err == nil {
			s.tokens.Import(learned)
		}
	}
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		s.logger.Warn("calibration not restored", "error", err.Error())
	}
	recent, err := s.ledger.RecentUse(ctx, time.Now().Add(-time.Minute))
	if err != nil {
		s.logger.Warn("recent use not restored", "error", err.Error())
	}
	for _, use := range recent {
		s.limits.Prime(limit.Recent{Model: string(use.Model), Requests: use.Requests, Input: use.Input, Output: use.Output})
	}
	if !s.cfg.Load().File.LimitsDays() {
		return
	}
	today, err := s.ledger.Usage(ctx, ledger.UsageQuery{From: time.Now().Add(-24 * time.Hour), By: []string{"model"}})
	if err != nil {
		s.logger.Warn("use of the day not restored", "error", err.Error())
	}
	for _, use := range today {
		s.limits.Prime(limit.Recent{Model: string(use.Model), RequestsDay: use.Requests, TokensDay: use.Usage.Total()})
	}
}

// saveRegularly bounds what a crash unlearns to a minute.
func (s *server) saveRegularly(stop <-chan struct{}) {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			s.save(context.Background())
		}
	}
}

func (s *server) save(ctx context.Context) {
	data, err := json.Marshal(s.tokens.Export())
	if err == nil {
		err = s.ledger.SaveState(ctx, calibrationState, data)
	}
	if err != nil {
		s.logger.Warn("calibration not saved", "error", err.Error())
	}
}

func newLogger(cfg *config.Config, level *slog.LevelVar, w io.Writer) *slog.Logger {
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // checked by the setting
	options := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "text" || cfg.LogFormat == "auto" && terminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
