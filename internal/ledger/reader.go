package ledger

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"
)

// A Reader answers questions about what was used. Every [Store] is one; [OpenReader] opens one
// beside a running program. It is safe for concurrent use.
type Reader struct {
	backend backend
	whose   whose
	cursors cursorSeal
}

// Of returns a Reader to which the sessions of one client are all that there are; "" is nobody, who
// sent requests without a key.
func (r *Reader) Of(client string) *Reader {
	return &Reader{r.backend, whose{client, true}, r.cursors}
}

// OpenReader opens the ledger of another process for reading. Nothing is written to it: no
// schema is brought up to date, no journal replayed, no interrupted request marked; records
// that wait in a journal are not seen yet. A memory ledger cannot be opened, which
// is ErrInvalid. Whoever opens a Reader must Close it.
func OpenReader(ctx context.Context, cfg Config) (*Reader, error) {
	var b backend
	var err error
	switch cfg.Type {
	case "sqlite":
		b, err = readSQLite(ctx, &cfg)
	case "postgres":
		b, err = readPostgres(ctx, &cfg)
	default:
		err = fmt.Errorf("open ledger: %w: a ledger of type %q lives in its process alone", ErrInvalid, cfg.Type)
	}
	if err != nil {
		return nil, err
	}
	cursors, err := cursorSealOf(newCursorKey()) // of this process: nothing is written
	return &Reader{backend: b, cursors: cursors}, err
}

// Close closes what OpenReader opened.
func (r *Reader) Close(ctx context.Context) error { return r.backend.close(ctx) }

// Session returns the totals of one session, summed over the clients that have one of this id; or ErrNotFound.
func (r *Reader) Session(ctx context.Context, id string) (Session, error) {
	found, err := r.named(ctx, id)
	if err != nil {
		return Session{}, err
	}
	return summed(found), nil
}

func (r *Reader) named(ctx context.Context, id string) ([]Session, error) {
	found, err := r.backend.named(ctx, r.whose, id)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("session: %w", ErrNotFound)
	}
	return found, err
}

// Sessions returns a page of sessions, the most recently used first. A bad cursor is ErrInvalid.
func (r *Reader) Sessions(ctx context.Context, q SessionQuery) (SessionPage, error) {
	question := r.whose.question("sessions", "")
	position, err := r.cursors.open(question, q.Cursor)
	if err != nil {
		return SessionPage{}, err
	}
	after, err := parseSessionCursor(position)
	if err != nil {
		return SessionPage{}, err
	}
	limit := pageSize(q.Limit)
	found, err := r.backend.sessions(ctx, r.whose, after, limit+1)
	if err != nil {
		return SessionPage{}, err
	}
	page := SessionPage{Sessions: found[:min(limit, len(found))]}
	if len(found) > limit {
		last := page.Sessions[limit-1]
		page.NextCursor = r.cursors.seal(question, sessionCursor{last.LastAt.UnixMilli(), last.seq}.String())
	}
	return page, nil
}

// Status walks over the totals of all ids, each summed over the clients that have it, and ends at the first error. It
// reads them in pages, so that neither memory nor a transaction is held while a slow client reads.
func (r *Reader) Status(ctx context.Context) iter.Seq2[Session, error] {
	return func(yield func(Session, error) bool) {
		for after := (Session{}); ; {
			page, err := r.backend.totals(ctx, r.whose, after, maxPage)
			if err != nil {
				yield(Session{}, err)
				return
			}
			for _, one := range page {
				if !yield(one, nil) {
					return
				}
				after = one
			}
			if len(page) < maxPage {
				return
			}
		}
	}
}

// maxEqual bounds the sessions of one id whose rows are merged.
const maxEqual = 100

// Requests returns a page of the records of a session, or of all sessions of the id, the newest first. An unknown
// session is ErrNotFound, a bad cursor ErrInvalid, an id of more than a hundred clients ErrAmbiguous.
func (r *Reader) Requests(ctx context.Context, id string, q RecordQuery) (RecordPage, error) {
	question := r.whose.question("requests", id)
	position, err := r.cursors.open(question, q.Cursor)
	if err != nil {
		return RecordPage{}, err
	}
	before, err := parseRecordCursor(position)
	if err != nil {
		return RecordPage{}, err
	}
	sessions, err := r.named(ctx, id)
	if err != nil {
		return RecordPage{}, err
	}
	if len(sessions) > maxEqual {
		return RecordPage{}, ErrAmbiguous
	}
	limit := pageSize(q.Limit)
	var found []Record
	for _, one := range sessions {
		part, err := r.backend.requests(ctx, one, before, limit+1)
		if err != nil {
			return RecordPage{}, err
		}
		found = append(found, part...)
	}
	slices.SortFunc(found, func(a, b Record) int { return compareIDs(b.ID, a.ID) })
	page := RecordPage{Records: found[:min(limit, len(found))]}
	if len(found) > limit {
		page.NextCursor = r.cursors.seal(question, page.Records[limit-1].ID.String())
	}
	return page, nil
}

// Usage returns totals from the rollups, which cost the same however many records there are; those
// of one session come from its records. A question that cannot be answered, or not within bounds, is
// ErrInvalid.
func (r *Reader) Usage(ctx context.Context, q UsageQuery) ([]UsageRow, error) {
	p, err := q.plan()
	if err == nil && q.Session != "" {
		p.sessions, err = r.named(ctx, q.Session)
	}
	if err != nil {
		return nil, err
	}
	sums, err := r.backend.usage(ctx, p)
	if err != nil {
		return nil, err
	}
	return sums.rows(p), nil
}

// RecentUse returns what was sent upstream since an instant, by model. It reads
// the records of that time: ask for minutes.
func (r *Reader) RecentUse(ctx context.Context, since time.Time) ([]ModelUse, error) {
	return r.backend.recentUse(ctx, since)
}

// BudgetUse returns what requests drew on a budget in the hours or days since an instant, in order of time.
func (r *Reader) BudgetUse(ctx context.Context, scope string, since time.Time) ([]BudgetUse, error) {
	return r.backend.budget(ctx, scope, since)
}

// LoadState returns a blob of SaveState, or ErrNotFound.
func (r *Reader) LoadState(ctx context.Context, name string) ([]byte, error) {
	return r.backend.loadState(ctx, name)
}
