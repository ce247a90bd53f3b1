package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger/pgtest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		os.Exit(crashChild(dir)) // this process is here to be killed, see crash_test.go
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if big.dir != "" {
			os.RemoveAll(big.dir)
		}
		os.Exit(code)
	}))
}

func testRecord(session string) Record {
	return Record{
		ID: NewID(), StartedAt: time.Now(), Session: session, Client: "alice", Route: "chat/completions",
		Metered: true, Stream: true, Model: "gpt-4o", AnsweredModel: "gpt-4o-2024-08-06", Status: 200, Outcome: Complete,
		Usage: llm.Usage{Input: 10, Output: 5, Cached: 4, Reasoning: 2, CacheWrite: 3}, UsageKnown: true,
		EstimatedPrompt: 12, EstimatedOutput: 9, Attempts: 1,
		QueueWait: 3 * time.Millisecond, FirstByte: 40 * time.Millisecond, Total: 90 * time.Millisecond,
	}
}

// kinds is every kind of ledger; a config names a fresh one each time, and keeps naming it, where it persists.
var kinds = []struct {
	name   string
	config func(t testing.TB) Config
}{
	{"memory", func(testing.TB) Config { return Config{Type: "memory"} }},
	{"sqlite", func(t testing.TB) Config {
		return Config{Type: "sqlite", SQLiteDSN: filepath.Join(t.TempDir(), "sessions.db")}
	}},
	{"postgres", postgresConfig},
}

// postgresConfig names a schema of the test's own, on the server of the environment; it skips t where there is none.
func postgresConfig(t testing.TB) Config {
	return Config{Type: "postgres", PostgresDSN: pgtest.DSN(t), JournalPath: filepath.Join(t.TempDir(), "j.spill")}
}

// stores runs a test against every kind of ledger.
func stores(t *testing.T, test func(t *testing.T, cfg Config)) { eachKind(t, "", test) }

// databases runs a test against the kinds whose records, notes and tables outlive the process.
func databases(t *testing.T, test func(t *testing.T, cfg Config)) { eachKind(t, "memory", test) }

func eachKind(t *testing.T, without string, test func(t *testing.T, cfg Config)) {
	for _, kind := range kinds {
		if kind.name != without {
			t.Run(kind.name, func(t *testing.T) { test(t, kind.config(t)) })
		}
	}
}

