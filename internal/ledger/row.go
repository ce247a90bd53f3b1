package ledger

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// The tables as bun sees them. The DDL is written by hand under migration/, because bun's own
// knows neither STRICT nor WITHOUT ROWID.

// AppendQuery writes an ID into a statement: as a uuid where the database has such a type, else as its 16
// bytes. It implements bun's schema.QueryAppender.
func (id ID) AppendQuery(gen schema.QueryGen, b []byte) ([]byte, error) {
	if gen.Dialect().Name() == dialect.PG {
		return gen.Dialect().AppendString(b, id.String()), nil
	}
	return gen.Dialect().AppendBytes(b, id[:]), nil
}

// Scan reads what the database makes of either; it implements sql.Scanner.
func (id *ID) Scan(src any) (err error) {
	switch src := src.(type) {
	case string:
		*id, err = parseID(src)
		return err
	case []byte:
		if len(src) == len(id) {
			copy(id[:], src)
			return nil
		}
		*id, err = parseID(string(src))
		return err
	}
	return fmt.Errorf("scan request id: unexpected %T of the database", src)
}

type nameRow struct {
	bun.BaseModel `bun:"table:names"`

	ID   int64  `bun:"id,pk,autoincrement"`
	Name string `bun:"name"`
}

// usageColumns is an llm.Usage in columns.
type usageColumns struct {
	Input     int64 `bun:"prompt_tokens"`
	Output    int64 `bun:"completion_tokens"`
	Cached    int64 `bun:"cached_tokens"`
	Reasoning int64 `bun:"reasoning_tokens"`

	CacheWrite int64 `bun:"cache_write_tokens"`
}

type sumColumns struct {
	Requests     int64 `bun:"requests"`
	UnknownUsage int64 `bun:"unknown"`
	usageColumns
	ToldNano  int64 `bun:"told_nano"`
	ToldFemto int64 `bun:"told_femto"`
}

const femtoPerNano = 1_000_000

// moneyColumns splits money in two, so that neither column runs over when they are summed.
func moneyColumns(m llm.Money) (nano, femto int64) {
	n, f := m.DivMod(femtoPerNano)
	return int64(min(n, math.MaxInt64)), int64(f)
}

func columnsOf(s Sums) sumColumns {
	nano, femto := moneyColumns(s.ToldCost)
	return sumColumns{s.Requests, s.UnknownUsage, usageColumns(s.Usage), nano, femto}
}

func (c sumColumns) sums() Sums {
	return Sums{
		Requests: c.Requests, UnknownUsage: c.UnknownUsage, Usage: llm.Usage(c.usageColumns),
		ToldCost: llm.MoneyOf(uint64(max(c.ToldNano, 0)), femtoPerNano).Add(llm.Money{Lo: uint64(max(c.ToldFemto, 0))}),
	}
}

// usageCells is the usage of one request. Unknown is NULL, because zero is a count.
type usageCells struct {
	Input     *int64 `bun:"prompt_tokens"`
	Output    *int64 `bun:"completion_tokens"`
	Cached    *int64 `bun:"cached_tokens"`
	Reasoning *int64 `bun:"reasoning_tokens"`
}

func cellsOf(r *Record) usageCells {
	if !r.UsageKnown {
		return usageCells{}
	}
	u := r.Usage
	return usageCells{&u.Input, &u.Output, &u.Cached, &u.Reasoning}
}

func (c usageCells) fill(r *Record) {
	if r.UsageKnown = c.Input != nil; r.UsageKnown {
		r.Usage = llm.Usage{Input: *c.Input, Output: *c.Output, Cached: *c.Cached, Reasoning: *c.Reasoning}
	}
}

// toldRow is what else the provider told of a request; a request of which it told nothing has none.
type toldRow struct {
	bun.BaseModel `bun:"table:request_told"`

	ID ID `bun:"id,pk,type:blob"`
	toldCells
	ToldNano  int64 `bun:"told_nano,nullzero"`
	ToldFemto int64 `bun:"told_femto,nullzero"`
	Refused   int   `bun:"refused,nullzero"` // for sums; the view has it not
}

