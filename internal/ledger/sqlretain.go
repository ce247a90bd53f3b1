package ledger

import (
	"context"
	"errors"

	"github.com/uptrace/bun"
)

// What goes from a database, by wish or by age, and what is kept in it beside the records.

// sliceRows is how much one slice of a deletion takes: milliseconds of the writer's time.
const sliceRows = 1000

func (b *sqlBackend) deleteSession(ctx context.Context, key string) (more bool, err error) {
	err = b.inTx(ctx, "delete session", func(ctx context.Context, tx bun.Tx) error {
		var row sessionRow
		q := tx.NewSelect().Model(&row).Where("key = ?", key)
		if b.rowLocks { // or another writer's batch would add requests behind the deletion
			q = q.For("UPDATE")
		}
		if err := q.Scan(ctx); err != nil {
			return err
		}
		slice := tx.NewSelect().Where("session_id = ?", row.ID)
		if more, err = deleteRequests(ctx, tx, slice); err != nil || more {
			return err
		}
		_, err = tx.NewDelete().Model((*sessionRow)(nil)).Where("id = ?", row.ID).Exec(ctx)
		return err
	})
	return more, err
}

// deleteRequests deletes the first requests that which picks, and tells whether there may be more.
func deleteRequests(ctx context.Context, tx bun.Tx, which *bun.SelectQuery) (more bool, err error) {
	slice := which.Model((*requestRow)(nil)).Column("id").Limit(sliceRows)
	res, err := tx.NewDelete().Model((*requestRow)(nil)).Where("id IN (?)", slice).Exec(ctx)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == sliceRows, err
}

func (b *sqlBackend) prune(ctx context.Context, h horizon) (more bool, err error) {
	if h == (horizon{}) {
		return b.tidyUp(ctx)
	}
	pruned := b.pruned
	err = b.inTx(ctx, "retention", func(ctx context.Context, tx bun.Tx) (err error) {
		if !h.records.IsZero() {
			if floor := idFloor(h.records); compareIDs(floor, pruned) > 0 {
				pruned = floor
				// Never back: another writer may keep less.
				if _, err := putState(tx, prunedState, floor[:]).Where("excluded.data > state.data").Exec(ctx); err != nil {
					return err
				}
			}
			slice := tx.NewSelect().Where("id < ?", idFloor(h.records)).Order("id")
			if more, err = deleteRequests(ctx, tx, slice); err != nil || more {
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
		_, err := putState(tx, name, data).Exec(ctx)
		return err
	})
}

func (b *sqlBackend) keepState(ctx context.Context, name string, data []byte) (kept []byte, err error) {
	err = b.inTx(ctx, "keep state", func(ctx context.Context, tx bun.Tx) error {
		row := stateRow{Name: name, Data: data}
		if _, err := tx.NewInsert().Model(&row).On("CONFLICT (name) DO NOTHING").Returning("NULL").Exec(ctx); err != nil {
			return err
		}
		return tx.NewSelect().Model((*stateRow)(nil)).Column("data").Where("name = ?", name).Scan(ctx, &kept)
	})
	return kept, err
}

func putState(tx bun.Tx, name string, data []byte) *bun.InsertQuery {
	row := stateRow{Name: name, Data: append([]byte{}, data...)} // nil would be NULL
	return tx.NewInsert().Model(&row).On("CONFLICT (name) DO UPDATE").Set("data = excluded.data").Returning("NULL")
}
