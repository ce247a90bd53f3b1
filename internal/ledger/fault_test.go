package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// faulty is a memory backend that keeps notes, as a database does, and can be told to fail.
type faulty struct {
	*memory
	fail  atomic.Pointer[func(batch) error]
	notes sync.Map // of ID
}

func newFaulty() *faulty { return &faulty{memory: newMemory(1000, 10_000)} }

func (f *faulty) apply(ctx context.Context, b batch) (int, error) {
	if fail := f.fail.Load(); fail != nil {
		if err := (*fail)(b); err != nil {
			return 0, err
		}
	}
	for _, n := range b.notes {
		f.notes.Store(n.ID, true)
	}
	for _, id := range b.clear {
		f.notes.Delete(id)
	}
	return f.memory.apply(ctx, b)
}

func (f *faulty) down() {
	fail := func(batch) error { return fmt.Errorf("%w: out of order", ErrUnavailable) }
	f.fail.Store(&fail)
}

func (f *faulty) up() { f.fail.Store(nil) }

// startFaulty puts a store in front of f. The caller closes it, inside its bubble.
func startFaulty(t *testing.T, f *faulty, cfg Config) *Store {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.NoteAfter == 0 {
		cfg.NoteAfter = time.Second
	}
	cfg.Durability, cfg.DeadAfter, cfg.lastBackoff = DurabilityFull, 20*time.Second, lastBackoff
	s, err := start(t.Context(), cfg, f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore_PoisonSparesItsNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		f := newFaulty()
		s := startFaulty(t, f, Config{Logger: slog.New(slog.NewJSONHandler(&logged, nil))})
		poison := func(b batch) error {
			for _, r := range b.records {
				if r.Session == "poison" {
					return fmt.Errorf("%w: indigestible", ErrInvalid)
				}
			}
			return nil
		}
		f.fail.Store(&poison)
		release := make(chan struct{})
		s.queue.control(&control{do: func(context.Context) error { <-release; return nil }})
		var good, bad atomic.Int64
		for i := range 50 {
			go func() {
				r := testRecord("good")
				if i == 17 || i == 33 {
					r.Session = "poison"
				}
				switch err := s.Record(context.Background(), r); {
				case err == nil:
					good.Add(1)
				case errors.Is(err, ErrInvalid):
					bad.Add(1)
				}
			}()
		}
		synctest.Wait()
		close(release)
		synctest.Wait()
		if good.Load() != 48 || bad.Load() != 2 {
			t.Errorf("%d stored, %d refused; want 48, 2", good.Load(), bad.Load())
		}
		if got := session(t, s, "good"); got.Requests != 48 {
			t.Errorf("requests = %d; want 48", got.Requests)
		}
		if st := s.Stats(); st.Rejected != 2 || st.Failed != 2 || st.Pending != 0 {
			t.Errorf("stats = %+v; want 2 rejected, and none pending", st)
		}
		if n := strings.Count(logged.String(), `"Session":"poison"`); n != 2 {
			t.Errorf("%d of 2 refused records are in the log:\n%s", n, logged.String())
		}
		closeStore(t, s)
	})
}

