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

	cut    []Record         // see leftovers
	pruned ID               // records before this id are gone; kept in the table of state
	names  map[string]int64 // committed numbers of names; the committer's own
}

// maxNames bounds the cache of names: models and clients are few, unless somebody plays.
const maxNames = 10_000

// inTx runs act in one write transaction, and maps the error. act must use tx alone: the
// pool has one connection, and waiting for a second would never end.
func (b *sqlBackend) inTx(ctx context.Context, what string, act func(context.Context, bun.Tx) error) error {
	err := b.write.RunInTx(ctx, &sql.TxOptions{}, act)
	if err != nil {
		if b.failed != nil {
			b.failed(ctx, err)
		}
		return fmt.Errorf("%s: %w", what, b.mapErr(err))
	}
	return nil
}

func (b *sqlBackend) apply(ctx context.Context, in batch) (int, error) {
	warm := len(b.names) > 0
	fresh, err := b.tryApply(ctx, in)
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
		"names", "sessions", "requests", "inflight", "usage_hourly", "usage_daily", "budget_usage", "inflight_draws",
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
	var names map[string]int64
	err := b.inTx(ctx, "store records", func(ctx context.Context, tx bun.Tx) (err error) {
		if names, err = b.nameIDs(ctx, tx, in.records); err != nil {
			return err
		}
		if err = storeNotes(ctx, tx, in.notes); err != nil {
			return err
		}
		if fresh, err = storeRecords(ctx, tx, in.records, names); err != nil {
			return err
		}
		d := sum(fresh)
		if err = addSessions(ctx, tx, d.sessions); err != nil {
			return err
		}
		if err = addRollups(ctx, tx, d, names); err != nil {
			return err
		}
		if err = addBudgets(ctx, tx, fresh, names); err != nil {
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
		for _, name := range [...]string{r.Client, r.Route, r.Model, r.AnsweredModel} {
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
// these counts each id once, whatever was retried.
func storeRecords(ctx context.Context, tx bun.Tx, records []Record, names map[string]int64) ([]Record, error) {
	if len(records) == 0 {
		return nil, nil
	}
	sessions, err := sessionIDs(ctx, tx, records)
	if err != nil {
		return nil, err
	}
	rows := make([]requestRow, len(records))
	for i := range records {
		r := &records[i]
		rows[i] = requestRow{
			ID: r.ID, SessionID: sessions[r.Session],
			ClientID: names[r.Client], RouteID: names[r.Route],
			ModelID: names[r.Model], AnsweredID: names[r.AnsweredModel],
			measures: measuresOf(r), Status: r.Status, Outcome: uint8(r.Outcome),
			FirstByteMs: r.FirstByte.Milliseconds(), TotalMs: r.Total.Milliseconds(),
		}
		if r.UsageKnown {
			rows[i].PromptTokens, rows[i].CompletionTokens = &r.Usage.Prompt, &r.Usage.Completion
			rows[i].CachedTokens, rows[i].ReasoningTokens = &r.Usage.Cached, &r.Usage.Reasoning
		}
	}
	var ids []ID // a list of its own: scanning into the model would cut rows down to the returned
	err = tx.NewInsert().Model(&rows).On("CONFLICT (id) DO NOTHING").Returning("id").Scan(ctx, &ids)
	if err != nil {
		return nil, err
	}
	if len(ids) == len(records) {
		return records, nil
	}
	fresh := make([]Record, 0, len(ids))
	isNew := make(map[ID]bool, len(ids))
	for _, id := range ids {
		isNew[id] = true
	}
	for _, r := range records {
		if isNew[r.ID] {
			fresh = append(fresh, r)
		}
	}
	return fresh, nil
}

// sessionIDs returns the numbers of the sessions of records, made where they are new.
// Rows made here are still empty; addSessions fills them in the same transaction.
func sessionIDs(ctx context.Context, tx bun.Tx, records []Record) (map[string]int64, error) {
	first := map[string]int64{}
	for i := range records {
		if key := records[i].Session; key != "" {
			ms := records[i].StartedAt.UnixMilli()
			if have, ok := first[key]; !ok || ms < have {
				first[key] = ms
			}
		}
	}
	ids := map[string]int64{"": 0}
	if len(first) == 0 {
		return ids, nil
	}
	rows := make([]sessionRow, 0, len(first))
	for _, key := range slices.Sorted(maps.Keys(first)) {
		rows = append(rows, sessionRow{Key: key, FirstAt: first[key], LastAt: first[key]})
	}
	var found []struct {
		ID  int64  `bun:"id"`
		Key string `bun:"key"`
	}
	// An update that changes nothing: DO NOTHING would not return the rows that exist.
	err := tx.NewInsert().Model(&rows).On("CONFLICT (key) DO UPDATE").Set("key = excluded.key").
		Returning("id, key").Scan(ctx, &found)
	if err != nil {
		return nil, err
	}
	for _, s := range found {
		ids[s.Key] = s.ID
	}
	return ids, nil
}

// addTo spells `column = table.column + excluded.column` for the counters.
func addTo(table string) string {
	var set []string
	for _, c := range [...]string{
		"requests", "unknown", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens",
	} {
		set = append(set, c+" = "+table+"."+c+" + excluded."+c)
	}
	return strings.Join(set, ", ")
}

var (
	addToSessions = addTo("sessions")
	addToRollup   = addTo("u")
)

func addSessions(ctx context.Context, tx bun.Tx, deltas []sessionDelta) error {
	if len(deltas) == 0 {
		return nil
	}
	rows := make([]sessionRow, len(deltas))
	for i, d := range deltas {
		rows[i] = sessionRow{
			Key: d.key, Parent: d.parent, counterColumns: columnsOf(d.counters), FirstAt: d.firstMs, LastAt: d.lastMs,
		}
	}
	_, err := tx.NewInsert().Model(&rows).On("CONFLICT (key) DO UPDATE").Set(addToSessions).
		Set("parent = CASE WHEN excluded.parent <> '' THEN excluded.parent ELSE sessions.parent END").
		Set("first_at = CASE WHEN excluded.first_at < sessions.first_at THEN excluded.first_at ELSE sessions.first_at END").
		Set("last_at = CASE WHEN excluded.last_at > sessions.last_at THEN excluded.last_at ELSE sessions.last_at END").
		Returning("NULL").Exec(ctx)
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
					Start: k.start, ModelID: names[k.model], ClientID: names[k.client], counterColumns: columnsOf(d.sums[k]),
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

func storeNotes(ctx context.Context, tx bun.Tx, notes []Record) error {
	if len(notes) == 0 {
		return nil
	}
	rows := make([]noteRow, len(notes))
	for i := range notes {
		rows[i] = noteOf(&notes[i])
	}
	if _, err := tx.NewInsert().Model(&rows).On("CONFLICT (id) DO NOTHING").Returning("NULL").Exec(ctx); err != nil {
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

// sliceRows is how much one slice of a deletion takes: milliseconds of the writer's time.
const sliceRows = 1000

func (b *sqlBackend) deleteSession(ctx context.Context, key string) (more bool, err error) {
	err = b.inTx(ctx, "delete session", func(ctx context.Context, tx bun.Tx) error {
		var row sessionRow
		if err := tx.NewSelect().Model(&row).Where("key = ?", key).Scan(ctx); err != nil {
			return err
		}
		slice := tx.NewSelect().Model((*requestRow)(nil)).Column("id").Where("session_id = ?", row.ID).Limit(sliceRows)
		res, err := tx.NewDelete().Model((*requestRow)(nil)).Where("id IN (?)", slice).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == sliceRows {
			more = true
			return err
		}
		_, err = tx.NewDelete().Model((*sessionRow)(nil)).Where("id = ?", row.ID).Exec(ctx)
		return err
	})
	return more, err
}

func (b *sqlBackend) prune(ctx context.Context, h horizon) (more bool, err error) {
	if h == (horizon{}) {
		return b.tidyUp(ctx)
	}
	pruned := b.pruned
	err = b.inTx(ctx, "retention", func(ctx context.Context, tx bun.Tx) error {
		if !h.records.IsZero() {
			if floor := idFloor(h.records); compareIDs(floor, pruned) > 0 {
				pruned = floor
				if err := putState(ctx, tx, prunedState, floor[:]); err != nil {
					return err
				}
			}
			slice := tx.NewSelect().Model((*requestRow)(nil)).Column("id").
				Where("id < ?", idFloor(h.records)).Order("id").Limit(sliceRows)
			res, err := tx.NewDelete().Model((*requestRow)(nil)).Where("id IN (?)", slice).Exec(ctx)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n == sliceRows {
				more = true
				return err
			}
		}
		if h.hours.IsZero() {
			return nil
		}
		// A day of hours at a time.
		res, err := tx.NewDelete().Model((*rollupRow)(nil)).ModelTableExpr("usage_hourly AS u").
			Where("start < ?", h.hours.UnixMilli()).
			Where("start < (SELECT min(start) FROM usage_hourly) + ?", int64(daily)).Exec(ctx)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		more = n > 0
		return err
	})
	if err != nil {
		return false, err
	}
	b.pruned = pruned
	if more {
		return true, nil
	}
	return b.tidyUp(ctx)
}

func (b *sqlBackend) tidyUp(ctx context.Context) (more bool, err error) {
	if b.tidy == nil {
		return false, nil
	}
	return b.tidy(ctx)
}

// prunedState is the name under which retention keeps how far it came. SaveState users
// have names of their own.
const prunedState = "ledger.pruned"

// loadPruned reads how far retention came in earlier lives.
func (b *sqlBackend) loadPruned(ctx context.Context) error {
	data, err := b.loadState(ctx, prunedState)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	copy(b.pruned[:], data)
	return nil
}

func (b *sqlBackend) saveState(ctx context.Context, name string, data []byte) error {
	return b.inTx(ctx, "save state", func(ctx context.Context, tx bun.Tx) error {
		return putState(ctx, tx, name, data)
	})
}

func putState(ctx context.Context, tx bun.Tx, name string, data []byte) error {
	row := stateRow{Name: name, Data: append([]byte{}, data...)} // nil would be NULL
	_, err := tx.NewInsert().Model(&row).On("CONFLICT (name) DO UPDATE").Set("data = excluded.data").
		Returning("NULL").Exec(ctx)
	return err
}

// probe takes the write lock and lets it go.
func (b *sqlBackend) probe(ctx context.Context) error {
	return b.inTx(ctx, "probe", func(ctx context.Context, tx bun.Tx) error {
		return tx.NewSelect().Model((*stateRow)(nil)).Column("name").Limit(1).Scan(ctx, new([]string))
	})
}

func (b *sqlBackend) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return b.shut(ctx)
}
