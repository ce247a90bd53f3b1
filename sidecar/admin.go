package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/price"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
)

// The JSON of the sidecar's own routes. Package client has the same types for
// Go callers; a test in examples holds the two equal.

type sessionStatus struct {
	SessionID        string `json:"session_id"`
	PromptTokens     int64  `json:"total_prompt_tokens"`
	CompletionTokens int64  `json:"total_completion_tokens"`
	TotalTokens      int64  `json:"total_tokens"`
	RequestCount     int64  `json:"request_count"`
}

type sessionRow struct {
	sessionStatus
	CachedTokens      int64  `json:"cached_tokens"`
	ReasoningTokens   int64  `json:"reasoning_tokens"`
	UnknownUsageCount int64  `json:"unknown_usage_count"`
	FirstAt           string `json:"first_at"`
	LastAt            string `json:"last_at"`
}

type requestRow struct {
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
}

type sessionPage struct {
	Sessions   []sessionRow `json:"sessions"`
	NextCursor *string      `json:"next_cursor"`
}

type requestPage struct {
	Requests   []requestRow `json:"requests"`
	NextCursor *string      `json:"next_cursor"`
}

func sessionRowOf(s ledger.Session) sessionRow {
	return sessionRow{statusOf(s), s.Cached, s.Reasoning, s.UnknownUsage, httpapi.Timestamp(s.FirstAt), httpapi.Timestamp(s.LastAt)}
}

func statusOf(s ledger.Session) sessionStatus {
	return sessionStatus{s.ID, s.Input, s.Output, s.Usage.Total(), s.Requests}
}