func TestStore_WaitsWhileTheStoreIsDown(t *testing.T) {
	t.Run("with a journal nobody waits", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "j.spill")
		f := newFaulty()
		s := startFaulty(t, f, Config{JournalPath: path})
		f.down()
		for range 10 {
			record(t, s, testRecord("a"))
		}
		if err := s.Ready(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("ready: %v; want ErrUnavailable", err)
		}
		if st := s.Stats(); st.Spilled != 10 || st.Journaled != 10 || !st.Degraded {
			t.Errorf("stats = %+v; want 10 in the journal, degraded", st)
		}
		f.up()
		waitFor(t, func() bool { return s.Stats().Journaled == 0 })
		if got := session(t, s, "a"); got.Requests != 10 {
			t.Errorf("requests = %d after the replay; want 10", got.Requests)
		}
		if err := s.Ready(t.Context()); err != nil {
			t.Errorf("ready: %v", err)
		}
		closeStore(t, s)
	})
	t.Run("a new process replays the journal", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "j.spill")
		f := newFaulty()
		s := startFaulty(t, f, Config{JournalPath: path})
		first := testRecord("a")
		record(t, s, first)
		f.down()
		for range 3*maxBatch + 1 {
			s.queue.put(t.Context(), &pending{record: testRecord("a")})
		}
		record(t, s, first) // known to the store already
		closeStore(t, s)
		f.up()
		s = startFaulty(t, f, Config{JournalPath: path})
		if got := session(t, s, "a"); got.Requests != 3*maxBatch+2 {
			t.Errorf("requests = %d; want %d", got.Requests, 3*maxBatch+2)
		}
		closeStore(t, s)
		s = startFaulty(t, f, Config{JournalPath: path})
		if st := s.Stats(); st.Replayed != 0 {
			t.Errorf("%d records were replayed again", st.Replayed)
		}
		closeStore(t, s)
	})
	t.Run("a second outage reuses the journal from its start", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "j.spill")
		f := newFaulty()
		s := startFaulty(t, f, Config{JournalPath: path})
		f.down()
		record(t, s, testRecord("a"), testRecord("a"))
		f.up()
		waitFor(t, func() bool { return s.Stats().Journaled == 0 })
		f.down()
		record(t, s, testRecord("a"))
		closeStore(t, s)
		f.up()
		s = startFaulty(t, f, Config{JournalPath: path})
		if got := session(t, s, "a"); got.Requests != 3 || s.Stats().Replayed != 1 {
			t.Errorf("requests = %d, replayed %d; want 3, 1", got.Requests, s.Stats().Replayed)
		}
		closeStore(t, s)
	})
	t.Run("without a journal records wait, bounded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFaulty()
			s := startFaulty(t, f, Config{})
			f.down()
			var stored, refused atomic.Int64
			for range maxPending + 5 {
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					if err := s.Record(ctx, testRecord("a")); err == nil {
						stored.Add(1)
					} else if errors.Is(err, ErrUnavailable) {
						refused.Add(1)
					}
				}()
			}
			<-time.After(2 * time.Minute) // of the bubble's clock: every ctx has ended
			if st := s.Stats(); refused.Load() != maxPending+5 || st.Pending != maxPending || st.Failed != 5 {
				t.Errorf("%d waited in vain, stats %+v; want %d, of which %d still pending", refused.Load(), st, maxPending+5, maxPending)
			}
			f.up()
			<-time.After(10 * time.Second)
			if got := session(t, s, "a"); got.Requests != maxPending {
				t.Errorf("requests = %d once the store is back; want %d", got.Requests, maxPending)
			}
			closeStore(t, s)
		})
	})
	t.Run("when the journal fails too nobody waits in vain", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "j.spill")
		f := newFaulty()
		s := startFaulty(t, f, Config{JournalPath: path})
		s.journal.file.Close() // a disk that is gone
		f.down()
		const n = 2000
		var all sync.WaitGroup
		for range n { // many, for the committer may give one up at any step of its Record
			all.Go(func() {
				if err := s.Record(context.Background(), testRecord("a")); !errors.Is(err, ErrUnavailable) {
					t.Errorf("record: %v; want ErrUnavailable", err)
				}
			})
		}
		all.Wait()
		f.up()
		waitFor(t, func() bool { return s.Stats().Pending == 0 })
		if got := session(t, s, "a"); got.Requests != n {
			t.Errorf("requests = %d once the store is back; want %d", got.Requests, n)
		}
		record(t, s, testRecord("a"))
		if err := s.Close(context.Background()); !errors.Is(err, os.ErrClosed) {
			t.Errorf("close: %v; want that of the journal's file", err)
		}
	})
	t.Run("nor who queued up behind a batch before that was known", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFaulty()
			s := startFaulty(t, f, Config{JournalPath: filepath.Join(t.TempDir(), "j.spill")})
			s.journal.file.Close()
			hold := make(chan struct{})
			fail := func(batch) error { <-hold; return fmt.Errorf("%w: out of order", ErrUnavailable) }
			f.fail.Store(&fail)
			const n = maxBatch + 100
			var told atomic.Int64
			for range n {
				go func() {
					if err := s.Record(context.Background(), testRecord("a")); !errors.Is(err, ErrUnavailable) {
						t.Errorf("record: %v; want ErrUnavailable", err)
					}
					told.Add(1)
				}()
			}
			synctest.Wait()
			close(hold)
			synctest.Wait()
			if told.Load() != n {
				t.Errorf("%d of %d know", told.Load(), n)
			}
			f.up()
			time.Sleep(time.Minute)
			if got := session(t, s, "a"); got.Requests != n {
				t.Errorf("requests = %d once the store is back; want %d", got.Requests, n)
			}
			if err := s.Close(context.Background()); !errors.Is(err, os.ErrClosed) {
				t.Errorf("close: %v; want that of the journal's file", err)
			}
		})
	})
	t.Run("what is asked of the store meanwhile is refused at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFaulty()
			s := startFaulty(t, f, Config{JournalPath: filepath.Join(t.TempDir(), "j.spill")})
			f.down()
			record(t, s, testRecord("a"))
			if err := s.SaveState(t.Context(), "x", nil); !errors.Is(err, ErrUnavailable) { // though this store would take it
				t.Errorf("save: %v; want ErrUnavailable", err)
			}
			f.up()
			time.Sleep(time.Minute)
			if err := s.SaveState(t.Context(), "x", nil); err != nil || s.Stats().Journaled != 0 {
				t.Errorf("save: %v, %+v", err, s.Stats())
			}
			closeStore(t, s)
		})
	})
	t.Run("close tells what it could not store", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFaulty()
			s := startFaulty(t, f, Config{})
			f.down()
			for range 3 {
				go func() { _ = s.Record(context.Background(), testRecord("a")) }()
			}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := s.Close(ctx); err == nil || !strings.Contains(err.Error(), "3 records not stored") {
				t.Errorf("close: %v; want an error that tells of 3 records", err)
			}
			if err := s.Record(t.Context(), testRecord("a")); !errors.Is(err, ErrClosed) {
				t.Errorf("record after close: %v; want ErrClosed", err)
			}
			if err := s.DeleteSession(t.Context(), &s.Reader, "a"); !errors.Is(err, ErrClosed) {
				t.Errorf("delete after close: %v; want ErrClosed", err)
			}
			if st := s.Stats(); st.Failed != 4 {
				t.Errorf("failed = %d; want 4", st.Failed)
			}
		})
	})
	t.Run("close stores what was accepted", func(t *testing.T) {
		s := open(t, Config{Type: "sqlite", SQLiteDSN: filepath.Join(t.TempDir(), "x.db"), Durability: DurabilityAsync})
		path := s.cfg.SQLiteDSN
		for range 1000 {
			record(t, s, testRecord("a"))
		}
		closeStore(t, s)
		s = open(t, Config{Type: "sqlite", SQLiteDSN: path})
		if got := session(t, s, "a"); got.Requests != 1000 {
			t.Errorf("requests = %d; want 1000", got.Requests)
		}
	})
}