type toldCells struct {
	CacheWrite int64  `bun:"cache_write_tokens,nullzero"`
	Total      int64  `bun:"told_total,nullzero"`
	Cost       string `bun:"told_cost,nullzero"`
	Currency   string `bun:"told_currency,nullzero"`
}

func toldOf(r *Record) toldRow {
	row := toldRow{ID: r.ID, Refused: bit(r.Refused), toldCells: toldCells{r.Usage.CacheWrite, r.Told.Total, r.Told.Cost, r.Told.Currency}}
	row.ToldNano, row.ToldFemto = moneyColumns(r.Told.Dollars())
	return row
}

func (c toldCells) fill(r *Record) {
	if r.UsageKnown {
		r.Usage.CacheWrite = c.CacheWrite
	}
	r.Told = llm.Told{Total: c.Total, Cost: c.Cost, Currency: c.Currency}
}

type sessionRow struct {
	bun.BaseModel `bun:"table:sessions,alias:sessions"`

	ID     int64  `bun:"id,pk,autoincrement"`
	Key    string `bun:"key"`
	Owner  string `bun:"client"`
	Name   string `bun:"name,nullzero"` // the id, where the key is another
	Parent string `bun:"parent"`
	sumColumns
	FirstAt int64 `bun:"first_at"`
	LastAt  int64 `bun:"last_at"`
}

func sessionRowOf(n sessionName) sessionRow {
	row := sessionRow{Key: n.key(), Owner: n.owner}
	if row.Key != n.id {
		row.Name = n.id
	}
	return row
}

func (r *sessionRow) session() Session {
	return Session{
		Owner: r.Owner, ID: cmp.Or(r.Name, r.Key), Sums: r.sums(),
		FirstAt: time.UnixMilli(r.FirstAt).UTC(), LastAt: time.UnixMilli(r.LastAt).UTC(), seq: r.ID,
	}
}

type requestRow struct {
	bun.BaseModel `bun:"table:requests"`

	ID         ID    `bun:"id,pk,type:blob"`
	SessionID  int64 `bun:"session_id,nullzero"`
	ClientID   int64 `bun:"client_id"`
	RouteID    int64 `bun:"route_id"`
	ModelID    int64 `bun:"model_id"`
	AnsweredID int64 `bun:"answered_id"`
	measures
	FirstByteMs int64 `bun:"first_byte_ms"`
	TotalMs     int64 `bun:"total_ms"`
	Status      int   `bun:"status"`
	Outcome     uint8 `bun:"outcome"`
	usageCells
}

// measures is what a finished request and one in flight have in common.
type measures struct {
	Metered         int   `bun:"metered"` // STRICT knows no boolean
	Stream          int   `bun:"stream"`
	EstimatedPrompt int64 `bun:"estimated_prompt"`
	EstimatedOutput int64 `bun:"estimated_output"`
	Attempts        int   `bun:"attempts"`
	StartedAt       int64 `bun:"started_at"`
	QueueMs         int64 `bun:"queue_ms"`
}

// requestOf makes a row of r, given the numbers of names and sessions.
func requestOf(r *Record, names, sessions map[string]int64) requestRow {
	return requestRow{
		ID: r.ID, SessionID: sessions[r.sessionName().key()],
		ClientID: names[r.Client], RouteID: names[r.Route],
		ModelID: names[string(r.Model)], AnsweredID: names[string(r.AnsweredModel)],
		measures: measuresOf(r), Status: r.Status, Outcome: uint8(r.Outcome),
		FirstByteMs: r.FirstByte.Milliseconds(), TotalMs: r.Total.Milliseconds(),
		usageCells: cellsOf(r),
	}
}