// sqlOf is the SQL part of a store's backend.
func sqlOf(t testing.TB, s *Store) *sqlBackend {
	switch b := s.backend.(type) {
	case *sqlBackend:
		return b
	case *postgres:
		return b.sqlBackend
	}
	t.Fatalf("a %T has no SQL", s.backend)
	return nil
}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func record(t testing.TB, s *Store, records ...Record) {
	t.Helper()
	for _, r := range records {
		if err := s.Record(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
}

func session(t testing.TB, s *Store, key string) Session {
	t.Helper()
	got, err := s.Session(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

var ignoreSeq = cmp.Comparer(func(a, b Session) bool { a.seq, b.seq = 0, 0; return a == b })

func TestStore_KeepsEveryField(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		want := testRecord("a")
		want.Parent, want.Owner = "root", "alice"
		want.Told = llm.Told{Total: 15, Cost: "0.00012345678901234567", Currency: "USD"}
		for _, field := range append(zeroFields(want), zeroFields(want.Usage)...) {
			if field != "Draws" && field != "Refused" { // which are read by sums only
				t.Errorf("%s is not tried", field)
			}
		}
		unknown := testRecord("a")
		unknown.UsageKnown, unknown.Outcome, unknown.Status = false, ClientGone, 200
		unknown.Parent, unknown.Owner, unknown.Told = "root", "alice", llm.Told{Total: 1100, Cost: "2.5"}
		zero := testRecord("a")
		zero.Usage, zero.Parent, zero.Owner = llm.Usage{}, "root", "alice"
		record(t, s, want, unknown, zero)

		page, err := s.Requests(t.Context(), "a", RecordQuery{})
		if err != nil {
			t.Fatal(err)
		}
		stored := []Record{zero, unknown, want}
		for i := range stored {
			_ = stored[i].prepare()
		}
		if diff := cmp.Diff(stored, page.Records); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		start := want.StartedAt.UTC().Truncate(time.Millisecond)
		wantSession := Session{
			Owner: "alice", ID: "a", Sums: Sums{3, 1, llm.Usage{Input: 10, Output: 5, Cached: 4, Reasoning: 2, CacheWrite: 3}, llm.Money{Lo: 2500123456789012}},
			FirstAt: start, LastAt: stored[0].StartedAt.Add(zero.Total),
		}
		if diff := cmp.Diff(wantSession, session(t, s, "a"), ignoreSeq); diff != "" {
			t.Errorf("session (-want +got):\n%s", diff)
		}
	})
}

// zeroFields names the fields of a struct that have their zero value.
func zeroFields(v any) (names []string) {
	for field, value := range reflect.ValueOf(v).Fields() {
		if value.IsZero() {
			names = append(names, field.Name)
		}
	}
	return names
}

func TestStore_CountsWhatTheContractSays(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		vary := func(change func(*Record)) Record {
			r := testRecord("a")
			change(&r)
			return r
		}
		none := func(r *Record) { r.UsageKnown = false }
		record(t, s,
			vary(func(*Record) {}),
			vary(func(r *Record) { none(r) }), // 2xx, unknown
			vary(func(r *Record) { none(r); r.Status = 400; r.Outcome = UpstreamError }),                 // refused: free
			vary(func(r *Record) { none(r); r.Status = 0; r.Outcome = UpstreamError }),                   // broken: unknown
			vary(func(r *Record) { none(r); r.Refused = true; r.Outcome = UpstreamError }),               // refused inside a 200: free
			vary(func(r *Record) { none(r); r.Metered = false; r.Route = "other"; r.Model = "" }),        // not metered
			vary(func(r *Record) { r.Session = "" }),                                                     // nobody's
			vary(func(r *Record) { r.Status = 0; r.Outcome = Truncated; r.Usage = llm.Usage{Input: 1} }), // usage is data
		)
		got := session(t, s, "a")
		if got.Requests != 3 || got.UnknownUsage != 2 || got.Input != 11 || got.Output != 5 {
			t.Errorf("session = %+v; want 3 requests, 2 unknown, 11 prompt and 5 completion tokens", got)
		}
		rows, err := s.Usage(t.Context(), UsageQuery{})
		if err != nil {
			t.Fatal(err)
		}
		want := []UsageRow{{Sums: Sums{4, 2, llm.Usage{Input: 21, Output: 10, Cached: 8, Reasoning: 4, CacheWrite: 6}, llm.Money{}}}}
		if diff := cmp.Diff(want, rows); diff != "" {
			t.Errorf("usage (-want +got):\n%s", diff)
		}
	})
}

func TestStore_CountsAnIDOnce(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		t.Run("from a hundred goroutines", func(t *testing.T) {
			s := open(t, cfg)
			r := testRecord("once")
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					if err := s.Record(context.Background(), r); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if got := session(t, s, "once"); got.Requests != 1 || got.Input != 10 {
				t.Errorf("session = %+v; want one request", got)
			}
			if st := s.Stats(); st.Written != 1 || st.Duplicates != 99 {
				t.Errorf("written %d, duplicates %d; want 1, 99", st.Written, st.Duplicates)
			}
		})
		if cfg.Type != "memory" { // memory has no batches
			t.Run("in one batch", func(t *testing.T) {
				s := open(t, cfg)
				r := testRecord("batch")
				release := make(chan struct{})
				held := make(chan struct{})
				s.queue.control(&control{do: func(context.Context) error { close(held); <-release; return nil }})
				<-held // the committer stands still while the batch gathers
				var wg sync.WaitGroup
				for range 5 {
					wg.Go(func() { record(t, s, r) })
				}
				for s.queue.waiting() < 5 {
					runtime.Gosched()
				}
				close(release)
				wg.Wait()
				if got := session(t, s, "batch"); got.Requests != 1 {
					t.Errorf("requests = %d; want 1", got.Requests)
				}
			})
		}
		if cfg.Type != "memory" { // memory forgets
			t.Run("across restarts", func(t *testing.T) {
				r := testRecord("restart")
				for range 3 {
					s := open(t, cfg)
					record(t, s, r)
					if got := session(t, s, "restart"); got.Requests != 1 {
						t.Errorf("requests = %d; want 1", got.Requests)
					}
					closeStore(t, s)
				}
			})
		}
	})
}

