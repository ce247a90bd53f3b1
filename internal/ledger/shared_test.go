package ledger

import (
	"bytes"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// exclusive takes the write lock of a database file, and returns a function that gives it back.
func exclusive(t *testing.T, path string) (release func()) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "BEGIN EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
		conn.Close()
		db.Close()
	})
}

// Two sidecars may share a file, as they do for a moment while one replaces the other. Each has its own
// journal: one that both wrote would lose what the other put there.
func TestSQLite_TwoStoresOnOneFile(t *testing.T) {
	cfg := Config{Type: "sqlite", SQLiteDSN: filepath.Join(t.TempDir(), "x.db")}
	first, second := open(t, cfg), open(t, cfg)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() { record(t, []*Store{first, second}[i%2], testRecord("a")) })
	}
	wg.Wait()
	release := exclusive(t, cfg.SQLiteDSN)
	for i := range 40 {
		wg.Go(func() { record(t, []*Store{first, second}[i%2], testRecord("a")) })
	}
	wg.Wait()
	for i, s := range []*Store{first, second} {
		if st := s.Stats(); st.Journaled != 20 {
			t.Errorf("store %d: %d records in its journal; want 20", i, st.Journaled)
		}
	}
	release()
	waitFor(t, func() bool { return first.Stats().Journaled+second.Stats().Journaled == 0 })
	if got := session(t, first, "a"); got.Requests != 240 || got.Input != 2400 {
		t.Errorf("session = %+v; want 240 requests", got)
	}
	checkSums(t, first.backend.(*sqlBackend))
}

// crashed is a store whose process died: its files are left as they are, its locks are gone.
func crashed(t *testing.T, s *Store) {
	t.Helper()
	s.queue.close()
	s.stop()
	<-s.done
	b := s.backend.(*sqlBackend)
	for _, err := range []error{s.journal.close(), b.shut(t.Context())} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpen_ReplaysTheJournalsOfTheDead(t *testing.T) {
	cfg := Config{Type: "sqlite", SQLiteDSN: filepath.Join(t.TempDir(), "x.db")}
	living, dead := open(t, cfg), open(t, cfg)
	release := exclusive(t, cfg.SQLiteDSN)
	record(t, living, testRecord("a"))
	record(t, dead, testRecord("a"), testRecord("a"))
	crashed(t, dead)
	release()
	waitFor(t, func() bool { return living.Stats().Journaled == 0 })
	if got := session(t, living, "a"); got.Requests != 1 {
		t.Errorf("requests = %d; want the living process's own", got.Requests)
	}
	third := open(t, cfg)
	if got := session(t, third, "a"); got.Requests != 3 || third.Stats().Replayed != 2 {
		t.Errorf("requests = %d, replayed %d; want 3, 2", got.Requests, third.Stats().Replayed)
	}
	fourth := open(t, cfg)
	if st := fourth.Stats(); st.Replayed != 0 {
		t.Errorf("%d records were replayed again", st.Replayed)
	}
}

// The next process takes one journal as its own; the others of the dead are replayed, and go.
func TestOpen_ReplaysAllJournalsOfTheDead(t *testing.T) {
	cfg := Config{Type: "sqlite", SQLiteDSN: filepath.Join(t.TempDir(), "x.db")}
	dead := []*Store{open(t, cfg), open(t, cfg), open(t, cfg)}
	release := exclusive(t, cfg.SQLiteDSN)
	for _, s := range dead {
		record(t, s, testRecord("a"))
	}
	for _, s := range dead {
		crashed(t, s)
	}
	release()
	next := open(t, cfg)
	if got := session(t, next, "a"); got.Requests != 3 || next.Stats().Replayed != 3 {
		t.Errorf("requests = %d, replayed %d; want 3, 3", got.Requests, next.Stats().Replayed)
	}
	if left, _ := filepath.Glob(cfg.SQLiteDSN + ".spill.*"); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

// A store that cannot be written when the process starts is an outage like any other.
func TestOpen_WhileTheJournalCannotBeReplayed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.spill")
	f := newFaulty()
	s := startFaulty(t, f, Config{JournalPath: path})
	f.down()
	record(t, s, testRecord("a"))
	closeStore(t, s)
	var logged bytes.Buffer
	s = startFaulty(t, f, Config{JournalPath: path, Logger: slog.New(slog.NewJSONHandler(&logged, nil))})
	record(t, s, testRecord("a"))
	if st := s.Stats(); st.Journaled != 2 || !st.Degraded {
		t.Errorf("stats = %+v; want both in the journal, degraded", st)
	}
	f.up()
	waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	if got := session(t, s, "a"); got.Requests != 2 {
		t.Errorf("requests = %d; want 2", got.Requests)
	}
	closeStore(t, s)
	if !strings.Contains(logged.String(), "journal not replayed yet") {
		t.Errorf("the log does not tell:\n%s", &logged)
	}
}

// What of a journal cannot be read is the end of it: such a record was never acknowledged. What is before it counts.
func TestOpen_TornJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.spill")
	for cut := 1; cut < 400; cut += 37 {
		t.Run(fmt.Sprintf("%d bytes short", cut), func(t *testing.T) {
			os.Remove(path)
			f := newFaulty()
			s := startFaulty(t, f, Config{JournalPath: path})
			f.down()
			record(t, s, testRecord("a"), testRecord("a"))
			end := s.journal.end
			closeStore(t, s)
			if err := os.Truncate(path, end-int64(cut)); err != nil {
				t.Fatal(err)
			}
			f.up()
			s = startFaulty(t, f, Config{JournalPath: path})
			if got := session(t, s, "a"); got.Requests != 1 {
				t.Errorf("requests = %d; want 1", got.Requests)
			}
			closeStore(t, s)
		})
	}
}

// A disk's damage costs the records that it hit, not those behind them, and the log tells.
func TestOpen_DamagedJournal(t *testing.T) {
	for name, damage := range map[string]func(frame []byte){
		"a byte of the record":  func(frame []byte) { frame[len(frame)/2] ^= 1 },
		"its length":            func(frame []byte) { frame[1] ^= 0x40 },
		"its length, beyond":    func(frame []byte) { frame[3] = 0x80 },
		"its checksum":          func(frame []byte) { frame[5] ^= 1 },
		"all of it":             func(frame []byte) { clear(frame) },
		"all of it, in garbage": func(frame []byte) { copy(frame, bytes.Repeat([]byte{9, 1, 0, 0}, len(frame))) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "j.spill")
			f := newFaulty()
			s := startFaulty(t, f, Config{JournalPath: path})
			f.down()
			var ends []int64
			for range 3 {
				record(t, s, testRecord("a"))
				ends = append(ends, s.journal.end)
			}
			closeStore(t, s)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damage(data[ends[0]:ends[1]])
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			f.up()
			var logged bytes.Buffer
			s = startFaulty(t, f, Config{JournalPath: path, Logger: slog.New(slog.NewJSONHandler(&logged, nil))})
			if got := session(t, s, "a"); got.Requests != 2 {
				t.Errorf("requests = %d; want the 2 that are whole", got.Requests)
			}
			closeStore(t, s)
			if !strings.Contains(logged.String(), "the journal was damaged") {
				t.Errorf("the log does not tell:\n%s", &logged)
			}
			if data, err = os.ReadFile(path); err != nil || len(bytes.Trim(data, "\x00")) > 0 {
				t.Errorf("the journal is not empty after the replay (%v)", err)
			}
		})
	}
}
