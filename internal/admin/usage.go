package admin

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/price"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
)

// A UsageRow is a line of /usage: what was used in a part of time, by a model or a client.
type UsageRow struct {
	Time              string  `json:"time,omitempty"`
	Model             *string `json:"model,omitempty"`
	Client            *string `json:"client,omitempty"`
	RequestCount      int64   `json:"request_count"`
	UnknownUsageCount int64   `json:"unknown_usage_count"`
	PromptTokens      int64   `json:"prompt_tokens"`
	CompletionTokens  int64   `json:"completion_tokens"`
	CachedTokens      int64   `json:"cached_tokens"`
	ReasoningTokens   int64   `json:"reasoning_tokens"`
	Cost              *string `json:"cost"`            // of the tokens with a price; null where none has one
	UnpricedTokens    int64   `json:"unpriced_tokens"` // those without
	CacheWriteTokens  int64   `json:"cache_write_tokens"`
	ToldCost          *string `json:"told_cost"` // what providers said of it, in US dollars; null where none said anything
}

// A UsageAnswer is the answer of /usage.
type UsageAnswer struct {
	From     string     `json:"from"`
	To       string     `json:"to"`
	By       []string   `json:"by"`
	Currency *string    `json:"currency"` // of the costs; null without prices
	Rows     []UsageRow `json:"rows"`
}

// The bounds on one answer. Where prices have to be applied the ledger answers
// by model and date, and is folded here.
const (
	maxUsageRows  = 20_000
	maxPricedRows = 200_000
)

// A Pricer answers questions about usage with what it costs.
type Pricer struct {
	Ledger   *ledger.Reader
	Prices   *price.Table // nil: no prices are known
	Currency string
}

func (a *Admin) usage(w http.ResponseWriter, r *http.Request, who httpapi.Caller) error {
	query := r.URL.Query()
	now := time.Now()
	from, err := ParseTime(query.Get("from"), now.Add(-24*time.Hour))
	if err != nil {
		return err
	}
	to, err := ParseTime(query.Get("to"), now)
	if err != nil {
		return err
	}
	by := []string{}
	for _, field := range strings.FieldsFunc(query.Get("by"), func(r rune) bool { return r == ',' }) {
		if !slices.Contains([]string{"hour", "day", "model", "client"}, field) || slices.Contains(by, field) {
			return httpapi.Invalid("invalid_query", "by: want a list of hour or day, model, client")
		}
		by = append(by, field)
	}
	q := ledger.UsageQuery{From: from, To: to, By: by, Session: query.Get("session")}
	if q.Session != "" {
		if err := session.CheckID(q.Session); err != nil {
			return err
		}
	}
	seen, err := a.seenBy(who, query, errOthers)
	if err != nil {
		return err
	}
	switch {
	case who.Sees == httpapi.SeesTotals && !slices.Contains(by, "client") && q.Session == "" && !query.Has("client"): // names nobody
	case who.Sees != httpapi.SeesEverything:
		q.Client = who.Name
	case q.Session == "" && query.Has("client"): // with a session it says whose
		if q.Client = query.Get("client"); q.Client == "" {
			return httpapi.Invalid("invalid_query", "client: want a client's name or address; nobody's usage is that of addresses")
		}
	}
	cfg := a.Settings.Load()
	p := Pricer{Ledger: seen, Prices: cfg.Prices, Currency: cfg.Currency()}
	answer, err := p.Usage(r.Context(), q)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, answer)
}

// Usage answers a query with costs. Prices change from day to day and the
// ledger's totals are cut there, so that each part has one price for each
// model.
func (p Pricer) Usage(ctx context.Context, q ledger.UsageQuery) (UsageAnswer, error) {
	answer := UsageAnswer{From: httpapi.Timestamp(q.From), To: httpapi.Timestamp(q.To), By: q.By, Rows: []UsageRow{}}
	by := q.By
	if p.Prices != nil {
		answer.Currency = &p.Currency
		q.Cuts, q.MaxRows = p.Prices.Cuts(), maxPricedRows
		if !slices.Contains(by, "model") {
			q.By = append(slices.Clip(by), "model")
		}
	}
	parts, err := p.Ledger.Usage(ctx, q)
	if err != nil {
		return answer, err
	}
	timed := slices.Contains(by, "hour") || slices.Contains(by, "day")
	type key struct {
		at            time.Time
		model, client string
	}
	sums := map[key]*usageSum{}
	var order []key
	for _, part := range parts {
		k := key{at: part.Time, client: part.Client}
		if slices.Contains(by, "model") {
			k.model = string(part.Model)
		}
		if sums[k] == nil {
			sums[k] = &usageSum{}
			order = append(order, k)
		}
		sums[k].add(part, p.Prices)
	}
	if len(order) > maxUsageRows {
		return answer, fmt.Errorf("usage: %w: more than %d rows, ask for a shorter time", ledger.ErrInvalid, maxUsageRows)
	}
	slices.SortFunc(order, func(a, b key) int {
		return cmp.Or(a.at.Compare(b.at), strings.Compare(a.model, b.model), strings.Compare(a.client, b.client))
	})
	for _, k := range order {
		row := sums[k].row()
		if timed {
			row.Time = httpapi.Timestamp(k.at)
		}
		if slices.Contains(by, "model") {
			row.Model = &k.model
		}
		if slices.Contains(by, "client") {
			row.Client = &k.client
		}
		answer.Rows = append(answer.Rows, row)
	}
	return answer, nil
}

// usageSum is one row in the making.
type usageSum struct {
	ledger.Sums
	cost     llm.Money
	priced   bool  // something in it has a price
	unpriced int64 // tokens without one
}

func (s *usageSum) add(part ledger.UsageRow, prices *price.Table) {
	s.Add(part.Sums, 1)
	at := part.Part
	if !part.Time.IsZero() {
		at = part.Time
	}
	rates, known := prices.At(part.Model, at)
	if !known {
		s.unpriced += part.Usage.Total()
		return
	}
	s.priced = true
	s.cost = s.cost.Add(rates.Cost(part.Usage))
}

func (s *usageSum) row() UsageRow {
	row := UsageRow{
		RequestCount: s.Requests, UnknownUsageCount: s.UnknownUsage,
		PromptTokens: s.Input, CompletionTokens: s.Output, CachedTokens: s.Cached, ReasoningTokens: s.Reasoning,
		UnpricedTokens: s.unpriced, CacheWriteTokens: s.CacheWrite,
	}
	if s.ToldCost != (llm.Money{}) {
		row.ToldCost = httpapi.Optional(s.ToldCost.String())
	}
	if s.priced {
		row.Cost = httpapi.Optional(s.cost.String())
	}
	return row
}

// ParseTime reads a time or a date of a query.
func ParseTime(text string, otherwise time.Time) (time.Time, error) {
	if text == "" {
		return otherwise, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, httpapi.Invalid("invalid_query", "from and to: want a time such as 2026-01-31T12:00:00Z, or a date")
}
