package ledger

import (
	"context"
	"fmt"
	"time"
)

// Every read is a range of a primary key or of an index, and bounded. Nothing here may read the table
// of requests from end to end: at ten million rows that takes seconds. A test asks SQLite for the
// query plans.

func (b *sqlBackend) readErr(what string, err error) error {
	return fmt.Errorf("%s: %w", what, b.mapErr(err))
}

func (b *sqlBackend) session(ctx context.Context, key string) (Session, error) {
	var row sessionRow
	if err := b.read.NewSelect().Model(&row).Where("key = ?", key).Scan(ctx); err != nil {
		return Session{}, b.readErr("session", err)
	}
	return row.session(), nil
}

func (b *sqlBackend) sessions(ctx context.Context, after *sessionCursor, limit int) ([]Session, error) {
	var rows []sessionRow
	q := b.read.NewSelect().Model(&rows).Order("last_at DESC", "id DESC").Limit(int64(limit))
	if after != nil {
		q = q.Where("(last_at, id) < (?, ?)", after.lastMs, after.seq)
	}
	if err := q.Scan(ctx); err != nil {
		return nil, b.readErr("sessions", err)
	}
	return sessionsOf(rows), nil
}

func (b *sqlBackend) sessionsBySeq(ctx context.Context, after int64, limit int) ([]Session, error) {
	var rows []sessionRow
	err := b.read.NewSelect().Model(&rows).Where("id > ?", after).Order("id").Limit(int64(limit)).Scan(ctx)
	if err != nil {
		return nil, b.readErr("sessions", err)
	}
	return sessionsOf(rows), nil
}

func sessionsOf(rows []sessionRow) []Session {
	out := make([]Session, len(rows))
	for i := range rows {
		out[i] = rows[i].session()
	}
	return out
}

func (b *sqlBackend) requests(ctx context.Context, key string, before *ID, limit int) ([]Record, error) {
	var session sessionRow
	if err := b.read.NewSelect().Model(&session).Column("id").Where("key = ?", key).Scan(ctx); err != nil {
		return nil, b.readErr("session", err)
	}
	var rows []logRow
	q := b.read.NewSelect().Model(&rows).Where("session_id = ?", session.ID).Order("id DESC").Limit(int64(limit))
	if before != nil {
		q = q.Where("id < ?", *before)
	}
	if err := q.Scan(ctx); err != nil {
		return nil, b.readErr("requests", err)
	}
	out := make([]Record, len(rows))
	for i := range rows {
		out[i] = rows[i].record()
	}
	return out, nil
}

func (b *sqlBackend) usage(ctx context.Context, p usagePlan) (usageSum, error) {
	out := usageSum{}
	for _, s := range p.spans {
		q := b.read.NewSelect().TableExpr(rollupTable(s.grain)+" AS u").
			Where("u.start >= ?", s.from).Where("u.start < ?", s.to).
			ColumnExpr("sum(u.requests) AS requests, sum(u.unknown) AS unknown").
			ColumnExpr("sum(u.prompt_tokens) AS prompt_tokens, sum(u.completion_tokens) AS completion_tokens").
			ColumnExpr("sum(u.cached_tokens) AS cached_tokens, sum(u.reasoning_tokens) AS reasoning_tokens").
			Having("count(*) > 0").Limit(int64(p.maxRows) + 1)
		if p.step != 0 {
			q = q.ColumnExpr("u.start - u.start % ? AS start", int64(p.step)).GroupExpr("u.start - u.start % ?", int64(p.step))
		}
		if p.model {
			q = q.Join("JOIN names AS m ON m.id = u.model_id").ColumnExpr("m.name AS model").GroupExpr("u.model_id, m.name")
		}
		if p.client {
			q = q.Join("JOIN names AS c ON c.id = u.client_id").ColumnExpr("c.name AS client").GroupExpr("u.client_id, c.name")
		}
		var rows []struct {
			Start  int64  `bun:"start"`
			Model  string `bun:"model"`
			Client string `bun:"client"`
			counterColumns
		}
		if err := q.Scan(ctx, &rows); err != nil {
			return nil, b.readErr("usage", err)
		}
		for _, row := range rows {
			if err := out.add(p.key(s, row.Start, row.Model, row.Client), row.counters(), p.maxRows); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func (b *sqlBackend) recentUse(ctx context.Context, since time.Time) ([]ModelUse, error) {
	var rows []logRow
	// The primary key is the time: no index of its own is needed.
	if err := b.read.NewSelect().Model(&rows).Where("id >= ?", idFloor(since)).Scan(ctx); err != nil {
		return nil, b.readErr("recent use", err)
	}
	uses := make([]ModelUse, len(rows))
	for i := range rows {
		r := rows[i].record()
		uses[i] = used(&r)
	}
	return gather(uses), nil
}

func (b *sqlBackend) loadState(ctx context.Context, name string) ([]byte, error) {
	var row stateRow
	if err := b.read.NewSelect().Model(&row).Where("name = ?", name).Scan(ctx); err != nil {
		return nil, b.readErr("state", err)
	}
	return row.Data, nil
}

// leftovers are the notes that were found at Open, if their writer was dead.
func (b *sqlBackend) leftovers(context.Context) ([]Record, error) { return b.cut, nil }

func (b *sqlBackend) inflight(ctx context.Context) ([]Record, error) {
	var rows []noteRow
	if err := b.write.NewSelect().Model(&rows).Order("id").Scan(ctx); err != nil {
		return nil, b.readErr("requests in flight", err)
	}
	draws, err := b.inflightDraws(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Record, len(rows))
	for i := range rows {
		out[i] = rows[i].record()
		out[i].Draws = draws[out[i].ID]
	}
	return out, nil
}