func TestStore_Sessions(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		base := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
		var want []string
		for i := range 25 {
			r := testRecord(fmt.Sprintf("s%02d", i))
			r.StartedAt = base.Add(time.Duration(i/2) * time.Second) // pairs share their time
			record(t, s, r)
			want = append(want, r.Session)
		}
		t.Run("pages hold every session once, the latest first", func(t *testing.T) {
			var got []string
			q := SessionQuery{Limit: 4}
			for {
				page, err := s.Sessions(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				for _, one := range page.Sessions {
					got = append(got, one.ID)
				}
				if q.Cursor = page.NextCursor; q.Cursor == "" {
					break
				}
			}
			slices.Reverse(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("sessions (-want +got):\n%s", diff)
			}
		})
		t.Run("status walks over all", func(t *testing.T) {
			var got []string
			for one, err := range s.Status(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, one.ID)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("sessions (-want +got):\n%s", diff)
			}
		})
		t.Run("an unknown one is not found", func(t *testing.T) {
			if _, err := s.Session(t.Context(), "nobody"); !errors.Is(err, ErrNotFound) {
				t.Errorf("err = %v; want ErrNotFound", err)
			}
			if _, err := s.Requests(t.Context(), "nobody", RecordQuery{}); !errors.Is(err, ErrNotFound) {
				t.Errorf("err = %v; want ErrNotFound", err)
			}
		})
		t.Run("a strange cursor is invalid", func(t *testing.T) {
			for _, cursor := range []string{"x", "!!", "MQ", "YS5i"} {
				if _, err := s.Sessions(t.Context(), SessionQuery{Cursor: cursor}); !errors.Is(err, ErrInvalid) {
					t.Errorf("cursor %q: err = %v; want ErrInvalid", cursor, err)
				}
				if _, err := s.Requests(t.Context(), "s01", RecordQuery{Cursor: cursor}); !errors.Is(err, ErrInvalid) {
					t.Errorf("cursor %q: err = %v; want ErrInvalid", cursor, err)
				}
			}
		})
	})
}

func TestStore_RequestsInPages(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		var want []ID
		for range 11 {
			r := testRecord("a")
			record(t, s, r, testRecord("b"))
			want = append(want, r.ID)
		}
		slices.Reverse(want)
		var got []ID
		q := RecordQuery{Limit: 3}
		for {
			page, err := s.Requests(t.Context(), "a", q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page.Records {
				got = append(got, r.ID)
			}
			if q.Cursor = page.NextCursor; q.Cursor == "" {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ids (-want +got):\n%s", diff)
		}
	})
}

func TestStore_DeleteSession(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		var wg sync.WaitGroup
		for range 2*sliceRows + 10 { // three slices
			wg.Go(func() { record(t, s, testRecord("a")) })
		}
		wg.Wait()
		kept := testRecord("b")
		record(t, s, kept)
		if err := s.DeleteSession(t.Context(), &s.Reader, "a"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Session(t.Context(), "a"); !errors.Is(err, ErrNotFound) {
			t.Errorf("err = %v; want ErrNotFound", err)
		}
		if err := s.DeleteSession(t.Context(), &s.Reader, "a"); !errors.Is(err, ErrNotFound) {
			t.Errorf("second deletion: err = %v; want ErrNotFound", err)
		}
		rows, err := s.Usage(t.Context(), UsageQuery{})
		if err != nil || len(rows) != 1 || rows[0].Requests != 2*sliceRows+11 {
			t.Errorf("usage = %+v, %v; want that rollups stay", rows, err)
		}
		record(t, s, testRecord("a"))
		if got := session(t, s, "a"); got.Requests != 1 {
			t.Errorf("requests = %d after a new start; want 1", got.Requests)
		}
		if page, err := s.Requests(t.Context(), "b", RecordQuery{}); err != nil || len(page.Records) != 1 {
			t.Errorf("the neighbour has %d records, %v; want 1", len(page.Records), err)
		}
	})
}

func TestStore_State(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		if _, err := s.LoadState(t.Context(), "x"); !errors.Is(err, ErrNotFound) {
			t.Errorf("err = %v; want ErrNotFound", err)
		}
		for _, want := range [][]byte{{0, 1, 255}, []byte(`{"it's":"?"}`), {}} {
			if err := s.SaveState(t.Context(), "x", want); err != nil {
				t.Fatal(err)
			}
			got, err := s.LoadState(t.Context(), "x")
			if err != nil || string(got) != string(want) {
				t.Errorf("state = %q, %v; want %q", got, err, want)
			}
		}
	})
}