func measuresOf(r *Record) measures {
	return measures{
		Metered: bit(r.Metered), Stream: bit(r.Stream),
		EstimatedPrompt: r.EstimatedPrompt, EstimatedOutput: r.EstimatedOutput,
		Attempts: r.Attempts, StartedAt: r.StartedAt.UnixMilli(), QueueMs: r.QueueWait.Milliseconds(),
	}
}

func (m measures) fill(r *Record) {
	r.Metered, r.Stream = m.Metered != 0, m.Stream != 0
	r.EstimatedPrompt, r.EstimatedOutput = m.EstimatedPrompt, m.EstimatedOutput
	r.Attempts, r.StartedAt = m.Attempts, time.UnixMilli(m.StartedAt).UTC()
	r.QueueWait = time.Duration(m.QueueMs) * time.Millisecond
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// totalRow is a line of an answer to a UsageQuery.
type totalRow struct {
	Start  int64     `bun:"start"`
	Model  llm.Model `bun:"model"`
	Client string    `bun:"client"`
	sumColumns
}

// logRow is a line of the view request_log: a request with its names.
type logRow struct {
	bun.BaseModel `bun:"table:request_log"`

	ID       ID        `bun:"id,type:blob"`
	Owner    string    `bun:"owner"`
	Session  string    `bun:"session"`
	Parent   string    `bun:"parent"`
	Client   string    `bun:"client"`
	Route    string    `bun:"route"`
	Model    llm.Model `bun:"model"`
	Answered llm.Model `bun:"answered_model"`
	measures
	FirstByteMs int64 `bun:"first_byte_ms"`
	TotalMs     int64 `bun:"total_ms"`
	Status      int   `bun:"status"`
	Outcome     uint8 `bun:"outcome"`
	usageCells
	toldCells
}

func (l *logRow) record() Record {
	r := Record{
		ID: l.ID, Owner: l.Owner, Session: l.Session, Parent: l.Parent, Client: l.Client, Route: l.Route,
		Model: l.Model, AnsweredModel: l.Answered, Status: l.Status, Outcome: Outcome(l.Outcome),
		FirstByte: time.Duration(l.FirstByteMs) * time.Millisecond,
		Total:     time.Duration(l.TotalMs) * time.Millisecond,
	}
	l.usageCells.fill(&r)
	l.toldCells.fill(&r)
	l.measures.fill(&r)
	return r
}

// noteRow is a request in flight. It holds names as text: there are few, and they go soon.
type noteRow struct {
	bun.BaseModel `bun:"table:inflight"`

	ID      ID        `bun:"id,pk,type:blob"`
	Session string    `bun:"session"` // a sessionName's text
	Parent  string    `bun:"parent"`
	Client  string    `bun:"client"`
	Route   string    `bun:"route"`
	Model   llm.Model `bun:"model"`
	measures
}

func noteOf(r *Record) noteRow {
	return noteRow{
		ID: r.ID, Session: r.sessionName().text(), Parent: r.Parent, Client: r.Client,
		Route: r.Route, Model: r.Model, measures: measuresOf(r),
	}
}

func (n *noteRow) record() Record {
	name := sessionNameOf(n.Session)
	r := Record{
		ID: n.ID, Owner: name.owner, Session: name.id, Parent: n.Parent, Client: n.Client,
		Route: n.Route, Model: n.Model, Outcome: Interrupted,
	}
	n.fill(&r)
	return r
}

// rollupRow is a line of usage_hourly or usage_daily; the query names the table.
type rollupRow struct {
	bun.BaseModel `bun:"table:usage_hourly,alias:u"`

	Start    int64 `bun:"start,pk"`
	ModelID  int64 `bun:"model_id,pk"`
	ClientID int64 `bun:"client_id,pk"`
	sumColumns
}

type stateRow struct {
	bun.BaseModel `bun:"table:state,alias:state"`

	Name string `bun:"name,pk"`
	Data []byte `bun:"data"`
}
