package ledger

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// openAt opens a ledger at path, whose log can be read.
func openAt(t *testing.T, path string) (*Store, *syncBuffer) {
	t.Helper()
	log := &syncBuffer{}
	s := open(t, Config{Type: "sqlite", SQLiteDSN: path, Logger: slog.New(slog.NewTextHandler(log, nil))})
	return s, log
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A loss is what is done to the files of a running ledger.
type loss struct {
	name string
	do   func(t *testing.T, path string)
	// kept is how many of the ten records from before are there afterwards.
	kept int
	says string // in the log
	// beside is how many files hold what was set aside.
	beside int
}

func remove(names ...string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		for _, end := range names {
			if err := os.Remove(path + end); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// replaceBy puts another file in the place of the ledger, as a rename does.
func replaceBy(t *testing.T, path string, write func(other string)) {
	t.Helper()
	other := filepath.Join(filepath.Dir(path), "other")
	write(other)
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
}

// ledgerOf makes a ledger of so many records of the session "old".
func ledgerOf(t *testing.T, path string, n int) {
	t.Helper()
	s, err := Open(t.Context(), Config{Type: "sqlite", SQLiteDSN: path, JournalPath: NoJournal})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		record(t, s, testRecord("old"))
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(path + ".lock")
}

func losses() []loss {
	garbage := bytes.Repeat([]byte("garbage "), 2000)
	return []loss{
		{"removed", remove(""), 10, "put back whole", 0},
		{"removed with all beside it", remove("", "-wal", "-shm", ".lock", ".spill"), 10, "put back whole", 0},
		{"moved away", func(t *testing.T, path string) {
			if err := os.Rename(path, path+".old"); err != nil {
				t.Fatal(err)
			}
		}, 10, "put back whole", 0},
		{"folder removed", func(t *testing.T, path string) {
			if err := os.RemoveAll(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}, 10, "put back whole", 0},
		{"log removed", remove("-wal"), 10, "side files", 0},
		{"log and index removed", remove("-wal", "-shm"), 10, "side files", 0},
		{"lock removed", remove(".lock"), 10, "side files", 0},
		{"replaced by an empty file", func(t *testing.T, path string) {
			replaceBy(t, path, func(other string) { _ = os.WriteFile(other, nil, 0o600) })
		}, 10, "put back whole", 0},
		{"replaced by garbage", func(t *testing.T, path string) {
			replaceBy(t, path, func(other string) { _ = os.WriteFile(other, garbage, 0o600) })
		}, 10, "put back whole; what was in its place is now", 1},
		{"replaced by another program's database", func(t *testing.T, path string) {
			replaceBy(t, path, func(other string) {
				db, err := openPool(other, map[string][]string{"mode": {"rwc"}}, nil, 1)
				if err == nil {
					_, err = db.Exec("CREATE TABLE sessions (a); INSERT INTO sessions VALUES (1)")
				}
				if err != nil {
					t.Fatal(err)
				}
				db.Close()
			})
		}, 10, "put back whole; what was in its place is now", 1},
		{"replaced by another ledger", func(t *testing.T, path string) {
			replaceBy(t, path, func(other string) { ledgerOf(t, other, 3) })
		}, 0, "another ledger took its place; what it held is now", 1},
		{"emptied in place", func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		}, 0, "a new one was begun", 1},
		{"overwritten by garbage", func(t *testing.T, path string) {
			if err := os.WriteFile(path, garbage, 0o600); err != nil {
				t.Fatal(err)
			}
		}, 0, "a new one was begun", 1},
	}
}

// TestSQLite_TakenAway does to a running ledger what operators, scripts and disks do. A
// record that is taken afterwards is never lost, nor is one from before if it can be
// read at all; the log says what happened, and the ledger goes on.
func TestSQLite_TakenAway(t *testing.T) {
	for _, c := range losses() {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "folder", "x.db")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			s, log := openAt(t, path)
			for range 10 {
				record(t, s, testRecord("a"))
			}
			c.do(t, path)
			var all sync.WaitGroup
			for range 4 { // more come at once, and while it is restored
				all.Go(func() {
					for range 25 {
						record(t, s, testRecord("a"))
					}
				})
			}
			all.Wait()
			waitFor(t, func() bool {
				st := s.Stats()
				return st.Restored == 1 && st.Journaled == 0 && !st.Degraded
			})
			if err := s.Ready(t.Context()); err != nil {
				t.Error(err)
			}
			if done, _ := s.health.news(); !strings.Contains(done, c.says) || !strings.Contains(log.String(), c.says) {
				t.Errorf("it is said to be %q, and the log says\n%s", done, log)
			}
			if st := s.Stats(); st.Failed != 0 {
				t.Errorf("%+v", st)
			}
			if aside, _ := filepath.Glob(path + ".aside-*"); len(aside) != c.beside {
				t.Errorf("set aside: %v, want %d", aside, c.beside)
			}
			want := int64(c.kept + 100)
			if got := session(t, s, "a"); got.Requests != want {
				t.Errorf("%d requests before the end, want %d", got.Requests, want)
			}
			checkSums(t, s.backend.(*sqlBackend))
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			again, _ := openAt(t, path)
			if got := session(t, again, "a"); got.Requests != want {
				t.Errorf("%d requests after a restart, want %d", got.Requests, want)
			}
			checkSums(t, again.backend.(*sqlBackend))
			if left, _ := filepath.Glob(path + ".restoring*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestSQLite_TakenAwayWhileIdle: nothing has to be recorded for it to be noticed.
func TestSQLite_TakenAwayWhileIdle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := open(t, Config{Type: "sqlite", SQLiteDSN: path, DeadAfter: 40_000_000}) // a look every ten milliseconds
	record(t, s, testRecord("a"))
	remove("", "-wal", "-shm")(t, path)
	waitFor(t, func() bool { return s.Stats().Restored == 1 && !s.Stats().Degraded })
	r, err := OpenReader(t.Context(), Config{Type: "sqlite", SQLiteDSN: path})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(t.Context())
	if got, err := r.Session(t.Context(), "a"); err != nil || got.Requests != 1 {
		t.Errorf("another process reads %+v, %v", got, err)
	}
}

// TestSQLite_TakenAwayFromTwo: one of two sidecars puts the file back, the other takes
// that.
func TestSQLite_TakenAwayFromTwo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	one, _ := openAt(t, path)
	other, _ := openAt(t, path)
	record(t, one, testRecord("a"))
	record(t, other, testRecord("a"))
	remove("", "-wal", "-shm")(t, path)
	var both sync.WaitGroup
	for _, s := range []*Store{one, other} {
		both.Go(func() {
			for range 20 {
				record(t, s, testRecord("a"))
			}
		})
	}
	both.Wait()
	for _, s := range []*Store{one, other} {
		waitFor(t, func() bool { return s.Stats().Restored >= 1 && s.Stats().Journaled == 0 && !s.Stats().Degraded })
	}
	for _, s := range []*Store{one, other} {
		if got := session(t, s, "a"); got.Requests != 42 {
			t.Errorf("%d requests, want 42", got.Requests)
		}
	}
	if aside, _ := filepath.Glob(path + ".aside-*"); len(aside) > 0 {
		t.Errorf("set aside: %v", aside)
	}
	checkSums(t, one.backend.(*sqlBackend))
}

// TestSQLite_TakenAwayBeforeTheEnd: a program that ends at once puts it back first.
func TestSQLite_TakenAwayBeforeTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s, log := openAt(t, path)
	record(t, s, testRecord("a"))
	remove("", "-wal", "-shm")(t, path)
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "put back whole") {
		t.Errorf("the log says\n%s", log)
	}
	again, _ := openAt(t, path)
	if got := session(t, again, "a"); got.Requests != 1 {
		t.Errorf("%+v", got)
	}
}

// TestSQLite_TakenAwayWithoutAPlace: while nothing can be put at the path, records wait
// in the journal, and what is open is kept.
func TestSQLite_TakenAwayWithoutAPlace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "folder", "x.db")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, Config{Type: "sqlite", SQLiteDSN: path, JournalPath: filepath.Join(dir, "journal")})
	record(t, s, testRecord("a"))
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Dir(path), []byte("no folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	record(t, s, testRecord("a"))
	waitFor(t, func() bool { return s.Stats().Degraded })
	if st := s.Stats(); st.Journaled != 1 || st.Restored != 0 {
		t.Errorf("%+v", st)
	}
	if err := s.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "was removed") && !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("ready: %v", err)
	}
	if err := os.Remove(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return s.Stats().Restored == 1 && s.Stats().Journaled == 0 })
	if got := session(t, s, "a"); got.Requests != 2 {
		t.Errorf("%+v", got)
	}
}