func TestStore_RecentUse(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		retried := testRecord("a")
		retried.Attempts = 3
		unknown := testRecord("b")
		unknown.UsageKnown = false
		refused := testRecord("b")
		refused.UsageKnown, refused.Status = false, 400
		other := testRecord("")
		other.Model = "small"
		old := testRecord("a")
		old.ID = idFloor(time.Now().Add(-time.Hour))
		before := testRecord("a") // of the hour before, when the clock was ahead by more than that
		before.StartedAt = time.Now().Add(-time.Hour)
		record(t, s, retried, unknown, refused, other, old, before)
		got, err := s.RecentUse(t.Context(), time.Now().Add(-time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		want := []ModelUse{
			{Model: "gpt-4o", Requests: 5, Usage: llm.Usage{Input: 10 + 12, Output: 5 + 9, Cached: 4, Reasoning: 2, CacheWrite: 3}},
			{Model: "small", Requests: 1, Usage: llm.Usage{Input: 10, Output: 5, Cached: 4, Reasoning: 2, CacheWrite: 3}},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("recent use (-want +got):\n%s", diff)
		}
	})
}

func TestStore_RecordRefusesWhatNoStoreCouldKeep(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		for name, spoil := range map[string]func(*Record){
			"no id":            func(r *Record) { r.ID = ID{} },
			"not sent":         func(r *Record) { r.Outcome = NotSent },
			"unknown outcome":  func(r *Record) { r.Outcome = 99 },
			"negative usage":   func(r *Record) { r.Usage.Cached = -1 },
			"absurd usage":     func(r *Record) { r.Usage.Input = 1 << 60 },
			"nul in session":   func(r *Record) { r.Session = "a\x00b" },
			"broken session":   func(r *Record) { r.Session = "\xff" },
			"long session":     func(r *Record) { r.Session = string(make([]byte, 200)) },
			"before the epoch": func(r *Record) { r.StartedAt = time.Time{} },
		} {
			t.Run(name, func(t *testing.T) {
				r := testRecord("a")
				spoil(&r)
				if err := s.Record(t.Context(), r); !errors.Is(err, ErrInvalid) {
					t.Errorf("err = %v; want ErrInvalid", err)
				}
			})
		}
		t.Run("a strange model name is kept as text", func(t *testing.T) {
			r := testRecord("odd")
			r.Model, r.Client, r.AnsweredModel = "a\xff\x00'?0;--\U0001F600", "'; DROP TABLE names;--", llm.Model(make([]byte, 4000))
			record(t, s, r)
			page, err := s.Requests(t.Context(), "odd", RecordQuery{})
			if err != nil || len(page.Records) != 1 {
				t.Fatalf("%d records, %v", len(page.Records), err)
			}
			if got, want := page.Records[0].Model, llm.Model("a\uFFFD\uFFFD'?0;--\U0001F600"); got != want {
				t.Errorf("model = %q; want %q", got, want)
			}
		})
	})
}

