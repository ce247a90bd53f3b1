package ledger

import (
	"database/sql"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	names, err := fs.Glob(sqliteMigrations, "migration/sqlite/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		version, _, _ := strings.Cut(path.Base(name), "_")
		res, err := s.backend.(*sqlBackend).write.Exec("DELETE FROM schema_migrations WHERE name = ?", version)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := res.RowsAffected(); n != 1 {
			t.Fatalf("%d marks of %s, %v", n, version, err)
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
