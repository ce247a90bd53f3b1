package ledger

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"modernc.org/sqlite" // and registers the driver "sqlite"
)

//go:embed migration/sqlite/*.sql
var sqliteMigrations embed.FS

const (
	// busyTimeout is how long the writer waits for another process's lock before the batch goes
	// to the journal; no client's last event waits longer.
	busyTimeout  = 250 * time.Millisecond
	openPatience = 5 * time.Second // how long Open waits for such a lock
	readers      = 4
	checkBelow   = 64 << 20 // bytes: larger files are not checked at Open, for it would take seconds
)

// openSQLite opens, checks and migrates the database file of cfg.SQLiteDSN, and sets the journal's
// place beside it.
func openSQLite(ctx context.Context, cfg *Config) (_ backend, err error) {
	path, params, err := parseSQLiteDSN(cfg.SQLiteDSN)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open ledger: sqlite %q: %w", path, err)
		}
	}()
	if err := createPrivate(path); err != nil {
		return nil, err
	}
	lock, alone, err := lockFile(ctx, path+".lock", openPatience)
	if err != nil {
		return nil, err
	}
	cfg.place = cfg.SQLiteDSN
	db := &sqliteFile{path: path, lock: lock}
	if db.real, err = filepath.EvalSymlinks(path); err != nil {
		return nil, errors.Join(err, lock.close())
	}
	b := &sqlBackend{mapErr: sqliteErr, shut: db.close, tidy: db.tidy, failed: db.makeRoom, names: map[string]int64{}}
	defer func() {
		if err != nil {
			_ = db.close(ctx)
		}
	}()
	if db.write, err = openPool(path, params, writerPragmas(cfg.Durability), 1); err != nil {
		return nil, err
	}
	if db.read, err = openPool(path, params, []string{busyPragma(), "query_only(1)"}, readers); err != nil {
		return nil, err
	}
	b.write, b.read = db.write, db.read
	if err := db.check(ctx); err != nil {
		return nil, err
	}
	db.schema = migrator{files: mustSub(sqliteMigrations, "migration/sqlite"), alone: alone, logger: cfg.Logger}
	if err := waitBusy(ctx, func() error { return db.schema.up(ctx, db.write) }); err != nil {
		return nil, sqliteErr(err)
	}
	if err := b.probe(ctx); err != nil {
		return nil, err
	}
	if alone { // a courtesy to small disks: what a crash or a migration left in the log becomes free
		_, _ = db.write.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	}
	if err := b.loadPruned(ctx); err != nil {
		return nil, err
	}
	if alone { // whoever wrote the notes is dead: see lockFile
		if b.cut, err = b.inflight(ctx, 0); err != nil {
			return nil, err
		}
		if err := lock.share(); err != nil {
			return nil, err
		}
	}
	if err := db.remember(); err != nil {
		return nil, err
	}
	b.intact = db.intact
	b.restore = func(ctx context.Context) (string, error) { return db.restore(ctx, b) }
	b.shut = func(ctx context.Context) error {
		done, err := db.restore(ctx, b) // what is open now is gone once it is closed
		if done != "" {
			cfg.Logger.Error(takenAway, slog.String("file", cfg.place), slog.String("done", done))
		}
		return errors.Join(err, db.close(ctx))
	}
	if cfg.JournalPath == "" {
		cfg.JournalPath = path + ".spill"
	}
	return b, nil
}

// readSQLite opens the database file of cfg.SQLiteDSN for reading, beside whoever writes it.
func readSQLite(ctx context.Context, cfg *Config) (_ backend, err error) {
	path, params, err := parseSQLiteDSN(cfg.SQLiteDSN)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	if _, err := os.Stat(path); err != nil { // SQLite would say less
		return nil, fmt.Errorf("open ledger: sqlite: %w", err)
	}
	params.Set("mode", "ro")
	db, err := openPool(path, params, []string{busyPragma(), "query_only(1)"}, readers)
	if err != nil {
		return nil, fmt.Errorf("open ledger: sqlite %q: %w", path, err)
	}
	b := &sqlBackend{read: db, mapErr: sqliteErr, shut: func(context.Context) error { return db.Close() }}
	if err := b.upToDate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger: sqlite %q: %w", path, err), db.Close())
	}
	return b, nil
}

