package client

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// SessionStatus is what a session has used. RequestCount counts metered requests
// that the upstream answered with 2xx; the sums count exact usage only.
type SessionStatus struct {
	ID                    string `json:"session_id"`
	TotalPromptTokens     int64  `json:"total_prompt_tokens"`
	TotalCompletionTokens int64  `json:"total_completion_tokens"`
	TotalTokens           int64  `json:"total_tokens"`
	RequestCount          int64  `json:"request_count"`
}

// Session is one entry of [Client.Sessions].
type Session struct {
	SessionStatus

	// Client is the name of the key that the session was used with; nil where there were no keys. The same ID of two
	// clients is two sessions. A client's key sees its own, an admin's all.
	Client *string `json:"client"`

	CachedTokens      int64     `json:"cached_tokens"`       // part of the prompt tokens
	ReasoningTokens   int64     `json:"reasoning_tokens"`    // part of the completion tokens
	UnknownUsageCount int64     `json:"unknown_usage_count"` // requests that no usage is known of
	FirstAt           time.Time `json:"first_at"`
	LastAt            time.Time `json:"last_at"`
}

// Request is one row of the ledger: one request as the client sent it, however
// many attempts it took. Token counts are nil where the usage is unknown.
type Request struct {
	ID        string    `json:"request_id"`
	StartedAt time.Time `json:"started_at"`
	SessionID string    `json:"session_id"` // "" when accounted to none
	Client    string    `json:"client"`     // the key's name, else the remote address

	Route         string `json:"route"` // "chat/completions", …, "other"
	Model         string `json:"model"` // as asked for
	AnsweredModel string `json:"answered_model"`
	Stream        bool   `json:"stream"`
	Metered       bool   `json:"metered"`
	Status        int    `json:"status"`  // HTTP status of the answer
	Outcome       string `json:"outcome"` // how it ended, "complete" when it did

	UsageSource      string `json:"usage_source"` // "exact" or "none"
	PromptTokens     *int64 `json:"prompt_tokens"`
	CompletionTokens *int64 `json:"completion_tokens"`
	CachedTokens     *int64 `json:"cached_tokens"`
	ReasoningTokens  *int64 `json:"reasoning_tokens"`

	// What the queue weighed the request by, to be compared with the above.
	EstimatedPromptTokens     int64 `json:"estimated_prompt_tokens"`
	EstimatedCompletionTokens int64 `json:"estimated_completion_tokens"`

	Attempts    int     `json:"attempts"`      // times sent upstream
	QueueMs     float64 `json:"queue_ms"`      // in the queue, over all attempts
	FirstByteMs float64 `json:"first_byte_ms"` // until the answer's first byte
	TotalMs     float64 `json:"total_ms"`

	// An exact decimal in the sidecar's currency; nil where the usage or the model's price is
	// unknown.
	Cost *string `json:"cost"`

	// What the provider said besides: its own total, and its own cost, an exact decimal in the currency that it named, if it did. Nil
	// where it said nothing.
	CacheWriteTokens *int64  `json:"cache_write_tokens"` // part of the prompt tokens
	ToldTotalTokens  *int64  `json:"told_total_tokens"`
	ToldCost         *string `json:"told_cost"`
	ToldCurrency     *string `json:"told_currency"`
}

// Sessions returns all sessions, the most recently used first. It fetches them
// page by page as the loop goes on; breaking out of the loop fetches no more. An
// error is yielded once, last.
func (c *Client) Sessions(ctx context.Context) iter.Seq2[Session, error] {
	const path = "/sessions"
	return pages(ctx, c, path, func(ctx context.Context, query url.Values) ([]Session, *string, error) {
		var page SessionPage
		err := c.call(ctx, http.MethodGet, path, query, &page)
		return page.Sessions, page.NextCursor, err
	})
}

// Requests returns the ledger's rows of a session, the newest first, in the manner
// of [Client.Sessions]. The rows are kept as long as the sidecar's retention says;
// the session's totals outlive them. An admin gets those of all clients that have a session of this id, unless
// [Client.Of] says whose.
func (c *Client) Requests(ctx context.Context, sessionID string) iter.Seq2[Request, error] {
	path, err := sessionPath(sessionID, "/requests")
	if err != nil {
		return func(yield func(Request, error) bool) { yield(Request{}, err) }
	}
	return pages(ctx, c, path, func(ctx context.Context, query url.Values) ([]Request, *string, error) {
		var page RequestPage
		err := c.call(ctx, http.MethodGet, path, query, &page)
		return page.Requests, page.NextCursor, err
	})
}

// SessionPage is one page of GET /sessions, which [Client.Sessions] walks.
type SessionPage struct {
	Sessions   []Session `json:"sessions"`
	NextCursor *string   `json:"next_cursor"` // nil on the last page
}

// RequestPage is one page of GET /sessions/{id}/requests, which [Client.Requests]
// walks.
type RequestPage struct {
	Requests   []Request `json:"requests"`
	NextCursor *string   `json:"next_cursor"` // nil on the last page
}

// Session returns what a session has used; to an admin, the sum over all clients that have one of this id, unless
// [Client.Of] says whose. The error of a session that the ledger
// does not know is an [*Error] with StatusCode 404.
func (c *Client) Session(ctx context.Context, id string) (SessionStatus, error) {
	var status SessionStatus
	path, err := sessionPath(id, "/status")
	if err == nil {
		err = c.call(ctx, http.MethodGet, path, c.whose(), &status)
	}
	return status, err
}

// Statuses returns what all sessions have used, by session id, in one answer. What several clients have used under one
// id is summed for an admin.
// [Client.Sessions] suits large installations better.
func (c *Client) Statuses(ctx context.Context) (map[string]SessionStatus, error) {
	var all map[string]SessionStatus
	err := c.call(ctx, http.MethodGet, "/sessions/status", c.whose(), &all)
	return all, err
}

// DeleteSession ends a session: its totals and rows go, while the sums of
// [Client.Usage] stay. A later request with the same id starts it anew. Where several clients have a session of this
// id, an admin gets an [*Error] with StatusCode 409, and says by [Client.Of] whose.
func (c *Client) DeleteSession(ctx context.Context, id string) error {
	path, err := sessionPath(id, "")
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, c.whose(), nil)
}

// sessionPath refuses ids that would change the path's meaning and leaves the
// rest to the sidecar's judgement.
func sessionPath(id, suffix string) (string, error) {
	if id == "" || id == "." || id == ".." {
		return "", fmt.Errorf("client: invalid session id %q", id)
	}
	return "/sessions/" + url.PathEscape(id) + suffix, nil
}
