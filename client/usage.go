package client

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// UsageQuery selects usage. The zero value asks for the last 24 hours in one row.
// Usage is kept by the hour, so that is how finely From and To cut.
type UsageQuery struct {
	From, To time.Time // zero: 24 hours ago, and now
	By       []string  // any of "hour" or "day", "model", "client"

	// Session asks for one session, from its rows in that time that are still kept; "" for all usage.
	Session string
}

// Usage is the answer to a [UsageQuery].
type Usage struct {
	From     time.Time  `json:"from"`
	To       time.Time  `json:"to"`
	By       []string   `json:"by"`
	Currency *string    `json:"currency"` // of the rows' costs, such as "USD"; nil when the sidecar knows no prices
	Rows     []UsageRow `json:"rows"`
}

// UsageRow is the usage of one group. Time, Model and Client are set when the
// query grouped by them.
type UsageRow struct {
	Time   *time.Time `json:"time,omitempty"` // start of the hour or day
	Model  string     `json:"model,omitempty"`
	Client string     `json:"client,omitempty"`
	Totals

	// Cost is what the tokens with a known price cost, an exact decimal; nil when none
	// has one. UnpricedTokens are the tokens that it leaves out.
	Cost           *string `json:"cost"`
	UnpricedTokens int64   `json:"unpriced_tokens"`

	// ToldCost is what providers said that it cost, an exact decimal in US dollars; nil when none said anything.
	ToldCost *string `json:"told_cost"`
}

// Totals are sums over requests.
type Totals struct {
	RequestCount      int64 `json:"request_count"`
	UnknownUsageCount int64 `json:"unknown_usage_count"` // requests that add to no sum below
	PromptTokens      int64 `json:"prompt_tokens"`
	CompletionTokens  int64 `json:"completion_tokens"`
	CachedTokens      int64 `json:"cached_tokens"`    // part of PromptTokens
	ReasoningTokens   int64 `json:"reasoning_tokens"` // part of CompletionTokens

	CacheWriteTokens int64 `json:"cache_write_tokens"` // part of PromptTokens
}

// Add returns the sum of t and o.
func (t Totals) Add(o Totals) Totals {
	return Totals{
		RequestCount:      t.RequestCount + o.RequestCount,
		UnknownUsageCount: t.UnknownUsageCount + o.UnknownUsageCount,
		PromptTokens:      t.PromptTokens + o.PromptTokens,
		CompletionTokens:  t.CompletionTokens + o.CompletionTokens,
		CachedTokens:      t.CachedTokens + o.CachedTokens,
		ReasoningTokens:   t.ReasoningTokens + o.ReasoningTokens,
		CacheWriteTokens:  t.CacheWriteTokens + o.CacheWriteTokens,
	}
}

// Usage returns usage over all sessions, deleted ones included, or of one, grouped as q says. A client's key sees its own
// usage, an admin's all, or that of one client by [Client.Of].
func (c *Client) Usage(ctx context.Context, q UsageQuery) (Usage, error) {
	query := c.whose()
	if !q.From.IsZero() {
		query.Set("from", q.From.UTC().Format(time.RFC3339))
	}
	if !q.To.IsZero() {
		query.Set("to", q.To.UTC().Format(time.RFC3339))
	}
	if len(q.By) > 0 {
		query.Set("by", strings.Join(q.By, ","))
	}
	if q.Session != "" {
		query.Set("session", q.Session)
	}
	var usage Usage
	err := c.call(ctx, http.MethodGet, "/usage", query, &usage)
	return usage, err
}

// Totals returns the sum of all usage from from to to, which mean what they mean
// in a [UsageQuery].
func (c *Client) Totals(ctx context.Context, from, to time.Time) (Totals, error) {
	usage, err := c.Usage(ctx, UsageQuery{From: from, To: to})
	var sum Totals
	for _, row := range usage.Rows {
		sum = sum.Add(row.Totals)
	}
	return sum, err
}
