package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
)

// A source of usage: a running sidecar, or a store.
type source interface {
	Usage(ctx context.Context, q ledger.UsageQuery) (admin.UsageAnswer, error)
	sessions(ctx context.Context) ([]admin.SessionRow, error)
}

// remote is a running sidecar.
type remote struct {
	cfg    *config.Config
	client string // the only one to ask about; "": all
}

func (r remote) get(ctx context.Context, path string, query url.Values, into any) error {
	return ask(ctx, r.cfg, r.cfg.OperatorsAddr(), path+"?"+query.Encode(), into)
}

func (r remote) Usage(ctx context.Context, q ledger.UsageQuery) (answer admin.UsageAnswer, err error) {
	query := url.Values{"from": {q.From.UTC().Format(time.RFC3339)}, "to": {q.To.UTC().Format(time.RFC3339)}, "by": {strings.Join(q.By, ",")}}
	if q.Session != "" {
		query.Set("session", q.Session)
	}
	if q.Client != "" {
		query.Set("client", q.Client)
	}
	err = r.get(ctx, "/usage", query, &answer)
	return answer, err
}

func (r remote) sessions(ctx context.Context) (all []admin.SessionRow, err error) {
	query := url.Values{"limit": {"500"}}
	if r.client != "" {
		query.Set("client", r.client)
	}
	for {
		var page admin.SessionPage
		if err := r.get(ctx, "/sessions", query, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Sessions...)
		if page.NextCursor == nil {
			return all, nil
		}
		query.Set("cursor", *page.NextCursor)
	}
}

// openStore opens the store of the settings for reading, whether or not a
// sidecar runs on it. With a client it shows that one's sessions only.
func openStore(ctx context.Context, cfg *config.Config, client string) (stored, error) {
	prices, err := cfg.File.PriceTable()
	if err != nil {
		return stored{}, &config.Error{Faults: []string{fmt.Sprintf("prices: %v; see config check", err)}}
	}
	reader, err := ledger.OpenReader(ctx, ledger.Config{Type: cfg.RepositoryType, SQLiteDSN: cfg.SQLiteDSN, PostgresDSN: string(cfg.PostgresDSN)})
	if err != nil {
		return stored{}, &config.Error{Faults: []string{fmt.Sprintf("REPOSITORY_TYPE=%q: %v", cfg.RepositoryType, err)}}
	}
	if client != "" {
		reader = reader.Of(client)
	}
	return stored{admin.Pricer{Ledger: reader, Prices: prices, Currency: cfg.Currency()}}, nil
}

// stored is a store.
type stored struct{ admin.Pricer }

func (p stored) sessions(ctx context.Context) (all []admin.SessionRow, err error) {
	for q := (ledger.SessionQuery{Limit: 500}); ; {
		page, err := p.Pricer.Ledger.Sessions(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, one := range page.Sessions {
			all = append(all, admin.SessionRowOf(one))
		}
		if q.Cursor = page.NextCursor; q.Cursor == "" {
			return all, nil
		}
	}
}
