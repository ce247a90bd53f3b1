package proxy

import (
	"sync"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// The internal packages do not know one another; what one says is put into
// another's words here.

func (x *exchange) tokensKey() tokens.Key {
	return tokens.Key{Model: x.req.decoded.Model, Client: x.req.client, Session: x.req.who.Session}
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
func (p *Proxy) estimate(x *exchange) tokens.Estimate {
	return p.tokens.Estimate(x.tokensKey(), tokensRequest(x.req.decoded))
}

// settle charges what the answer cost, and lets the estimates learn from it.
func (p *Proxy) settle(x *exchange, lease *limit.Lease, u *llm.Usage) {
	lease.Settle(*u)
	if x.watch.Complete() {
		p.tokens.Observe(x.tokensKey(), x.req.estimate, *u, x.watch.ResponseID())
	}
}

// throttleReason is the label of a 429: from a closed set.
func throttleReason(kind wire.ThrottleKind, limit llm.Dimension) string {
	switch {
	case kind == wire.Quota:
		return "quota"
	case kind == wire.TooLarge:
		return "too_large"
	case kind == wire.Unclear:
		return "unclear"
	case limit != llm.None:
		return limit.String()
	}
	return "unknown"
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