// waitFor polls what the race of real files and processes decides; time that is ours runs in synctest.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	end := time.After(20 * time.Second)
	for !done() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-end:
			t.Fatal("it did not happen within 20 s")
		}
	}
}

// TestStore_ReadySaysThatAWriteIsStuck: a disk that hangs returns no error.
func TestStore_ReadySaysThatAWriteIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty()
		s := startFaulty(t, f, Config{})
		hang := func(batch) error { time.Sleep(2 * stuckAfter); return nil }
		f.fail.Store(&hang)
		go func() { _ = s.Record(context.Background(), testRecord("a")) }()
		time.Sleep(stuckAfter - time.Millisecond)
		if err := s.health.fault(); err != nil { // Ready would wait for its turn
			t.Errorf("a write takes its time: %v", err)
		}
		time.Sleep(2 * time.Millisecond)
		if err := s.Ready(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("a write hangs: %v; want ErrUnavailable", err)
		}
		f.up()
		time.Sleep(2 * stuckAfter)
		if err := s.Ready(t.Context()); err != nil {
			t.Errorf("it has ended: %v", err)
		}
		closeStore(t, s)
	})
}

// Nobody could read the notes of a memory ledger, so requests that never end must hold nothing in it.
func TestFlight_MemoryTakesNoNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Config{NoteAfter: time.Second})
		r := testRecord("a")
		for range 100 {
			s.Start(testRecord("b"))
		}
		s.Start(r)
		<-time.After(2 * time.Second)
		if st := s.Stats(); st.InFlight != 0 || st.Commits != 0 {
			t.Errorf("%d in flight, %d transactions; want neither", st.InFlight, st.Commits)
		}
		record(t, s, r)
		s.Forget(NewID())
		if got := session(t, s, "a"); got.Requests != 1 || s.Stats().Commits != 1 {
			t.Errorf("%d requests by %d transactions; want 1 by 1", got.Requests, s.Stats().Commits)
		}
		closeStore(t, s)
	})
}