// parseSQLiteDSN splits a path or file: URI. A plain path is taken literally. A database in
// memory is refused: each connection would get its own.
func parseSQLiteDSN(dsn string) (path string, params url.Values, err error) {
	params = url.Values{}
	path = dsn
	if rest, isURI := strings.CutPrefix(dsn, "file:"); isURI {
		raw, query, _ := strings.Cut(rest, "?")
		query, _, _ = strings.Cut(query, "#")
		if authority, ok := strings.CutPrefix(raw, "//"); ok {
			host, after, _ := strings.Cut(authority, "/")
			if host != "" && host != "localhost" {
				return "", nil, fmt.Errorf("%w: sqlite URI %q names a host", ErrInvalid, dsn)
			}
			raw = "/" + after
		}
		if path, err = url.PathUnescape(raw); err != nil {
			return "", nil, fmt.Errorf("%w: sqlite URI %q: %w", ErrInvalid, dsn, err)
		}
		if params, err = url.ParseQuery(query); err != nil {
			return "", nil, fmt.Errorf("%w: sqlite URI %q: %w", ErrInvalid, dsn, err)
		}
	}
	if path == "" {
		return "", nil, fmt.Errorf("%w: sqlite needs a path, such as sessions.db", ErrInvalid)
	}
	if path == ":memory:" || params.Get("mode") == "memory" || params.Get("cache") == "shared" {
		return "", nil, fmt.Errorf("%w: sqlite %q: use the memory ledger, or a file without shared cache", ErrInvalid, dsn)
	}
	return path, params, nil
}

// createPrivate makes the file, so that neither it nor SQLite's side files, which take its mode, can be
// read by others.
func createPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err // the path stands in front already
		}
		return err
	}
	return f.Close()
}

func busyPragma() string { return fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()) }

// writerPragmas are in order: the time-out covers those behind it, and auto_vacuum must
// come before the first table.
func writerPragmas(durability string) []string {
	level := "synchronous(NORMAL)"
	if durability == DurabilityFull {
		level = "synchronous(FULL)" // NORMAL in WAL mode syncs at checkpoints only
	}
	return []string{
		busyPragma(), "auto_vacuum(2)", "journal_mode(WAL)", level, "foreign_keys(1)", "journal_size_limit(67108864)",
	}
}

