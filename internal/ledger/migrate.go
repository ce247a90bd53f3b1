package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/migrate"
)

// migrateUp brings the schema up to date. The caller holds a lock of the operating system (or of Postgres),
// and may migrate if it is alone: bun's own lock is a row, which a killed process leaves
// locked for ever. A migration is marked when it has succeeded, outside its transaction; a process
// killed in between runs it again, so every migration must bear that.
func migrateUp(ctx context.Context, db *bun.DB, files fs.FS, alone bool) error {
	known := migrate.NewMigrations()
	if err := known.Discover(files); err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	m := migrate.NewMigrator(db, known, migrate.WithMarkAppliedOnSuccess(true),
		migrate.WithTableName("schema_migrations"), migrate.WithLocksTableName("schema_migration_locks"))
	if alone {
		if err := m.Init(ctx); err != nil {
			return fmt.Errorf("prepare migrations: %w", err)
		}
	}
	foreign, err := m.MissingMigrations(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if len(foreign) > 0 {
		return fmt.Errorf("%w: schema %s is newer than this program", ErrInvalid, foreign[0].Name)
	}
	if !alone {
		all, err := m.MigrationsWithStatus(ctx)
		if err != nil {
			return fmt.Errorf("read schema version: %w", err)
		}
		if len(all.Unapplied()) > 0 {
			return errors.New("the schema must be upgraded, but another process uses it")
		}
		return nil
	}
	if _, err := m.Migrate(ctx); err != nil {
		return fmt.Errorf("migrate schema: %w", err)
	}
	return nil
}
