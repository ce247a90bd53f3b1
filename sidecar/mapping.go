package main

import (
	"hash/maphash"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

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

// limitSignal puts what an answer says of its limits into the limiter's words.
func limitSignal(s llm.Signal) limit.Signal {
	level := func(d llm.Dimension) limit.Level { return limit.Level(s.Levels[d]) }
	return limit.Signal{
		Requests: level(llm.Requests), Tokens: level(llm.Tokens),
		Input: level(llm.InputTokens), Output: level(llm.OutputTokens),
		RequestsDay: level(llm.RequestsDay), TokensDay: level(llm.TokensDay),
		RetryAfter: s.RetryAfter, HasRetryAfter: s.HasRetryAfter,
		Dimension: limitDimensions[s.Dimension], Group: string(s.Group),
		Limit: s.Limit, Used: s.Used, Requested: s.Requested, Profile: s.Profile,
	}
}

// limitDimensions are the limiter's names of the limits that it keeps.
var limitDimensions = [llm.NumDimensions]string{
	llm.Requests: "requests", llm.Tokens: "tokens", llm.InputTokens: "input_tokens", llm.OutputTokens: "output_tokens",
	llm.RequestsDay: "requests_day", llm.TokensDay: "tokens_day",
}

// estimate is what the request will probably cost.
func (s *server) estimate(x *exchange) tokens.Estimate {
	return s.tokens.Estimate(x.tokensKey(), tokensRequest(x.req))
}

// settle charges what the answer cost, and lets the estimates learn from it.
func (s *server) settle(x *exchange, lease *limit.Lease, u *llm.Usage) {
	lease.Settle(limit.Usage{Input: u.Input, Cached: u.Cached, Output: u.Output})
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

// priority gives what the file grants, or less if the request asks for less.
func priority(granted, asked string) limit.Priority {
	rank := map[string]limit.Priority{"low": limit.Low, "normal": limit.Normal, "high": limit.High}
	p := rank[granted] // "" is normal, the zero value
	if asked != "" {
		p = min(p, rank[asked])
	}
	return p
}

// patience is how long the client's SDK waits for an answer, queue included;
// 0 = it does not say.
func patience(h http.Header) time.Duration {
	least := time.Duration(0)
	for _, header := range []string{"X-Stainless-Read-Timeout", "X-Stainless-Timeout"} {
		seconds, err := strconv.ParseFloat(h.Get(header), 64)
		if err != nil || !(seconds > 0 && seconds < 1e6) {
			continue
		}
		if d := time.Duration(seconds * float64(time.Second)); least == 0 || d < least {
			least = d
		}
	}
	return least
}

// retryHint recognises an SDK's second try of a request that it gave up
// waiting for: same session, same body, and a retry count.
func retryHint(x *exchange) (key uint64, count int) {
	text := x.r.Header.Get("X-Stainless-Retry-Count")
	if text == "" || !x.endpoint.Decoded() {
		return 0, 0
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 0 {
		return 0, 0
	}
	var h maphash.Hash
	h.SetSeed(x.s.seed)
	_, _ = h.WriteString(x.client)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(x.who.Session)
	_ = h.WriteByte(0)
	_, _ = h.Write(x.req.Raw)
	return h.Sum64(), count
}

// storable makes a name that a client or a provider chose fit for the ledger
// and the log: valid UTF-8, printable, at most 128 bytes.
func storable[T ~string](name T) T {
	kept := make([]byte, 0, min(len(name), 128))
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || r == 0x2028 || r == 0x2029 {
			r = '?'
		}
		if len(kept)+utf8.RuneLen(r) > 128 {
			break
		}
		kept = utf8.AppendRune(kept, r)
	}
	return T(kept)
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
