package proxy

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/metrics"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

const chatBody = `{"model":"gpt-4o","messages":[{"role":"user","content":"say 5 words"}]}`

// made is a proxy of the default settings, with a ledger in memory.
func made(t *testing.T) *Proxy {
	t.Helper()
	cfg, err := config.Load(nil, func(name string) string { return map[string]string{"OPENAI_API_KEY": "sk-1"}[name] })
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	store, err := ledger.Open(t.Context(), cfg.Ledger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	var settings atomic.Pointer[config.Config]
	settings.Store(cfg)
	p := New(Parts{
		Settings: &settings, Logger: quiet, Ledger: store, Limits: limit.New(cfg.Limiter(quiet)), Tokens: tokens.New(tokens.Config{}), Metrics: metrics.New(),
	})
	t.Cleanup(func() {
		p.EndAll()
		p.Wait()
		p.limits.Close()
		p.Close()
		if err := store.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return p
}

func decoded(t *testing.T) *wire.Request {
	t.Helper()
	req, err := wire.Decode(wire.Chat, []byte(chatBody))
	if err != nil {
		t.Fatal(err)
	}
	return req
}