func TestStore_UsageByTime(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		day := time.Date(2026, 10, 5, 0, 0, 0, 0, time.UTC)
		for hour := range 72 {
			r := testRecord("a")
			r.StartedAt = day.Add(time.Duration(hour)*time.Hour + 59*time.Minute)
			r.Usage = llm.Usage{Input: 1}
			if hour%2 == 1 {
				r.Model, r.Client = "small", "bob"
			}
			record(t, s, r)
		}
		sum := func(q UsageQuery) (n int64, rows []UsageRow) {
			rows, err := s.Usage(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				n += r.Input
			}
			return n, rows
		}
		for name, c := range map[string]struct {
			q          UsageQuery
			tokens     int64
			rows       int
			firstStart time.Time
		}{
			"all time":                 {UsageQuery{}, 72, 1, time.Time{}},
			"by model":                 {UsageQuery{By: []string{"model"}}, 72, 2, time.Time{}},
			"by day":                   {UsageQuery{By: []string{"day"}}, 72, 3, day},
			"by hour, model":           {UsageQuery{By: []string{"hour", "model"}}, 72, 72, day},
			"from noon, by day":        {UsageQuery{From: day.Add(12 * time.Hour), By: []string{"day"}}, 60, 3, day},
			"odd edges widen to hours": {UsageQuery{From: day.Add(90 * time.Minute), To: day.Add(150 * time.Minute)}, 2, 1, time.Time{}},
			"across days":              {UsageQuery{From: day.Add(20 * time.Hour), To: day.Add(50 * time.Hour), By: []string{"client"}}, 30, 2, time.Time{}},
			"nothing":                  {UsageQuery{From: day.Add(1000 * time.Hour)}, 0, 0, time.Time{}},
			"backwards":                {UsageQuery{From: day.Add(9 * time.Hour), To: day}, 0, 0, time.Time{}},
		} {
			t.Run(name, func(t *testing.T) {
				n, rows := sum(c.q)
				if n != c.tokens || len(rows) != c.rows || len(rows) > 0 && !rows[0].Time.Equal(c.firstStart) {
					t.Errorf("%d tokens in %d rows %+v; want %d in %d from %v", n, len(rows), rows, c.tokens, c.rows, c.firstStart)
				}
			})
		}
		for _, by := range [][]string{{"hour", "day"}, {"session"}} {
			if _, err := s.Usage(t.Context(), UsageQuery{By: by}); !errors.Is(err, ErrInvalid) {
				t.Errorf("by %v: err = %v; want ErrInvalid", by, err)
			}
		}
	})
}

func TestStore_Retention(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		at := time.Now().Add(-100 * time.Hour)
		aged := func(n int) Record {
			r := testRecord("a")
			r.ID, r.StartedAt = idFloor(at), at
			r.ID[14], r.ID[15] = byte(n>>8), byte(n)
			return r
		}
		var wg sync.WaitGroup
		for n := range sliceRows + 1 { // two slices
			wg.Go(func() { record(t, s, aged(n+1)) })
		}
		wg.Wait()
		fresh := testRecord("a")
		record(t, s, fresh)
		limit := time.Now().Add(-48 * time.Hour)
		slices := 0
		err := s.inTurn(t.Context(), func(ctx context.Context) (bool, error) {
			slices++
			return s.backend.prune(ctx, horizon{records: limit, hours: limit})
		})
		if err != nil || cfg.Type != "memory" && slices < 2 {
			t.Errorf("%d slices, %v; want at least 2", slices, err)
		}
		page, err := s.Requests(t.Context(), "a", RecordQuery{})
		if err != nil || len(page.Records) != 1 || page.Records[0].ID != fresh.ID {
			t.Errorf("%d records, %v; want the fresh one", len(page.Records), err)
		}
		if got := session(t, s, "a"); got.Requests != sliceRows+2 {
			t.Errorf("requests = %d; want that totals stay", got.Requests)
		}
		for by, want := range map[string]int64{"hour": 1, "day": sliceRows + 2} {
			rows, err := s.Usage(t.Context(), UsageQuery{By: []string{by}})
			if err != nil {
				t.Fatal(err)
			}
			n := int64(0)
			for _, row := range rows {
				n += row.Requests
			}
			if n != want {
				t.Errorf("%d requests by %s; want %d", n, by, want)
			}
		}
		if err := s.Record(t.Context(), aged(1)); !errors.Is(err, ErrInvalid) {
			t.Errorf("a late repetition: %v; want ErrInvalid", err)
		}
		if cfg.Type != "memory" {
			closeStore(t, s)
			again := open(t, cfg)
			if err := again.Record(t.Context(), aged(1)); !errors.Is(err, ErrInvalid) {
				t.Errorf("a late repetition after a restart: %v; want ErrInvalid", err)
			}
		}
	})
}