func TestFlight_NotesWhatStaysLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty()
		s := startFaulty(t, f, Config{NoteAfter: time.Second})
		notes := func() (n int) {
			f.notes.Range(func(any, any) bool { n++; return true })
			return n
		}
		quick, slow, dropped := testRecord("a"), testRecord("a"), testRecord("a")
		s.Start(quick)
		s.Start(slow)
		s.Start(slow) // twice is once
		s.Start(dropped)
		<-time.After(500 * time.Millisecond)
		record(t, s, quick)
		if n := notes(); n != 0 {
			t.Errorf("%d notes after half a second; want 0", n)
		}
		<-time.After(600 * time.Millisecond)
		if n := notes(); n != 2 {
			t.Errorf("%d notes after 1.1 s; want 2", n)
		}
		record(t, s, slow)
		s.Forget(dropped.ID)
		synctest.Wait()
		if n := notes(); n != 0 {
			t.Errorf("%d notes left; want 0", n)
		}
		if st := s.Stats(); st.InFlight != 0 {
			t.Errorf("in flight = %d; want 0", st.InFlight)
		}
		closeStore(t, s)
	})
}

func TestStore_InterruptedAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	cfg := Config{Type: "sqlite", SQLiteDSN: path, NoteAfter: time.Millisecond}
	s := open(t, cfg)
	cut, done := testRecord("a"), testRecord("a")
	cut.Parent, cut.Draws = "root", []Draw{{"team", budgetDay}, {"child", budgetDay}}
	s.Start(cut)
	s.Start(done)
	waitFor(t, func() bool {
		left, err := s.backend.(*sqlBackend).inflight(t.Context(), 0)
		return err == nil && len(left) == 2
	})
	t.Run("a living process keeps its notes", func(t *testing.T) {
		other := open(t, cfg)
		record(t, other, testRecord("b"))
		record(t, s, done) // two writers on one file
		if _, err := other.Session(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		if got := session(t, other, "a"); got.UnknownUsage != 0 {
			t.Errorf("unknown = %d while the request is in flight; want 0", got.UnknownUsage)
		}
		closeStore(t, other)
	})
	t.Run("a dead one's are booked as interrupted", func(t *testing.T) {
		closeStore(t, s) // without a Record of cut: to the next process that is a crash
		for range 2 {
			s := open(t, cfg)
			page, err := s.Requests(t.Context(), "a", RecordQuery{})
			if err != nil || len(page.Records) != 2 {
				t.Fatalf("%d records, %v; want 2", len(page.Records), err)
			}
			r := page.Records[1]
			if r.ID != cut.ID || r.Outcome != Interrupted || r.UsageKnown || r.EstimatedPrompt != 12 || r.Parent != "root" {
				t.Errorf("record = %+v; want the interrupted one, its usage unknown", r)
			}
			if got := session(t, s, "a"); got.UnknownUsage != 1 || got.Requests != 1 {
				t.Errorf("session = %+v; want one request, one unknown", got)
			}
			for _, scope := range []string{"team", "child"} {
				if got := budgetUse(t, s, scope, budgetDay); len(got) != 1 || got[0].UnknownUsage != 1 || got[0].Estimated.Input != 12 {
					t.Errorf("drawn from %s: %+v; want the estimate of the interrupted one", scope, got)
				}
			}
			closeStore(t, s)
		}
	})
}

