package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"

	"github.com/uptrace/bun"
)

// A migration is a file of statements. The name's end says what it does to programs that do not know it:
//
//	….add.sql    adds tables, columns that may be NULL or have a default, indexes, or columns at the end of a view. They go on, and
//	             start: it is noted in schema_additions, where they do not look, or have no objection.
//	….tx.up.sql  changes what they rely on. It is noted in schema_migrations, and they refuse to start.
//
// Every migration from now on is of the first kind, so that a release can be rolled back to the one before, and runs
// beside it meanwhile.
type migration struct {
	name     string // the date that it begins with
	file     string
	additive bool
}

const additiveEnd = ".add.sql"

// table is where programs look whether a migration was applied.
func (m migration) table() string {
	if m.additive {
		return "schema_additions"
	}
	return "schema_migrations"
}

// migrationsOf lists the migrations of a folder, the oldest first.
func migrationsOf(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil || len(names) == 0 {
		return nil, errors.Join(err, errors.New("no migrations"))
	}
	var all []migration
	for _, file := range names { // in the order of names, which is that of their dates
		name, _, _ := strings.Cut(path.Base(file), "_")
		all = append(all, migration{name, file, strings.HasSuffix(file, additiveEnd)})
	}
	return all, nil
}

// marks are the tables of what was applied. The first is as bun's migrator, which earlier releases use, makes and reads it.
var marks = map[string][]string{
	"sqlite": {
		`CREATE TABLE IF NOT EXISTS schema_migrations (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, name VARCHAR, group_id INTEGER,
			migrated_at TIMESTAMP NOT NULL DEFAULT current_timestamp)`,
		`CREATE TABLE IF NOT EXISTS schema_additions (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID`,
	},
	"pg": {
		`CREATE TABLE IF NOT EXISTS schema_migrations (id BIGSERIAL NOT NULL PRIMARY KEY, name VARCHAR, group_id BIGINT,
			migrated_at TIMESTAMPTZ NOT NULL DEFAULT current_timestamp)`,
		`CREATE TABLE IF NOT EXISTS schema_additions (name text PRIMARY KEY)`,
	},
}

// A migrator brings the schema of one database up to date.
type migrator struct {
	files  fs.FS
	alone  bool     // no other program uses the database: what is not additive may be done
	before []string // statements for the transaction to begin with
	logger *slog.Logger
}

// up does all that is missing in one transaction, with its marks: a process that is killed has done all of it or nothing. The
// transaction keeps other migrators away in SQLite; in Postgres the caller holds a lock.
func (m migrator) up(ctx context.Context, db *bun.DB) error {
	known, err := migrationsOf(m.files)
	if err != nil {
		return err
	}
	return db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		for _, statement := range slices.Concat(m.before, marks[db.Dialect().Name().String()]) {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("prepare migrations: %w", err)
			}
		}
		applied, err := m.applied(ctx, tx, known)
		if err != nil {
			return err
		}
		for _, one := range known {
			switch {
			case applied[one.name]:
				continue
			case !one.additive && !m.alone:
				return errors.New("the schema must be upgraded, but another process uses it")
			}
			if err := m.run(ctx, tx, one); err != nil {
				return fmt.Errorf("migrate schema to %s: %w", one.name, err)
			}
		}
		return nil
	})
}

// applied reads what was done to the schema already. What only a newer program knows is no reason to refuse, if it only added.
func (m migrator) applied(ctx context.Context, tx bun.Tx, known []migration) (map[string]bool, error) {
	applied := map[string]bool{}
	for _, table := range [...]string{"schema_migrations", "schema_additions"} {
		var names []string
		if err := tx.NewSelect().Table(table).Column("name").Order("name").Scan(ctx, &names); err != nil {
			return nil, fmt.Errorf("read schema version: %w", err)
		}
		for _, name := range names {
			applied[name] = true
			if slices.ContainsFunc(known, func(one migration) bool { return one.name == name }) {
				continue
			}
			if table == "schema_migrations" {
				return nil, fmt.Errorf("%w: schema %s is newer than this program", ErrInvalid, name)
			}
			m.logger.Info("the ledger's schema has additions of a newer release, which are left alone", slog.String("schema", name))
		}
	}
	return applied, nil
}

func (m migrator) run(ctx context.Context, tx bun.Tx, one migration) error {
	text, err := fs.ReadFile(m.files, one.file)
	if err != nil {
		return err
	}
	for statement := range strings.SplitSeq(string(text), "--bun:split") {
		_, err := tx.ExecContext(ctx, statement)
		// SQLite has no IF NOT EXISTS for columns. A column is there if marks were lost.
		if err != nil && !(one.additive && strings.Contains(err.Error(), "duplicate column name")) {
			return err
		}
	}
	row := map[string]any{"name": one.name}
	if !one.additive {
		row["group_id"] = 1 // for bun's migrator
	}
	_, err = tx.NewInsert().Model(&row).Table(one.table()).Exec(ctx)
	return err
}
