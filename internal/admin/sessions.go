package admin

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/price"
)

// A SessionStatus is what a session has used.
type SessionStatus struct {
	SessionID        string `json:"session_id"`
	PromptTokens     int64  `json:"total_prompt_tokens"`
	CompletionTokens int64  `json:"total_completion_tokens"`
	TotalTokens      int64  `json:"total_tokens"`
	RequestCount     int64  `json:"request_count"`
}

// A SessionRow is a line of /sessions.
type SessionRow struct {
	SessionStatus
	Client            *string `json:"client"` // whose it is; null: nobody's, since it was used without a client's key
	CachedTokens      int64   `json:"cached_tokens"`
	ReasoningTokens   int64   `json:"reasoning_tokens"`
	UnknownUsageCount int64   `json:"unknown_usage_count"`
	FirstAt           string  `json:"first_at"`
	LastAt            string  `json:"last_at"`
}

// A RequestRow is a line of /sessions/{id}/requests; counts that nobody reported are null.
type RequestRow struct {
	RequestID           string  `json:"request_id"`
	StartedAt           string  `json:"started_at"`
	SessionID           string  `json:"session_id"`
	Client              string  `json:"client"`
	Route               string  `json:"route"`
	Model               string  `json:"model"`
	AnsweredModel       string  `json:"answered_model"`
	Stream              bool    `json:"stream"`
	Metered             bool    `json:"metered"`
	Status              int     `json:"status"`
	Outcome             string  `json:"outcome"`
	UsageSource         string  `json:"usage_source"` // exact or none
	PromptTokens        *int64  `json:"prompt_tokens"`
	CompletionTokens    *int64  `json:"completion_tokens"`
	CachedTokens        *int64  `json:"cached_tokens"`
	ReasoningTokens     *int64  `json:"reasoning_tokens"`
	EstimatedPrompt     int64   `json:"estimated_prompt_tokens"`
	EstimatedCompletion int64   `json:"estimated_completion_tokens"`
	Attempts            int     `json:"attempts"`
	QueueMS             float64 `json:"queue_ms"`
	FirstByteMS         float64 `json:"first_byte_ms"`
	TotalMS             float64 `json:"total_ms"`
	Cost                *string `json:"cost"` // null where usage or price are unknown

	// What the provider said besides; null where it said nothing, and in rows of releases that did not keep it.
	CacheWriteTokens *int64  `json:"cache_write_tokens"`
	ToldTotalTokens  *int64  `json:"told_total_tokens"`
	ToldCost         *string `json:"told_cost"`
	ToldCurrency     *string `json:"told_currency"`
}

// A SessionPage is a page of /sessions.
type SessionPage struct {
	Sessions   []SessionRow `json:"sessions"`
	NextCursor *string      `json:"next_cursor"`
}

type requestPage struct {
	Requests   []RequestRow `json:"requests"`
	NextCursor *string      `json:"next_cursor"`
}

// SessionRowOf puts a session of the ledger into JSON.
func SessionRowOf(s ledger.Session) SessionRow {
	return SessionRow{statusOf(s), httpapi.Optional(s.Owner), s.Cached, s.Reasoning, s.UnknownUsage, httpapi.Timestamp(s.FirstAt), httpapi.Timestamp(s.LastAt)}
}

func statusOf(s ledger.Session) SessionStatus {
	return SessionStatus{s.ID, s.Input, s.Output, s.Usage.Total(), s.Requests}
}

// statuses writes all sessions as one object. It is written as it is read,
// so that a hundred thousand sessions need no memory here.
func (a *Admin) statuses(w http.ResponseWriter, r *http.Request, who httpapi.Caller) error {
	seen, err := a.seenBy(who, r.URL.Query(), errOthers)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	started := false
	for one, err := range seen.Status(r.Context()) {
		if err != nil {
			if started {
				return httpapi.Abort(err)
			}
			return err
		}
		separator := byte(',')
		if !started {
			w.Header().Set("Content-Type", "application/json")
			separator, started = '{', true
		}
		id, err := json.Marshal(one.ID)
		if err != nil {
			return httpapi.Abort(err)
		}
		value, err := json.Marshal(statusOf(one))
		if err != nil {
			return httpapi.Abort(err)
		}
		_ = out.WriteByte(separator)
		_, _ = out.Write(id)
		_ = out.WriteByte(':')
		if _, err := out.Write(value); err != nil {
			return httpapi.ErrClientGone // the rest need not be read
		}
	}
	if !started {
		w.Header().Set("Content-Type", "application/json")
		_ = out.WriteByte('{')
	}
	_, _ = out.WriteString("}\n")
	if out.Flush() != nil {
		return httpapi.ErrClientGone
	}
	return nil
}

