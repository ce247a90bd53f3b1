package ledger

import (
	"bytes"
	"database/sql"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/uptrace/bun"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger/pgtest"
)

// statements are those of all migrations of SQLite, in order.
func statements(t *testing.T) (all []string) {
	t.Helper()
	files, err := fs.Glob(sqliteMigrations, "migration/sqlite/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		text, err := fs.ReadFile(sqliteMigrations, name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Split(string(text), "--bun:split")...)
	}
	return all
}

// A process may die between any two statements of a migration, and between the last and the mark
// that it was applied. The next one goes on.
func TestMigrate_ResumesAfterAnyStatement(t *testing.T) {
	all := statements(t)
	for done := range len(all) + 1 {
		t.Run(fmt.Sprint(done), func(t *testing.T) {
			dsn := filepath.Join(t.TempDir(), "x.db")
			db, err := sql.Open("sqlite", "file:"+dsn+"?_pragma=auto_vacuum(2)&_pragma=journal_mode(WAL)")
			if err != nil {
				t.Fatal(err)
			}
			for _, statement := range all[:done] {
				if _, err := db.ExecContext(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			usable(t, dsn)
		})
	}
}

// Nor does it harm what is stored, if only the mark of a migration is missing.
func TestMigrate_WithoutItsMark(t *testing.T) {
	dsn := filepath.Join(t.TempDir(), "x.db")
	s := open(t, Config{Type: "sqlite", SQLiteDSN: dsn})
	record(t, s, testRecord("a"))
	all, err := migrationsOf(mustSub(sqliteMigrations, "migration/sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	for i, one := range all {
		res, err := s.backend.(*sqlBackend).write.Exec("DELETE FROM ? WHERE name = ?", bun.Ident(one.table()), one.name)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := res.RowsAffected(); n != 1 {
			t.Fatalf("%d marks of %s, %v", n, one.name, err)
		}
		closeStore(t, s)
		s = open(t, Config{Type: "sqlite", SQLiteDSN: dsn})
		record(t, s, testRecord("a"))
		if got := session(t, s, "a"); got.Requests != int64(i+2) {
			t.Errorf("requests = %d; want %d", got.Requests, i+2)
		}
	}
}

// The same with a process that is really killed, at no chosen moment of its first start.
func TestMigrate_Killed(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 15 {
		dir := t.TempDir()
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, crashDurabilityEnv+"="+DurabilityFull)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(rand.N(60*time.Millisecond), func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		usable(t, filepath.Join(dir, "crash.db"))
	}
}

// A migration of the future that only adds: all that one may.
var future = fstest.MapFS{"29990101000000_future.add.sql": &fstest.MapFile{Data: []byte(`
CREATE TABLE IF NOT EXISTS places (id INTEGER PRIMARY KEY, name TEXT);
--bun:split
ALTER TABLE sessions ADD COLUMN owner TEXT;
--bun:split
ALTER TABLE usage_daily ADD COLUMN seconds INTEGER DEFAULT 0;
--bun:split
CREATE INDEX IF NOT EXISTS sessions_owner ON sessions (owner);
`)}}

// A program goes on beside a newer one that adds to the schema, starts on what that has left, and says so.
func TestMigrate_AdditionsOfANewerRelease(t *testing.T) {
	databases(t, func(t *testing.T, cfg Config) {
		running := open(t, cfg)
		record(t, running, testRecord("a"))
		migrateTo(t, running, future)
		record(t, running, testRecord("a"), testRecord("b"))
		checkAll := func(s *Store, requests int64) {
			t.Helper()
			if got := session(t, s, "a"); got.Requests != requests || got.CacheWrite != 3*requests {
				t.Errorf("session a = %+v; want %d requests", got, requests)
			}
			if page, err := s.Requests(t.Context(), "a", RecordQuery{}); err != nil || len(page.Records) != int(requests) {
				t.Errorf("%d records, %v", len(page.Records), err)
			}
			if rows, err := s.Usage(t.Context(), UsageQuery{By: []string{"day"}}); err != nil || len(rows) != 1 {
				t.Errorf("usage %+v, %v", rows, err)
			}
		}
		checkAll(running, 2)
		closeStore(t, running)

		var log bytes.Buffer
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		started := open(t, cfg)
		record(t, started, testRecord("a"))
		checkAll(started, 3)
		if err := started.DeleteSession(t.Context(), &started.Reader, "a"); err != nil {
			t.Error(err)
		}
		if n := countOf(t, started, "request_told"); n != 1 {
			t.Errorf("%d rows of what was told; want that of session b", n)
		}
		closeStore(t, started)
		if said := log.String(); strings.Count(said, "additions of a newer release") != 1 || !strings.Contains(said, "schema=29990101000000") {
			t.Errorf("the log says\n%s", said)
		}

		reader, err := OpenReader(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close(t.Context())
		if _, err := reader.Session(t.Context(), "b"); err != nil {
			t.Error(err)
		}
	})
}

// What changes the ground under older programs is refused by them, and not done beside them.
func TestMigrate_ChangesThatOthersRelyOn(t *testing.T) {
	breaking := fstest.MapFS{"29990101000000_future.tx.up.sql": future["29990101000000_future.add.sql"]}
	dsn := filepath.Join(t.TempDir(), "x.db")
	s := open(t, Config{Type: "sqlite", SQLiteDSN: dsn})
	db := s.backend.(*sqlBackend).write
	files := withOwn(t, sqliteMigrations, "migration/sqlite", breaking)
	beside := migrator{files: files, logger: slog.New(slog.DiscardHandler)}
	if err := beside.up(t.Context(), db); err == nil || !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("beside another process: %v", err)
	}
	beside.alone = true
	if err := beside.up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	if _, err := Open(t.Context(), Config{Type: "sqlite", SQLiteDSN: dsn}); err == nil || !strings.Contains(err.Error(), "newer than this program") {
		t.Errorf("opened by a program that does not know it: %v", err)
	}
}

// Killed between any two statements, a migration has done nothing.
func TestMigrate_AllOrNothing(t *testing.T) {
	dsn := filepath.Join(t.TempDir(), "x.db")
	s := open(t, Config{Type: "sqlite", SQLiteDSN: dsn})
	db := s.backend.(*sqlBackend).write
	broken := fstest.MapFS{"29990101000000_future.add.sql": &fstest.MapFile{Data: []byte("CREATE TABLE places (id INTEGER);\n--bun:split\nnonsense")}}
	m := migrator{files: withOwn(t, sqliteMigrations, "migration/sqlite", broken), alone: true, logger: slog.New(slog.DiscardHandler)}
	if err := m.up(t.Context(), db); err == nil {
		t.Fatal("nonsense was migrated")
	}
	var tables int
	if err := db.NewRaw("SELECT count(*) FROM sqlite_schema WHERE name = 'places'").Scan(t.Context(), &tables); err != nil || tables != 0 {
		t.Errorf("%d tables of a migration that failed, %v", tables, err)
	}
}

// A migration that nobody may wait for: rows in plenty make its time no longer.
func TestMigrate_ReadsNoRequests(t *testing.T) {
	for _, file := range []string{"sqlite", "postgres"} {
		files := mustSub(map[string]fs.FS{"sqlite": sqliteMigrations, "postgres": postgresMigrations}[file], "migration/"+file)
		all, err := migrationsOf(files)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range all[2:] { // the first two made the tables
			text, err := fs.ReadFile(files, one.file)
			if err != nil {
				t.Fatal(err)
			}
			if !one.additive {
				t.Errorf("%s is not additive: %s", one.file, additiveEnd)
			}
			for statement := range strings.SplitSeq(string(text), "--bun:split") {
				words := strings.ToUpper(strings.Join(strings.Fields(withoutComments(statement)), " "))
				for _, bad := range []string{"UPDATE ", "DELETE ", "INSERT ", "ALTER TABLE REQUESTS ", " ON REQUESTS ", "DROP TABLE", "DROP COLUMN", "RENAME"} {
					if strings.Contains(words+" ", bad) && !strings.Contains(words, "ON DELETE CASCADE") {
						t.Errorf("%s/%s: %q reads or changes what is there: %s", file, one.file, bad, words)
					}
				}
			}
		}
	}
}

func withoutComments(statement string) string {
	lines := strings.Split(statement, "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "--") })
	return strings.Join(lines, "\n")
}

// withOwn is our own migrations and some more.
func withOwn(t *testing.T, own fs.FS, dir string, more fstest.MapFS) fs.FS {
	t.Helper()
	files := maps.Clone(more)
	names, err := fs.Glob(own, dir+"/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(own, name)
		if err != nil {
			t.Fatal(err)
		}
		files[path.Base(name)] = &fstest.MapFile{Data: text}
	}
	return files
}

// migrateTo does what a newer program does that starts beside s.
func migrateTo(t *testing.T, s *Store, more fstest.MapFS) {
	t.Helper()
	m := migrator{logger: slog.New(slog.DiscardHandler)}
	if s.cfg.Type == "sqlite" {
		m.files = withOwn(t, sqliteMigrations, "migration/sqlite", more)
		path, params, err := parseSQLiteDSN(s.cfg.SQLiteDSN)
		if err != nil {
			t.Fatal(err)
		}
		db, err := openPool(path, params, writerPragmas(DurabilityFull), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := m.up(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		return
	}
	m.files = withOwn(t, postgresMigrations, "migration/postgres", more)
	config, err := parsePostgresDSN(s.cfg.PostgresDSN)
	if err != nil {
		t.Fatal(err)
	}
	db := openPostgresPool(config, 1, nil, nil)
	defer db.Close()
	if err := m.up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
}

func countOf(t *testing.T, s *Store, table string) (n int) {
	t.Helper()
	if err := sqlOf(t, s).read.NewSelect().Table(table).ColumnExpr("count(*)").Scan(t.Context(), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A migration waits for a long transaction of somebody else's in turns, so that others get by meanwhile.
func TestPostgres_MigrationLetsOthersBy(t *testing.T) {
	cfg := postgresConfig(t)
	s := open(t, cfg)
	record(t, s, testRecord("a"))
	p := s.backend.(*postgres)
	config, err := parsePostgresDSN(cfg.PostgresDSN)
	if err != nil {
		t.Fatal(err)
	}
	other := openPostgresPool(config, 1, map[string]string{"idle_in_transaction_session_timeout": "0"}, nil)
	defer other.Close()
	dump, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dump.ExecContext(t.Context(), "SELECT count(*) FROM sessions"); err != nil { // as pg_dump does, for hours
		t.Fatal(err)
	}
	pgtest.Exec(t, cfg.PostgresDSN, "DELETE FROM schema_additions")
	done := make(chan error, 1)
	go func() {
		db := openPostgresPool(config, 1, nil, nil)
		defer db.Close()
		done <- p.migrate(t.Context(), db, time.Minute)
	}()
	waitFor(t, func() bool {
		var n int
		err := p.read.NewRaw("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%ALTER TABLE sessions%'").Scan(t.Context(), &n)
		return err == nil && n > 0
	})
	record(t, s, testRecord("a")) // behind the migration
	if st := s.Stats(); st.Degraded || st.Spilled > 0 {
		t.Errorf("a record behind the migration went to the journal: %+v", st)
	}
	if err := dump.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := countOf(t, s, "schema_additions"); n == 0 {
		t.Error("nothing was migrated")
	}
}

// usable demands that a ledger opens, and counts.
func usable(t *testing.T, dsn string) {
	t.Helper()
	s := open(t, Config{Type: "sqlite", SQLiteDSN: dsn})
	r := testRecord("usable")
	r.Draws = []Draw{{"crash", r.StartedAt.Truncate(24 * time.Hour)}} // as crashChild's have
	record(t, s, r)
	if got := session(t, s, "usable"); got.Requests != 1 {
		t.Errorf("requests = %d; want 1", got.Requests)
	}
	checkSums(t, s.backend.(*sqlBackend))
	closeStore(t, s)
}