func openPool(path string, params url.Values, pragmas []string, conns int) (*bun.DB, error) {
	q := url.Values{}
	q.Set("mode", "rw") // the file is there: one that is taken away must not come back empty
	maps.Copy(q, params)
	q["_pragma"] = append(append([]string{}, params["_pragma"]...), pragmas...) // the last one wins
	// A transaction that reads before it writes would fail at once on a busy database, whatever
	// the time-out: take the write lock at BEGIN.
	q.Set("_txlock", "immediate")
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	pool, err := sql.Open("sqlite", "file:"+(&url.URL{Path: abs}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	pool.SetConnMaxLifetime(0)
	return bun.NewDB(pool, sqlitedialect.New()), nil
}

// sqliteFile is the file and what is open of it.
type sqliteFile struct {
	path        string // as the setting has it
	real        string // the same without links
	lock        *fileLock
	write, read *bun.DB
	schema      migrator

	identity identity
	did      string // what restore has done, while it is not at its end
}

// check refuses what is no database of ours, or a broken one, before anything is written to it.
func (f *sqliteFile) check(ctx context.Context) error {
	var mode string
	err := waitBusy(ctx, func() error {
		return f.write.NewRaw("PRAGMA journal_mode").Scan(ctx, &mode)
	})
	if err != nil {
		return sqliteErr(err)
	}
	if mode != "wal" {
		return fmt.Errorf("%w: journal mode is %q where WAL is needed: is this a network file system?", ErrUnavailable, mode)
	}
	info, err := os.Stat(f.path)
	if err != nil || info.Size() > checkBelow {
		return err
	}
	var verdict string
	if err := f.write.NewRaw("PRAGMA quick_check(1)").Scan(ctx, &verdict); err != nil {
		return sqliteErr(err)
	}
	if verdict != "ok" {
		first, _, _ := strings.Cut(verdict, "\n")
		return fmt.Errorf("%w: the database is damaged: %s", ErrUnavailable, first)
	}
	return nil
}

// waitBusy tries act until another process gives its lock back, for openPatience.
func waitBusy(ctx context.Context, act func() error) error {
	end := time.Now().Add(openPatience)
	for {
		err := act()
		if code, ok := sqliteCode(err); !ok || code != codeBusy || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
	}
}

// makeRoom gives the log's space back when the disk is full: on a small disk it may be that which fills it, long
// before SQLite would empty it by itself.
func (f *sqliteFile) makeRoom(ctx context.Context, err error) {
	if code, ok := sqliteCode(err); ok && code == codeFull {
		_, _ = f.write.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)") // at worst it is as full as before
	}
}

// A slice of vacuumSlice pages is a few milliseconds of the writer's time.
const (
	vacuumSlice = 200
	vacuumShare = 10 // vacuum while more than one page in so many is free
)

// tidy gives a slice of free pages back to the file system. Some stay: what retention frees in an hour is used
// again in the next, and a vacuum moves pages.
func (f *sqliteFile) tidy(ctx context.Context) (more bool, err error) {
	var free, all int64
	err = errors.Join(
		f.write.NewRaw("PRAGMA freelist_count").Scan(ctx, &free),
		f.write.NewRaw("PRAGMA page_count").Scan(ctx, &all))
	if err != nil || free <= max(all/vacuumShare, vacuumSlice) {
		return false, sqliteErr(err)
	}
	// Each step frees one page and is a row of the answer, so it has to be read to its end.
	rows, err := f.write.QueryContext(ctx, "PRAGMA incremental_vacuum(200)") // vacuumSlice
	if err != nil {
		return false, sqliteErr(err)
	}
	defer rows.Close()
	for rows.Next() {
	}
	return true, sqliteErr(rows.Err())
}

func (f *sqliteFile) close(ctx context.Context) error {
	var errs []error
	if f.read != nil {
		errs = append(errs, f.read.Close())
	}
	if f.write != nil {
		// Both are courtesies to the next start: a failure costs it time, and nothing else.
		_, _ = f.write.ExecContext(ctx, "PRAGMA optimize")
		_, _ = f.write.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
		errs = append(errs, f.write.Close())
	}
	if f.identity.file != nil {
		errs = append(errs, f.identity.file.Close())
	}
	if err := f.lock.close(); !errors.Is(err, os.ErrClosed) { // which restore leaves behind if it finds no place
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// SQLite's primary result codes, sqlite.org/rescode.html.
const (
	codeError      = 1
	codeBusy       = 5
	codeCorrupt    = 11
	codeFull       = 13
	codeCantOpen   = 14
	codeTooBig     = 18
	codeConstraint = 19
	codeMismatch   = 20
	codeNotADB     = 26
)

func sqliteCode(err error) (primary int, ok bool) {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0, false
	}
	return e.Code() & 0xff, true
}

// sqliteErr maps an error of the driver, once and for all: either the row is absent, or this
// data can never be stored, or the store cannot be used now. A full disk, a lock, a
// read-only or a broken file are all of the last kind: the records must survive them.
func sqliteErr(err error) error {
	if err, known := commonErr(err); known {
		return err
	}
	switch code, ok := sqliteCode(err); {
	case ok && (code == codeConstraint || code == codeTooBig || code == codeMismatch || code == codeError):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	default:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
}

func mustSub(fsys fs.FS, dir string) fs.FS {
	sub, err := fs.Sub(fsys, dir)
	if err != nil {
		panic(err) // the directory is embedded: only a typing error gets here
	}
	return sub
}