func TestOpen_Refuses(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte("not a database\n"), 500), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(dir, "damaged.db")
	s := open(t, Config{Type: "sqlite", SQLiteDSN: damaged})
	for range 400 {
		s.queue.put(t.Context(), &pending{record: testRecord(NewID().String())})
	}
	closeStore(t, s)
	raw, err := os.ReadFile(damaged)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(raw) / 2; i < len(raw)/2+8192; i++ {
		raw[i] = 0xA5
	}
	if err := os.WriteFile(damaged, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(dir, "newer.db")
	s = open(t, Config{Type: "sqlite", SQLiteDSN: newer})
	_, err = s.backend.(*sqlBackend).write.Exec("INSERT INTO schema_migrations (name, group_id) VALUES ('29990101000000', 2)")
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)

	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"an unknown type":       {Config{Type: "mysql"}, `type "mysql" is none of`},
		"an unknown durability": {Config{Durability: "maybe"}, `durability "maybe" is none of`},
		"a missing directory":   {Config{Type: "sqlite", SQLiteDSN: filepath.Join(dir, "no/x.db")}, "no such file or directory"},
		"a directory":           {Config{Type: "sqlite", SQLiteDSN: dir}, "is a directory"},
		"an empty path":         {Config{Type: "sqlite"}, "needs a path"},
		"memory in SQLite":      {Config{Type: "sqlite", SQLiteDSN: ":memory:"}, "use the memory ledger"},
		"memory in a URI":       {Config{Type: "sqlite", SQLiteDSN: "file:x?mode=memory&cache=shared"}, "use the memory ledger"},
		"what is no database":   {Config{Type: "sqlite", SQLiteDSN: garbage}, "file is not a database"},
		"a damaged database":    {Config{Type: "sqlite", SQLiteDSN: damaged}, "damaged"},
		"a newer schema":        {Config{Type: "sqlite", SQLiteDSN: newer}, "newer than this program"},
		"a read-only file":      {Config{Type: "sqlite", SQLiteDSN: "file:" + newer + "?mode=ro"}, ""},
		"an unwritable journal": {Config{JournalPath: filepath.Join(dir, "no/j")}, "journal"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), c.cfg)
			if err == nil {
				closeStore(t, s)
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("err = %q; want one line with %q", err, c.want)
			}
		})
	}
}

func TestSQLite_Locked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := open(t, Config{Type: "sqlite", SQLiteDSN: path})
	record(t, s, testRecord("a"))
	other, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	conn, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("ready: %v; want ErrUnavailable, for another process writes", err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { record(t, s, testRecord("a")) })
	}
	wg.Wait()
	if st := s.Stats(); st.Spilled != 20 || st.Failed != 0 {
		t.Errorf("stats = %+v; want 20 in the journal", st)
	}
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	if got := session(t, s, "a"); got.Requests != 21 {
		t.Errorf("requests = %d; want 21", got.Requests)
	}
}

func TestSQLite_ReadOnly(t *testing.T) {
	s, b := openFile(t)
	readOnly := func(n int) { // what SQLite says then is what it says of a file system that became read-only
		// The pool has but the committer's connection, so this takes turns with it.
		if _, err := b.write.ExecContext(t.Context(), fmt.Sprintf("PRAGMA query_only=%d", n)); err != nil {
			t.Fatal(err)
		}
	}
	readOnly(1)
	record(t, s, testRecord("a"), testRecord("a"))
	if st := s.Stats(); st.Spilled != 2 || st.Rejected != 0 || !st.Degraded {
		t.Errorf("stats = %+v; want 2 in the journal, degraded", st)
	}
	readOnly(0)
	waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	if got := session(t, s, "a"); got.Requests != 2 {
		t.Errorf("requests = %d; want 2", got.Requests)
	}
}