// handleStatus writes all sessions as one object. It is written as it is read,
// so that a hundred thousand sessions need no memory here.
func (s *server) handleStatus(w http.ResponseWriter, r *http.Request, _ string) error {
	out := bufio.NewWriter(w)
	started := false
	for one, err := range s.ledger.Status(r.Context()) {
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

func (s *server) handleSessionStatus(w http.ResponseWriter, r *http.Request, _ string) error {
	id := r.PathValue("id")
	if err := session.CheckID(id); err != nil {
		return err
	}
	one, err := s.ledger.Session(r.Context(), id)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, statusOf(one))
}

func (s *server) handleSessions(w http.ResponseWriter, r *http.Request, _ string) error {
	limit, cursor, err := pageOf(r.URL.Query())
	if err != nil {
		return err
	}
	page, err := s.ledger.Sessions(r.Context(), ledger.SessionQuery{Limit: limit, Cursor: cursor})
	if err != nil {
		return err
	}
	rows := make([]sessionRow, 0, len(page.Sessions))
	for _, one := range page.Sessions {
		rows = append(rows, sessionRowOf(one))
	}
	return httpapi.WriteJSON(w, sessionPage{rows, httpapi.Optional(page.NextCursor)})
}

func (s *server) handleRequests(w http.ResponseWriter, r *http.Request, _ string) error {
	id := r.PathValue("id")
	if err := session.CheckID(id); err != nil {
		return err
	}
	limit, cursor, err := pageOf(r.URL.Query())
	if err != nil {
		return err
	}
	page, err := s.ledger.Requests(r.Context(), id, ledger.RecordQuery{Limit: limit, Cursor: cursor})
	if err != nil {
		return err
	}
	rows := make([]requestRow, 0, len(page.Records))
	for _, record := range page.Records {
		rows = append(rows, requestRowOf(record, s.cfg.Load().Prices))
	}
	return httpapi.WriteJSON(w, requestPage{rows, httpapi.Optional(page.NextCursor)})
}

func requestRowOf(r ledger.Record, prices *price.Table) requestRow {
	row := requestRow{
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
		if rates, ok := prices.At(r.Billed(), r.StartedAt); ok {
			row.Cost = httpapi.Optional(rates.Cost(r.Usage).String())
		}
	}
	return row
}

func (s *server) handleDeleteSession(w http.ResponseWriter, r *http.Request, _ string) error {
	id := r.PathValue("id")
	if err := session.CheckID(id); err != nil {
		return err
	}
	if err := s.ledger.DeleteSession(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) handleLive(w http.ResponseWriter, _ *http.Request, _ string) error {
	return httpapi.WriteJSON(w, map[string]string{"status": "ok"})
}

// handleReady says whether this process should get requests. A provider that
// is down is no reason to say no: the queue is what requests are sent here for.
func (s *server) handleReady(w http.ResponseWriter, r *http.Request, _ string) error {
	if s.guard.Draining() {
		return httpapi.ErrShuttingDown
	}
	if err := s.ledger.Ready(r.Context()); err != nil {
		s.logger.Warn("ledger not ready", "error", err.Error())
		if refusing := s.ledgerFit(s.cfg.Load()); refusing != nil {
			return refusing
		}
		return httpapi.WriteJSON(w, map[string]string{"status": "degraded", "ledger": "takes no records at the moment"})
	}
	return httpapi.WriteJSON(w, map[string]string{"status": "ok"})
}

func (s *server) handleQueue(w http.ResponseWriter, _ *http.Request, _ string) error {
	return httpapi.WriteJSON(w, queueStatusOf(s.limits.Snapshot(), time.Now()))
}

type queueStatus struct {
	Waiting  int            `json:"waiting"`
	InFlight int            `json:"in_flight"`
	Groups   []queueGroup   `json:"groups"`
	Sessions []queueSession `json:"sessions"`
}

type queueGroup struct {
	Name        string       `json:"name"`
	Profile     string       `json:"profile"`
	Waiting     int          `json:"waiting"`
	InFlight    int          `json:"in_flight"`
	PausedUntil *string      `json:"paused_until"`
	HalfOpen    bool         `json:"half_open"`
	Limits      []queueLimit `json:"limits"`
}

type queueLimit struct {
	Name   string  `json:"name"`
	Limit  int64   `json:"limit"`
	Level  float64 `json:"level"`
	Source string  `json:"source"` // configured or learned
}

type queueSession struct {
	Client    string  `json:"client"`
	SessionID string  `json:"session_id"`
	Group     string  `json:"group"`
	Waiting   int     `json:"waiting"`
	Position  int     `json:"position"`
	Weight    float64 `json:"weight"`
}

// queueStatusOf shows the limiter's groups; the caps over all of them come
// first, as a group without a name. A session's position is its place in the
// order of service among those that wait in its group, as it stands now.
func queueStatusOf(snap limit.Snapshot, now time.Time) queueStatus {
	status := queueStatus{Waiting: snap.Waiting, InFlight: snap.InFlight, Groups: []queueGroup{}, Sessions: []queueSession{}}
	if len(snap.Global) > 0 {
		status.Groups = append(status.Groups, queueGroup{Waiting: snap.Waiting, InFlight: snap.InFlight, Limits: queueLimits(snap.Global)})
	}
	for _, g := range snap.Groups {
		group := queueGroup{Name: g.Name, Profile: g.Profile, Waiting: g.Waiting, InFlight: g.InFlight, HalfOpen: g.HalfOpen, Limits: queueLimits(g.Meters)}
		if g.Paused > 0 {
			group.PausedUntil = httpapi.Optional(httpapi.Timestamp(now.Add(g.Paused)))
		}
		status.Groups = append(status.Groups, group)
		slices.SortFunc(g.Sessions, func(a, b limit.SessionState) int {
			return cmp.Or(-cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Lag, b.Lag), strings.Compare(a.Session, b.Session))
		})
		position := 0
		for _, q := range g.Sessions {
			if q.Waiting == 0 {
				continue
			}
			position++
			status.Sessions = append(status.Sessions, queueSession{q.Client, q.Session, g.Name, q.Waiting, position, q.Weight})
		}
	}
	return status
}

func queueLimits(meters []limit.Meter) []queueLimit {
	limits := make([]queueLimit, 0, len(meters))
	for _, m := range meters {
		source := "configured"
		if m.Learned {
			source = "learned"
		}
		limits = append(limits, queueLimit{m.Name, m.Limit, m.Level, source})
	}
	return limits
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
