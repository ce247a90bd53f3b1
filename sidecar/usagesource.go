package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
)

// A source of usage: a running sidecar, or a store.
type source interface {
	usage(ctx context.Context, q ledger.UsageQuery) (usageAnswer, error)
	sessions(ctx context.Context) ([]sessionRow, error)
}

// remote is a running sidecar.
type remote struct{ cfg *config.Config }

func (r remote) get(ctx context.Context, path string, query url.Values, into any) error {
	return ask(ctx, r.cfg, r.cfg.OperatorsAddr(), path+"?"+query.Encode(), into)
}

func (r remote) usage(ctx context.Context, q ledger.UsageQuery) (answer usageAnswer, err error) {
	query := url.Values{"from": {q.From.UTC().Format(time.RFC3339)}, "to": {q.To.UTC().Format(time.RFC3339)}, "by": {strings.Join(q.By, ",")}}
	if q.Session != "" {
		query.Set("session", q.Session)
	}
	err = r.get(ctx, "/usage", query, &answer)
	return answer, err
}

func (r remote) sessions(ctx context.Context) (all []sessionRow, err error) {
	for query := (url.Values{"limit": {"500"}}); ; {
		var page sessionPage
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
// sidecar runs on it.
func openStore(ctx context.Context, cfg *config.Config) (pricer, error) {
	prices, err := cfg.File.PriceTable()
	if err != nil {
		return pricer{}, &config.Error{Faults: []string{fmt.Sprintf("prices: %v; see config check", err)}}
	}
	reader, err := ledger.OpenReader(ctx, ledger.Config{Type: cfg.RepositoryType, SQLiteDSN: cfg.SQLiteDSN, PostgresDSN: string(cfg.PostgresDSN)})
	if err != nil {
		return pricer{}, &config.Error{Faults: []string{fmt.Sprintf("REPOSITORY_TYPE=%q: %v", cfg.RepositoryType, err)}}
	}
	return pricer{reader, prices, cfg.Currency()}, nil
}

func (p pricer) sessions(ctx context.Context) (all []sessionRow, err error) {
	for q := (ledger.SessionQuery{Limit: 500}); ; {
		page, err := p.ledger.Sessions(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, one := range page.Sessions {
			all = append(all, sessionRowOf(one))
		}
		if q.Cursor = page.NextCursor; q.Cursor == "" {
			return all, nil
		}
	}
}
