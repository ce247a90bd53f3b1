package proxy

import (
	"log/slog"
	"sync"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// The internal packages do not know one another; what one says is put into
// another's words here.

func (x *exchange) tokensKey() tokens.Key {
	return tokens.Key{Model: x.req.Model, Client: x.client, Session: x.who.Session}
}

func tokensRequest(r *wire.Request) tokens.Request {
	if !r.Valid {
		return tokens.Request{Body: r.Raw, NoOutput: !r.Endpoint.Generates()}
	}
	return tokens.Request{
		Messages: r.Messages, Prompt: r.Prompt, Instructions: r.Instructions,
		Tools: r.Tools, Functions: r.Functions, ResponseFormat: r.ResponseFormat,
		NoOutput: !r.Endpoint.Generates(), MaxOutput: r.MaxOutput, Choices: r.Choices,
		PreviousResponseID: r.PreviousResponseID, OpaqueContext: r.OpaqueContext, Effort: r.Effort,
	}
}

// estimate is what the request will probably cost.
func (s *Proxy) estimate(x *exchange) tokens.Estimate {
	return s.tokens.Estimate(x.tokensKey(), tokensRequest(x.req))
}

// settle charges what the answer cost, and lets the estimates learn from it.
func (s *Proxy) settle(x *exchange, lease *limit.Lease, u *llm.Usage) {
	lease.Settle(*u)
	if x.watch.Complete() {
		s.tokens.Observe(x.tokensKey(), x.estimate, *u, x.watch.ResponseID())
	}
}

// throttleReason is the label of a 429: from a closed set.
func throttleReason(kind wire.ThrottleKind, limit llm.Dimension) string {
	switch {
	case kind == wire.Quota:
		return "quota"
	case kind == wire.TooLarge:
		return "too_large"
	case limit != llm.None:
		return limit.String()
	}
	return "unknown"
}

// ledgerRow is a record as the log keeps it when the ledger cannot.
func ledgerRow(r ledger.Record) slog.Value {
	return slog.GroupValue(
		slog.String("request_id", r.ID.String()), slog.String("session", r.Session), slog.String("client", r.Client),
		slog.String("route", r.Route), slog.String("model", string(r.Model)), slog.Int("status", r.Status),
		slog.String("outcome", r.Outcome.String()), slog.Bool("usage_known", r.UsageKnown),
		slog.Int64("prompt_tokens", r.Usage.Input), slog.Int64("completion_tokens", r.Usage.Output),
	)
}

// A modelSet remembers a bounded number of models; the zero value is empty.
// It is safe for concurrent use.
type modelSet struct {
	mu     sync.RWMutex
	models map[llm.Model]bool
}

// maxModels bounds the set: names come from clients.
const maxModels = 1024

func (m *modelSet) has(model llm.Model) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.models[model]
}

func (m *modelSet) add(model llm.Model) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.models == nil || len(m.models) >= maxModels {
		m.models = map[llm.Model]bool{} // a full set is learned anew, one refusal each
	}
	m.models[model] = true
}