// TestJournal_TakenAway: the journal's file is made anew with what it held.
func TestJournal_TakenAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s, b := openFileAt(t, path)
	readOnly := func(n string) {
		if _, err := b.write.ExecContext(t.Context(), "PRAGMA query_only="+n); err != nil {
			t.Fatal(err)
		}
	}
	readOnly("1")
	record(t, s, testRecord("a"))
	if err := os.Remove(path + ".spill"); err != nil {
		t.Fatal(err)
	}
	record(t, s, testRecord("a"))
	j, orphans, err := openJournal(path+".spill", false) // as the next process would: .spill is taken
	if err != nil || len(orphans) != 0 {
		t.Fatal(err, orphans)
	}
	if name := j.file.Name(); name != path+".spill.2" {
		t.Errorf("the next process took %s", name)
	}
	_ = j.remove()
	text, err := os.ReadFile(path + ".spill")
	if err != nil || bytes.Count(text, []byte(`"a"`)) < 2 {
		t.Errorf("%d records are in the new file, %v", bytes.Count(text, []byte(`"a"`)), err)
	}
	readOnly("0")
	waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	if got := session(t, s, "a"); got.Requests != 2 {
		t.Errorf("%+v", got)
	}
}

func openFileAt(t *testing.T, path string) (*Store, *sqlBackend) {
	t.Helper()
	s := open(t, Config{Type: "sqlite", SQLiteDSN: path})
	return s, s.backend.(*sqlBackend)
}
