package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// sqlBackend is the ledger in a database. Everything in it is SQL that SQLite and Postgres
// share; what differs is in the file of each.
type sqlBackend struct {
	write  *bun.DB           // one connection: the committer's
	read   *bun.DB           // a few, read-only
	mapErr func(error) error // driver errors to ErrUnavailable and ErrInvalid
	shut   func(context.Context) error
	failed func(context.Context, error)                 // what can be done about a driver's error before the next attempt; nil = nothing
	tidy   func(context.Context) (more bool, err error) // a slice of what prune leaves to do; nil = nothing

	intact  func() error                                 // whether what was committed can still be found; nil = it can
	restore func(context.Context) (done string, _ error) // see backend.revive; nil = nothing can be done

	patience time.Duration // for one transaction or query; 0 = the database's own is enough
	rowLocks bool          // others write to the same database: lock rows, not only the file
	instance int32         // who notes requests in flight; 0 = the file has one

	cut    []Record         // see heartbeat
	pruned ID               // records before this id are gone; kept in the table of state
	names  map[string]int64 // committed numbers of names; the committer's own
}

// maxNames bounds the cache of names: models and clients are few, unless somebody plays.
const maxNames = 10_000

// within bounds one transaction or query, for a server that may never answer.
func (b *sqlBackend) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if b.patience == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, b.patience)
}

