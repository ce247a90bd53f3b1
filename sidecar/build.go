package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/metrics"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/proxy"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// build makes every part and puts them together.
func build(ctx context.Context, cfg *config.Config, logger *slog.Logger, level *slog.LevelVar) (*server, error) {
	store, err := openLedger(ctx, cfg, logger)
	if err != nil {
		return nil, err
	}
	s := newServer(dependencies{Config: cfg, Logger: logger, Level: level, Ledger: store})
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
	s.proxy.Close()
	s.save(ctx)
	if err := s.ledger.Close(ctx); err != nil {
		return fmt.Errorf("close ledger: %w", err)
	}
	return nil
}

// dependencies is what a server does not make itself. Without Upstream the proxy
// makes one from Config.
type dependencies struct {
	Config   *config.Config
	Logger   *slog.Logger
	Level    *slog.LevelVar // the one that Logger obeys
	Ledger   *ledger.Store
	Upstream *upstream.Client
}

func newServer(d dependencies) *server {
	s := &server{
		logger: d.Logger, level: d.Level, ledger: d.Ledger,
		metrics: metrics.New(), limits: limit.New(d.Config.Limiter(d.Logger)), tokens: tokens.New(tokens.Config{}),
		clients: httpapi.NewConnections(httpapi.ConnectionsFor(maxFiles(), d.Config.OverheadBytes)),
	}
	s.cfg.Store(d.Config)
	s.guard = httpapi.NewGuard(accessOf(d.Config), d.Logger, func(code string) { s.metrics.Refused.WithLabelValues(code).Inc() })
	s.proxy = proxy.New(proxy.Parts{
		Settings: &s.cfg, Logger: d.Logger, Ledger: d.Ledger, Limits: s.limits, Tokens: s.tokens, Metrics: s.metrics, Upstream: d.Upstream,
	})
	s.admin = &admin.Admin{
		Settings: &s.cfg, Ledger: d.Ledger, Limits: s.limits, Memory: s.proxy.Memory(), Overhead: s.proxy.Overhead(), Metrics: s.metrics.Handler(), Logger: d.Logger,
		Draining: s.guard.Draining, Unfit: s.proxy.Unfit, Away: s.proxy.Away,
	}
	s.watch()
	return s
}

// accessOf is what the settings say of who is let in.
func accessOf(cfg *config.Config) httpapi.Access {
	keys := func(list []config.ClientKey) (out []httpapi.Key) {
		for _, k := range list {
			out = append(out, httpapi.Key{Name: k.Name, Key: string(k.Key)})
		}
		return out
	}
	return httpapi.Access{Hosts: cfg.AllowedHosts, Origins: cfg.AllowedOrigins, Keys: keys(cfg.ClientKeys), Admins: keys(cfg.AdminKeys)}
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
