package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// Every read is a range of a primary key or of an index, and bounded. Nothing here may read the table
// of requests from end to end: at ten million rows that takes seconds. A test asks SQLite for the
// query plans.

func (b *sqlBackend) readErr(what string, err error) error {
	return fmt.Errorf("%s: %w", what, b.mapErr(err))
}

// idOfSession is a session's id, of whoever it is. Both databases have an index of it.
const idOfSession = "coalesce(name, key)"

// readable asks every table that questions are answered from for next to nothing.
func (b *sqlBackend) readable(ctx context.Context) error {
	ctx, cancel := b.within(ctx)
	defer cancel()
	parts := []string{"EXISTS (SELECT 1 FROM request_log WHERE id = ?)"} // a view: its first row may cost more
	for _, table := range [...]string{"sessions", "usage_hourly", "usage_daily", "budget_usage", "state"} {
		parts = append(parts, "EXISTS (SELECT 1 FROM "+table+")")
	}
	if _, err := b.read.NewRaw("SELECT "+strings.Join(parts, ", "), ID{}).Exec(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, b.readErr("read the ledger", err))
	}
	return nil
}

func (b *sqlBackend) named(ctx context.Context, w whose, id string) ([]Session, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	var rows []sessionRow
	q := b.read.NewSelect().Model(&rows)
	if w.one {
		q = q.Where("key = ?", sessionName{w.owner, id}.key())
	} else {
		q = q.Where(idOfSession+" = ?", id)
	}
	if err := q.Scan(ctx); err != nil {
		return nil, b.readErr("session", err)
	}
	return sessionsOf(rows), nil
}

// ofOwner narrows a query to the sessions of one owner. The index leaves nobody's out.
func ofOwner(q *bun.SelectQuery, w whose) *bun.SelectQuery {
	switch {
	case !w.one:
		return q
	case w.owner == "":
		return q.Where("client = ''")
	}
	return q.Where("client = ?", w.owner).Where("client <> ''")
}

func (b *sqlBackend) sessions(ctx context.Context, w whose, after *sessionCursor, limit int) ([]Session, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	var rows []sessionRow
	q := ofOwner(b.read.NewSelect().Model(&rows), w).Order("last_at DESC", "id DESC").Limit(int64(limit))
	if after != nil {
		q = q.Where("(last_at, id) < (?, ?)", after.lastMs, after.seq)
	}
	if err := q.Scan(ctx); err != nil {
		return nil, b.readErr("sessions", err)
	}
	return sessionsOf(rows), nil
}

func (b *sqlBackend) totals(ctx context.Context, w whose, after Session, limit int) ([]Session, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	var rows []sessionRow
	var err error
	if w.one { // an owner has an id once
		err = ofOwner(b.read.NewSelect().Model(&rows), w).Where("id > ?", after.seq).
			Order("id").Limit(int64(limit)).Scan(ctx)
	} else {
		err = b.read.NewSelect().TableExpr("sessions AS u").ColumnExpr(idOfSession+" AS key, min(first_at) AS first_at, max(last_at) AS last_at").
			ColumnExpr(sumsOfRollup).Where(idOfSession+" > ?", after.ID).
			GroupExpr(idOfSession).OrderExpr(idOfSession).Limit(int64(limit)).Scan(ctx, &rows)
	}
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

func (b *sqlBackend) requests(ctx context.Context, of Session, before *ID, limit int) ([]Record, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	var rows []logRow
	q := b.read.NewSelect().Model(&rows).Where("session_id = ?", of.seq).Order("id DESC").Limit(int64(limit))
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

// upToDate tells whether the schema has all that is read. What a newer program added does no harm.
func (b *sqlBackend) upToDate(ctx context.Context) error {
	ctx, cancel := b.within(ctx)
	defer cancel()
	if err := b.read.NewSelect().Model(new([]toldRow)).Where("id = ?", ID{}).Scan(ctx); err != nil { // the newest table
		return b.readErr("read schema version", err)
	}
	return nil
}

// sumsOfRollup casts, because Postgres makes numeric of a sum of bigint.
var sumsOfRollup = func() string {
	var sums []string
	for _, c := range sumNames {
		sums = append(sums, "CAST(sum(u."+c+") AS bigint) AS "+c)
	}
	return strings.Join(sums, ", ")
}()

func (b *sqlBackend) usage(ctx context.Context, p usagePlan) (usageSum, error) {
	if p.sessions != nil {
		return b.sessionUsage(ctx, p)
	}
	ctx, cancel := b.within(ctx)
	defer cancel()
	out := usageSum{}
	for _, s := range p.spans {
		q := b.read.NewSelect().TableExpr(rollupTable(s.grain)+" AS u").
			Where("u.start >= ?", s.from).Where("u.start < ?", s.to).
			ColumnExpr(sumsOfRollup).
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
		if p.only != "" {
			q = q.Where("u.client_id = (SELECT n.id FROM names AS n WHERE n.name = ?)", p.only)
		}
		var rows []totalRow
		if err := q.Scan(ctx, &rows); err != nil {
			return nil, b.readErr("usage", err)
		}
		for _, row := range rows {
			if err := out.add(p.key(s, row.Start, row.Model, row.Client), row.sums(), p.maxRows); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func (b *sqlBackend) recentUse(ctx context.Context, since time.Time) ([]ModelUse, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	var rows []logRow
	// The primary key is the time: no index of its own is needed. It never goes back where the clock
	// does, so ids alone would call records recent for as long as the clock went back.
	if err := b.read.NewSelect().Model(&rows).Where("id >= ?", idFloor(since)).
		Where("started_at >= ?", since.UnixMilli()).Scan(ctx); err != nil {
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
	ctx, cancel := b.within(ctx)
	defer cancel()
	var row stateRow
	if err := b.read.NewSelect().Model(&row).Where("name = ?", name).Scan(ctx); err != nil {
		return nil, b.readErr("state", err)
	}
	return row.Data, nil
}

// heartbeat books the notes that were found at Open, if their writer was dead.
func (b *sqlBackend) heartbeat(ctx context.Context) (int, error) {
	if b.intact != nil {
		if err := b.intact(); err != nil {
			return 0, err
		}
	}
	cut := b.cut
	if err := b.interrupt(ctx, cut); err != nil {
		return 0, err
	}
	b.cut = nil
	return len(cut), nil
}

// interrupt books notes as requests that were cut off, and removes them. Those from before what retention has removed
// are only removed.
func (b *sqlBackend) interrupt(ctx context.Context, notes []Record) error {
	for part := range slices.Chunk(notes, maxBatch) {
		var in batch
		for i := range part {
			in.clear = append(in.clear, part[i].ID)
			if tooOld(part[i:i+1], b.pruned) == nil {
				in.records = append(in.records, part[i])
			}
		}
		if _, err := b.apply(ctx, in); err != nil {
			return fmt.Errorf("mark interrupted requests: %w", err)
		}
	}
	return nil
}

// inflight reads the notes of one instance.
func (b *sqlBackend) inflight(ctx context.Context, instance int32) ([]Record, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	var rows []noteRow
	q := b.write.NewSelect().Model(&rows).Order("id")
	if instance != 0 {
		q = q.Where("instance = ?", instance)
	}
	if err := q.Scan(ctx); err != nil {
		return nil, b.readErr("requests in flight", err)
	}
	draws, err := b.inflightDraws(ctx, rows)
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