// Whatever is recorded, repeated and deleted, every store tells the same as the memory ledger.
func TestStore_EqualsMemory(t *testing.T) {
	if testing.Short() {
		if err := flag.Set("rapid.checks", "10"); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range kinds[1:] {
		t.Run(kind.name, func(t *testing.T) {
			cfg := kind.config(t)
			cfg.Durability = DurabilityNormal
			rapid.Check(t, func(rt *rapid.T) { equalsMemory(t, rt, cfg) })
		})
	}
}

// empty removes all that a store of cfg holds.
func empty(t testing.TB, cfg Config) {
	t.Helper()
	s := open(t, cfg)
	for _, table := range []string{"requests", "inflight", "usage_hourly", "usage_daily", "sessions", "names", "state"} {
		if _, err := sqlOf(t, s).write.Exec("DELETE FROM " + table); err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, s)
}

func equalsMemory(t *testing.T, rt *rapid.T, cfg Config) {
	empty(t, cfg)
	file, err := Open(t.Context(), cfg)
	if err != nil {
		rt.Fatal(err)
	}
	defer file.Close(context.Background())
	mem, err := Open(t.Context(), Config{})
	if err != nil {
		rt.Fatal(err)
	}
	defer mem.Close(context.Background())
	ctx := t.Context()
	base := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	keys := rapid.SampledFrom([]string{"", "a", "b", "it's:é"})
	owners := rapid.SampledFrom([]string{"", "x", strings.Repeat("y", 128)})
	var past []Record
	for range rapid.IntRange(1, 12).Draw(rt, "steps") {
		switch rapid.IntRange(0, 9).Draw(rt, "act") {
		case 0:
			key := keys.Draw(rt, "key")
			e1, e2 := file.DeleteSession(ctx, &file.Reader, key), mem.DeleteSession(ctx, &mem.Reader, key)
			if rapid.Bool().Draw(rt, "of one client") {
				owner := owners.Draw(rt, "owner")
				e1, e2 = file.DeleteSession(ctx, file.Of(owner), key), mem.DeleteSession(ctx, mem.Of(owner), key)
			}
			if errors.Is(e1, ErrNotFound) != errors.Is(e2, ErrNotFound) || errors.Is(e1, ErrAmbiguous) != errors.Is(e2, ErrAmbiguous) {
				rt.Fatalf("delete: %v and %v", e1, e2)
			}
			continue
		case 1, 2:
			if len(past) > 0 {
				r := rapid.SampledFrom(past).Draw(rt, "again")
				if rapid.Bool().Draw(rt, "ends otherwise") { // heeded only where it was booked as interrupted
					r.Outcome, r.Status, r.UsageKnown, r.Usage = Complete, 200, true, llm.Usage{Input: 7, Output: 9}
				}
				if e1, e2 := file.Record(ctx, r), mem.Record(ctx, r); e1 != nil || e2 != nil {
					rt.Fatal(e1, e2)
				}
			}
			continue
		}
		n := func(label string, most int64) int64 { return rapid.Int64Range(0, most).Draw(rt, label) }
		r := Record{
			ID: NewID(), StartedAt: base.Add(time.Duration(n("at", 1e6)) * time.Second),
			Session: keys.Draw(rt, "session"), Owner: owners.Draw(rt, "owner"), Model: llm.Model(rapid.StringN(0, 5, 20).Draw(rt, "model")),
			Client: rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "client"), Route: "embeddings",
			Metered: rapid.Bool().Draw(rt, "metered"), Stream: rapid.Bool().Draw(rt, "stream"),
			Status:  rapid.SampledFrom([]int{0, 200, 400, 500}).Draw(rt, "status"),
			Outcome: Outcome(1 + n("outcome", 4)), UsageKnown: rapid.Bool().Draw(rt, "known"),
			Usage: llm.Usage{Input: n("p", 1e9), Output: n("c", 1e9), Cached: n("k", 1e9), Reasoning: n("r", 1e9), CacheWrite: n("w", 1e9)}, Total: time.Duration(n("total", 1e12)),
		}
		r.Refused = rapid.Bool().Draw(rt, "refused")
		if rapid.Bool().Draw(rt, "told") {
			r.Told = llm.Told{
				Total: n("told", 1e9), Cost: rapid.StringMatching(`[0-9]{1,4}(\.[0-9]{1,20})?`).Draw(rt, "cost"),
				Currency: rapid.SampledFrom([]string{"", "USD", "EUR"}).Draw(rt, "currency"),
			}
		}
		past = append(past, r)
		if e1, e2 := file.Record(ctx, r), mem.Record(ctx, r); e1 != nil || e2 != nil {
			rt.Fatal(e1, e2)
		}
	}
	view := func(s *Reader) (out []any) {
		page, err := s.Sessions(ctx, SessionQuery{})
		out = append(out, page.Sessions, err)
		statuses := map[string][]any{}
		for _, one := range page.Sessions {
			page, err := s.Requests(ctx, one.ID, RecordQuery{})
			for i := range page.Records {
				page.Records[i].Refused = false // which databases do not read back
			}
			out = append(out, page.Records, err)
		}
		for one, err := range s.Status(ctx) {
			statuses[one.ID] = append(statuses[one.ID], one.Sums, err)
		}
		out = append(out, statuses)
		for _, q := range []UsageQuery{{}, {Session: "a", By: []string{"model"}}, {From: base.Add(30 * time.Hour), To: base.Add(200 * time.Hour), By: []string{"day", "model"}}} {
			rows, err := s.Usage(ctx, q)
			out = append(out, rows, errors.Is(err, ErrNotFound), err == nil)
		}
		return out
	}
	if diff := cmp.Diff(view(&mem.Reader), view(&file.Reader), ignoreSeq); diff != "" {
		rt.Fatalf("memory and store differ (-memory +store):\n%s", diff)
	}
	owner := owners.Draw(rt, "reader")
	if diff := cmp.Diff(view(mem.Of(owner)), view(file.Of(owner)), ignoreSeq); diff != "" {
		rt.Fatalf("memory and store differ for %q (-memory +store):\n%s", owner, diff)
	}
}