func (a *Admin) status(w http.ResponseWriter, r *http.Request, who httpapi.Caller) error {
	id, seen, err := a.sessionOf(r, who)
	if err != nil {
		return err
	}
	one, err := seen.Session(r.Context(), id)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, statusOf(one))
}

func (a *Admin) sessions(w http.ResponseWriter, r *http.Request, who httpapi.Caller) error {
	limit, cursor, err := pageOf(r.URL.Query())
	if err != nil {
		return err
	}
	seen, err := a.seenBy(who, r.URL.Query(), errOthers)
	if err != nil {
		return err
	}
	page, err := seen.Sessions(r.Context(), ledger.SessionQuery{Limit: limit, Cursor: cursor})
	if err != nil {
		return err
	}
	rows := make([]SessionRow, 0, len(page.Sessions))
	for _, one := range page.Sessions {
		rows = append(rows, SessionRowOf(one))
	}
	return httpapi.WriteJSON(w, SessionPage{rows, httpapi.Optional(page.NextCursor)})
}

func (a *Admin) requests(w http.ResponseWriter, r *http.Request, who httpapi.Caller) error {
	id, seen, err := a.sessionOf(r, who)
	if err != nil {
		return err
	}
	limit, cursor, err := pageOf(r.URL.Query())
	if err != nil {
		return err
	}
	page, err := seen.Requests(r.Context(), id, ledger.RecordQuery{Limit: limit, Cursor: cursor})
	if err != nil {
		return err
	}
	rows := make([]RequestRow, 0, len(page.Records))
	for _, record := range page.Records {
		rows = append(rows, requestRowOf(record, a.Settings.Load().Prices))
	}
	return httpapi.WriteJSON(w, requestPage{rows, httpapi.Optional(page.NextCursor)})
}

// requestRowOf puts a row of the ledger into JSON; without prices it has no cost.
func requestRowOf(r ledger.Record, prices *price.Table) RequestRow {
	row := RequestRow{
		RequestID: r.ID.String(), StartedAt: httpapi.Timestamp(r.StartedAt), SessionID: r.Session, Client: r.Client,
		Route: r.Route, Model: string(r.Model), AnsweredModel: string(r.AnsweredModel), Stream: r.Stream, Metered: r.Metered,
		Status: r.Status, Outcome: r.Outcome.String(), UsageSource: "none",
		EstimatedPrompt: r.EstimatedPrompt, EstimatedCompletion: r.EstimatedOutput, Attempts: r.Attempts,
		QueueMS: httpapi.Milliseconds(r.QueueWait), FirstByteMS: httpapi.Milliseconds(r.FirstByte), TotalMS: httpapi.Milliseconds(r.Total),
	}
	if r.UsageKnown {
		row.UsageSource = "exact"
		row.PromptTokens, row.CompletionTokens = &r.Usage.Input, &r.Usage.Output
		row.CachedTokens, row.ReasoningTokens = &r.Usage.Cached, &r.Usage.Reasoning
		row.CacheWriteTokens = &r.Usage.CacheWrite
		if rates, ok := prices.At(r.Billed(), r.StartedAt); ok {
			row.Cost = httpapi.Optional(rates.Cost(r.Usage).String())
		}
	}
	if r.Told.Total > 0 {
		row.ToldTotalTokens = &r.Told.Total
	}
	row.ToldCost, row.ToldCurrency = httpapi.Optional(r.Told.Cost), httpapi.Optional(r.Told.Currency)
	return row
}

func (a *Admin) deleteSession(w http.ResponseWriter, r *http.Request, who httpapi.Caller) error {
	id, seen, err := a.sessionOf(r, who)
	if err != nil {
		return err
	}
	if err := a.Ledger.DeleteSession(r.Context(), seen, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// pageOf reads limit and cursor; the ledger judges the cursor.
func pageOf(query url.Values) (limit int, cursor string, err error) {
	limit = 50
	if text := query.Get("limit"); text != "" {
		limit, err = strconv.Atoi(text)
		if err != nil || limit < 1 || limit > 500 {
			return 0, "", httpapi.Invalid("invalid_query", "limit: want a number from 1 to 500")
		}
	}
	return limit, query.Get("cursor"), nil
}