// inTx runs act in one write transaction, and maps the error. act must use tx alone: the
// pool has one connection, and waiting for a second would never end.
func (b *sqlBackend) inTx(ctx context.Context, what string, act func(context.Context, bun.Tx) error) error {
	ctx, cancel := b.within(ctx)
	defer cancel()
	err := b.mapErr(b.write.RunInTx(ctx, &sql.TxOptions{}, act))
	if err == nil && b.intact != nil {
		err = b.intact()
	}
	if err == nil {
		return nil
	}
	if b.failed != nil {
		b.failed(ctx, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// commonErr maps what needs no look into the driver's error; false: the driver's code decides.
func commonErr(err error) (mapped error, known bool) { //nolint:revive // the error is what is asked for
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound, true
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrInvalid), errors.Is(err, ErrUnavailable):
		return err, true
	}
	return nil, false
}

// errConflict says that another writer of the same database came in between: the same batch
// may be tried again at once.
var errConflict = fmt.Errorf("%w: another writer was in the way", ErrUnavailable)

// maxTries bounds how often a batch is tried again at once, before it counts as an outage.
const maxTries = 4

func (b *sqlBackend) apply(ctx context.Context, in batch) (int, error) {
	warm := len(b.names) > 0
	fresh, err := b.tryApply(ctx, in)
	for n := 1; errors.Is(err, errConflict) && n < maxTries; n++ {
		fresh, err = b.tryApply(ctx, in)
	}
	if errors.Is(err, ErrInvalid) && warm {
		fresh, err = b.tryApply(ctx, in) // it may have been the cache
	}
	if errors.Is(err, ErrInvalid) {
		// A statement that cannot be run at all is not the records' fault.
		if broken := b.tables(ctx); broken != nil {
			return 0, fmt.Errorf("%w: %w", ErrUnavailable, broken)
		}
	}
	return fresh, err
}

// tables tells whether all tables that apply writes are there.
func (b *sqlBackend) tables(ctx context.Context) error {
	for _, table := range [...]string{
		"names", "sessions", "requests", "request_told", "inflight", "usage_hourly", "usage_daily", "budget_usage", "inflight_draws",
	} {
		if _, err := b.write.NewSelect().TableExpr(table).ColumnExpr("1").Limit(1).Exec(ctx); err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
	}
	return nil
}

func (b *sqlBackend) tryApply(ctx context.Context, in batch) (int, error) {
	if err := tooOld(in.records, b.pruned); err != nil {
		return 0, err
	}
	var fresh []Record
	var names, sessions map[string]int64
	err := b.inTx(ctx, "store records", func(ctx context.Context, tx bun.Tx) (err error) {
		if names, err = b.nameIDs(ctx, tx, in.records); err != nil {
			return err
		}
		if err = b.storeNotes(ctx, tx, in.notes); err != nil {
			return err
		}
		if sessions, err = sessionIDs(ctx, tx, in.records); err != nil {
			return err
		}
		var replaced []Record
		if fresh, replaced, err = storeRecords(ctx, tx, in.records, names, sessions); err != nil {
			return err
		}
		if err = storeTold(ctx, tx, fresh); err != nil {
			return err
		}
		d := sum(fresh, replaced)
		if err = addSessions(ctx, tx, d.sessions, sessions); err != nil {
			return err
		}
		if err = addRollups(ctx, tx, d, names); err != nil {
			return err
		}
		if err = addBudgets(ctx, tx, fresh, replaced, names); err != nil {
			return err
		}
		return clearNotes(ctx, tx, in.clear)
	})
	if err != nil {
		// What the transaction inserted is gone; and another process may have removed what
		// the cache believes in.
		clear(b.names)
		return 0, err
	}
	if len(b.names)+len(names) > maxNames {
		clear(b.names)
	}
	maps.Copy(b.names, names)
	return len(fresh), nil
}

// nameIDs returns the numbers of all names in records, from the cache or the table.
func (b *sqlBackend) nameIDs(ctx context.Context, tx bun.Tx, records []Record) (map[string]int64, error) {
	ids := map[string]int64{}
	missing := map[string]bool{}
	for i := range records {
		r := &records[i]
		want := func(name string) {
			if id, ok := b.names[name]; ok {
				ids[name] = id
			} else {
				missing[name] = true
			}
		}
		for _, name := range [...]string{r.Client, r.Route, string(r.Model), string(r.AnsweredModel)} {
			want(name)
		}
		for _, d := range r.Draws {
			want(d.Scope)
		}
	}
	if len(missing) == 0 {
		return ids, nil
	}
	wanted := slices.Sorted(maps.Keys(missing))
	rows := make([]nameRow, len(wanted))
	for i, name := range wanted {
		rows[i].Name = name
	}
	if _, err := tx.NewInsert().Model(&rows).On("CONFLICT (name) DO NOTHING").Returning("NULL").Exec(ctx); err != nil {
		return nil, err
	}
	var found []nameRow
	if err := tx.NewSelect().Model(&found).Where("name IN (?)", bun.List(wanted)).Scan(ctx); err != nil {
		return nil, err
	}
	for _, row := range found {
		ids[row.Name] = row.ID
	}
	return ids, nil
}

// storeRecords inserts what is new and returns it: whoever counts only
// these counts each id once, whatever was retried. See replace for the second list.
func storeRecords(ctx context.Context, tx bun.Tx, records []Record, names, sessions map[string]int64) (fresh, replaced []Record, err error) {
	if len(records) == 0 {
		return nil, nil, nil
	}
	rows := make([]requestRow, len(records))
	for i := range records {
		rows[i] = requestOf(&records[i], names, sessions)
	}
	isNew, err := insertRequests(ctx, tx, rows)
	if err != nil {
		return nil, nil, err
	}
	if len(isNew) == len(records) {
		return records, nil, nil
	}
	if replaced, err = replace(ctx, tx, rows, isNew); err != nil {
		return nil, nil, err
	}
	fresh = make([]Record, 0, len(isNew))
	for _, r := range records {
		if isNew[r.ID] {
			fresh = append(fresh, r)
		}
	}
	return fresh, replaced, nil
}

// insertRequests inserts rows whose ids are not there, in the order of ids, and returns these ids.
func insertRequests(ctx context.Context, tx bun.Tx, rows []requestRow) (map[ID]bool, error) {
	slices.SortFunc(rows, func(a, b requestRow) int { return compareIDs(a.ID, b.ID) })
	var ids []ID // a list of its own: scanning into the model would cut rows down to the returned
	err := tx.NewInsert().Model(&rows).On("CONFLICT (id) DO NOTHING").Returning("id").Scan(ctx, &ids)
	isNew := make(map[ID]bool, len(ids))
	for _, id := range ids {
		isNew[id] = true
	}
	return isNew, err
}

// storeTold keeps what providers told of requests that were inserted.
func storeTold(ctx context.Context, tx bun.Tx, fresh []Record) error {
	var rows []toldRow
	for i := range fresh {
		if row := toldOf(&fresh[i]); row.toldCells != (toldCells{}) || row.Refused != 0 {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	slices.SortFunc(rows, func(a, b toldRow) int { return compareIDs(a.ID, b.ID) })
	_, err := tx.NewInsert().Model(&rows).Returning("NULL").Exec(ctx)
	return err
}

// replace puts rows that say how a request ended in the place of ones that were booked as interrupted, marks them
// as new, and returns what they replaced. That happens where the process was taken for dead and was not: only
// cut off from a database that it shares. Exact usage must not be lost to that.
func replace(ctx context.Context, tx bun.Tx, rows []requestRow, isNew map[ID]bool) ([]Record, error) {
	late := map[ID]requestRow{}
	for _, row := range rows {
		if !isNew[row.ID] && Outcome(row.Outcome) != Interrupted {
			late[row.ID] = row
		}
	}
	if len(late) == 0 {
		return nil, nil
	}
	var old []logRow
	err := tx.NewSelect().Model(&old).Where("id IN (?)", bun.List(slices.Collect(maps.Keys(late)))).
		Where("outcome = ?", Interrupted).Scan(ctx)
	if err != nil || len(old) == 0 {
		return nil, err
	}
	ids := make([]ID, len(old))
	again := make([]requestRow, len(old))
	replaced := make([]Record, len(old))
	for i := range old {
		ids[i], again[i], replaced[i] = old[i].ID, late[old[i].ID], old[i].record()
	}
	if err := readRefused(ctx, tx, ids, replaced); err != nil { // it goes with the rows
		return nil, err
	}
	res, err := tx.NewDelete().Model((*requestRow)(nil)).Where("id IN (?)", bun.List(ids)).
		Where("outcome = ?", Interrupted).Exec(ctx)
	if err != nil {
		return nil, err
	}
	if n, err := res.RowsAffected(); err != nil || n != int64(len(ids)) {
		return nil, errors.Join(errConflict, err)
	}
	inserted, err := insertRequests(ctx, tx, again)
	if err == nil && len(inserted) != len(again) {
		err = errConflict
	}
	maps.Copy(isNew, inserted)
	return replaced, err
}

// readRefused reads which of the records, whose ids are given, were refused: sums have to
// know, and the view does not.
func readRefused(ctx context.Context, tx bun.Tx, ids []ID, records []Record) error {
	var refused []ID
	err := tx.NewSelect().Model((*toldRow)(nil)).Column("id").Where("id IN (?)", bun.List(ids)).Where("refused = 1").Scan(ctx, &refused)
	for i := range records {
		records[i].Refused = slices.Contains(refused, records[i].ID)
	}
	return err
}

// sessionIDs returns the numbers of the sessions of records, made where they are new.
// Rows made here are still empty; addSessions fills them in the same transaction.
func sessionIDs(ctx context.Context, tx bun.Tx, records []Record) (map[string]int64, error) {
	first := map[string]sessionRow{}
	for i := range records {
		if row := sessionRowOf(records[i].sessionName()); row.Key != "" {
			row.FirstAt = records[i].StartedAt.UnixMilli()
			row.LastAt = row.FirstAt
			if have, ok := first[row.Key]; !ok || row.FirstAt < have.FirstAt {
				first[row.Key] = row
			}
		}
	}
	ids := map[string]int64{"": 0}
	if len(first) == 0 {
		return ids, nil
	}
	keys := slices.Sorted(maps.Keys(first))
	find := func() error {
		var found []sessionRow
		err := tx.NewSelect().Model(&found).Column("id", "key").Where("key IN (?)", bun.List(keys)).Scan(ctx)
		for _, s := range found {
			ids[s.Key] = s.ID
		}
		return err
	}
	if err := find(); err != nil || len(ids) > len(keys) {
		return ids, err
	}
	var rows []sessionRow
	for _, key := range keys {
		if _, known := ids[key]; !known {
			rows = append(rows, first[key])
		}
	}
	if _, err := tx.NewInsert().Model(&rows).On("CONFLICT (key) DO NOTHING").Returning("NULL").Exec(ctx); err != nil {
		return nil, err
	}
	return ids, find() // not by RETURNING, which is silent about what another writer has just made
}

var sumNames = [...]string{
	"requests", "unknown", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens",
	"cache_write_tokens", "told_nano", "told_femto",
}

// addTo spells `column = table.column + excluded.column` for the sums.
func addTo(table string) string {
	var set []string
	for _, c := range sumNames {
		set = append(set, c+" = "+table+"."+c+" + excluded."+c)
	}
	return strings.Join(set, ", ")
}

var (
	addToSessions = addTo("sessions")
	addToRollup   = addTo("u")
)

// addSessions adds what the batch adds up to. ids are the numbers that its requests were stored under: another
// writer may have ended the session since.
func addSessions(ctx context.Context, tx bun.Tx, deltas []sessionDelta, ids map[string]int64) error {
	if len(deltas) == 0 {
		return nil
	}
	rows := make([]sessionRow, len(deltas))
	for i, d := range deltas {
		rows[i] = sessionRowOf(d.sessionName)
		rows[i].Parent, rows[i].sumColumns, rows[i].FirstAt, rows[i].LastAt = d.parent, columnsOf(d.sums), d.firstMs, d.lastMs
	}
	var stored []struct {
		ID  int64  `bun:"id"`
		Key string `bun:"key"`
	}
	err := tx.NewInsert().Model(&rows).On("CONFLICT (key) DO UPDATE").Set(addToSessions).
		Set("client = excluded.client, name = excluded.name"). // an earlier release may have made the row of a note
		Set("parent = CASE WHEN excluded.parent <> '' THEN excluded.parent ELSE sessions.parent END").
		Set("first_at = CASE WHEN excluded.first_at < sessions.first_at THEN excluded.first_at ELSE sessions.first_at END").
		Set("last_at = CASE WHEN excluded.last_at > sessions.last_at THEN excluded.last_at ELSE sessions.last_at END").
		Returning("id, key").Scan(ctx, &stored)
	for _, s := range stored {
		if s.ID != ids[s.Key] {
			return errConflict
		}
	}
	return err
}

func rollupTable(g grain) string {
	if g == hourly {
		return "usage_hourly"
	}
	return "usage_daily"
}

func addRollups(ctx context.Context, tx bun.Tx, d delta, names map[string]int64) error {
	for _, g := range [...]grain{hourly, daily} {
		var rows []rollupRow
		for _, k := range d.rollups {
			if k.grain == g {
				rows = append(rows, rollupRow{
					Start: k.start, ModelID: names[string(k.model)], ClientID: names[k.client], sumColumns: columnsOf(d.sums[k]),
				})
			}
		}
		if len(rows) == 0 {
			continue
		}
		_, err := tx.NewInsert().Model(&rows).ModelTableExpr(rollupTable(g) + " AS u").
			On("CONFLICT (start, model_id, client_id) DO UPDATE").Set(addToRollup).Returning("NULL").Exec(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *sqlBackend) storeNotes(ctx context.Context, tx bun.Tx, notes []Record) error {
	if len(notes) == 0 {
		return nil
	}
	rows := make([]noteRow, len(notes))
	for i := range notes {
		rows[i] = noteOf(&notes[i])
	}
	q := tx.NewInsert().Model(&rows).On("CONFLICT (id) DO NOTHING").Returning("NULL")
	if b.instance != 0 {
		q = q.Value("instance", "?", b.instance)
	}
	if _, err := q.Exec(ctx); err != nil {
		return err
	}
	return storeDraws(ctx, tx, notes)
}

func clearNotes(ctx context.Context, tx bun.Tx, ids []ID) error {
	if len(ids) == 0 {
		return nil
	}
	for _, table := range []any{(*noteRow)(nil), (*drawRow)(nil)} {
		if _, err := tx.NewDelete().Model(table).Where("id IN (?)", bun.List(ids)).Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// probe takes the write lock and lets it go.
func (b *sqlBackend) probe(ctx context.Context) error {
	return b.inTx(ctx, "probe", func(ctx context.Context, tx bun.Tx) error {
		return tx.NewSelect().Model((*stateRow)(nil)).Column("name").Limit(1).Scan(ctx, new([]string))
	})
}

func (b *sqlBackend) revive(ctx context.Context) (done string, err error) {
	if b.restore != nil {
		if done, err = b.restore(ctx); err != nil {
			return "", err
		}
	}
	return done, b.probe(ctx)
}

func (b *sqlBackend) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return b.shut(ctx)
}