// A process that was taken for dead, and was not, has the last word on its requests.
func TestStore_TheRealEndReplacesInterrupted(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		done := testRecord("a")
		cut := done
		cut.Outcome, cut.Status, cut.UsageKnown, cut.AnsweredModel = Interrupted, 0, false, ""
		for range 2 {
			record(t, s, cut)
			if got := session(t, s, "a"); got.UnknownUsage != 1 || got.Requests != 0 {
				t.Errorf("session = %+v; want one request whose usage is unknown", got)
			}
		}
		for range 2 {
			record(t, s, done, cut) // neither again changes anything
			if got := session(t, s, "a"); got.UnknownUsage != 0 || got.Requests != 1 || got.Input != 10 {
				t.Errorf("session = %+v; want one request with its tokens", got)
			}
		}
		page, err := s.Requests(t.Context(), "a", RecordQuery{})
		if err != nil || len(page.Records) != 1 || page.Records[0].Outcome != Complete {
			t.Errorf("records = %+v, %v; want the one that ended", page.Records, err)
		}
		for _, by := range []string{"hour", "day"} {
			rows, err := s.Usage(t.Context(), UsageQuery{By: []string{by}})
			if err != nil || len(rows) != 1 || rows[0].UnknownUsage != 0 || rows[0].Requests != 1 || rows[0].Input != 10 {
				t.Errorf("by %s: %+v, %v; want one request", by, rows, err)
			}
		}
	})
}

// Journals and logs of earlier versions have these names; both must stay readable.
func TestRecord_JSONKeepsItsNames(t *testing.T) {
	const text = `{"ID":"0198f000-0000-7000-8000-000000000001","StartedAt":"2026-01-02T03:04:05Z","Session":"a","Parent":"p",` +
		`"Draws":[{"Scope":"team","Start":"2026-01-02T00:00:00Z"}],"Client":"c","Route":"chat/completions","Metered":true,"Stream":true,` +
		`"Model":"gpt-4o","AnsweredModel":"gpt-4o-2024-08-06","Status":200,"Outcome":1,` +
		`"Usage":{"Prompt":10,"Completion":5,"Cached":4,"Reasoning":2},"UsageKnown":true,"EstimatedPrompt":12,"EstimatedOutput":9,` +
		`"Attempts":1,"QueueWait":1000000,"FirstByte":1000000000,"Total":2000000000}`
	r, _, err := readFrame(bytes.NewReader(appendFrame(nil, []byte(text))))
	if err != nil {
		t.Fatal(err)
	}
	if want := (llm.Usage{Input: 10, Output: 5, Cached: 4, Reasoning: 2}); r.Usage != want || r.Model != "gpt-4o" || r.Total != 2*time.Second {
		t.Errorf("read %+v", r)
	}
	var want, got any
	written, err := json.Marshal(&r)
	if err := errors.Join(err, json.Unmarshal([]byte(text), &want), json.Unmarshal(written, &got)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a record in JSON (-want +got):\n%s", diff)
	}
}