func TestSQLite_DiskFull(t *testing.T) {
	s := open(t, Config{Type: "sqlite", SQLiteDSN: filepath.Join(t.TempDir(), "x.db")})
	b := s.backend.(*sqlBackend)
	setPages := func(n int) {
		// The pool has but the committer's connection, so this takes turns with it.
		if _, err := b.write.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count=%d", n)); err != nil {
			t.Fatal(err)
		}
	}
	setPages(1) // SQLite makes it the present size: the file cannot grow
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() { record(t, s, testRecord(NewID().String())) })
	}
	wg.Wait()
	if st := s.Stats(); st.Spilled == 0 || st.Failed != 0 {
		t.Errorf("stats = %+v; want records in the journal, none lost", st)
	}
	setPages(1 << 30)
	waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	n, err := b.read.NewSelect().Model((*requestRow)(nil)).Count(t.Context())
	if err != nil || n != 500 {
		t.Errorf("%d rows, %v; want 500", n, err)
	}
	checkSums(t, b)
}

// A table that is gone must not make poison of every record.
func TestSQLite_BrokenSchemaIsNotTheRecordsFault(t *testing.T) {
	s := open(t, Config{Type: "sqlite", SQLiteDSN: filepath.Join(t.TempDir(), "x.db")})
	b := s.backend.(*sqlBackend)
	if _, err := b.write.Exec("ALTER TABLE usage_daily RENAME TO elsewhere"); err != nil {
		t.Fatal(err)
	}
	record(t, s, testRecord("a"))
	if st := s.Stats(); st.Spilled != 1 || st.Rejected != 0 {
		t.Errorf("stats = %+v; want the record in the journal", st)
	}
	if _, err := b.write.Exec("ALTER TABLE elsewhere RENAME TO usage_daily"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	if got := session(t, s, "a"); got.Requests != 1 {
		t.Errorf("requests = %d; want 1", got.Requests)
	}
}

func TestJournal_IsOneProcessOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.spill")
	var stores []*Store
	var faults []*faulty
	for range 3 {
		f := newFaulty()
		s := startFaulty(t, f, Config{JournalPath: path})
		f.down()
		record(t, s, testRecord("a"))
		stores, faults = append(stores, s), append(faults, f)
	}
	closeStore(t, stores[0])
	closeStore(t, stores[2]) // its journal, the third, is nobody's now
	f := newFaulty()
	s := startFaulty(t, f, Config{JournalPath: path})
	if got := session(t, s, "a"); got.Requests != 2 {
		t.Errorf("requests = %d; want the two of the journals that nobody has", got.Requests)
	}
	faults[1].up()
	waitFor(t, func() bool { return stores[1].Stats().Journaled == 0 })
	if got := session(t, stores[1], "a"); got.Requests != 1 {
		t.Errorf("requests = %d; want the one of the process that lives", got.Requests)
	}
	closeStore(t, s)
	closeStore(t, stores[1])
	left, err := filepath.Glob(path + "*")
	if err != nil || len(left) != 2 {
		t.Errorf("files %v, %v; want those of the two processes", left, err)
	}
}

// TestStore_Readable: whatever questions are answered from has to be there, however well
// records are taken.
func TestStore_Readable(t *testing.T) {
	s, b := openFile(t)
	record(t, s, testRecord("a"))
	if err := s.Readable(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"sessions", "usage_hourly", "usage_daily", "budget_usage", "state"} {
		if _, err := b.write.Exec("ALTER TABLE " + table + " RENAME TO elsewhere"); err != nil {
			t.Fatal(err)
		}
		if err := s.Readable(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("without %s: %v", table, err)
		}
		if _, err := b.write.Exec("ALTER TABLE elsewhere RENAME TO " + table); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Readable(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := b.write.Exec("DROP VIEW request_log"); err != nil {
		t.Fatal(err)
	}
	if err := s.Readable(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without the view: %v", err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("records are taken all the same: %v", err)
	}
}
