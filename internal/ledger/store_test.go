package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		os.Exit(crashChild(dir)) // this process is here to be killed, see crash_test.go
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if big.path != "" {
			os.RemoveAll(filepath.Dir(big.path))
		}
		os.Exit(code)
	}))
}

func testRecord(session string) Record {
	return Record{
		ID: NewID(), StartedAt: time.Now(), Session: session, Client: "alice", Route: "chat/completions",
		Metered: true, Stream: true, Model: "gpt-4o", AnsweredModel: "gpt-4o-2024-08-06", Status: 200, Outcome: Complete,
		Usage: Usage{Prompt: 10, Completion: 5, Cached: 4, Reasoning: 2}, UsageKnown: true,
		EstimatedPrompt: 12, EstimatedOutput: 9, Attempts: 1,
		QueueWait: 3 * time.Millisecond, FirstByte: 40 * time.Millisecond, Total: 90 * time.Millisecond,
	}
}

// stores runs a test against every kind of ledger; reopen closes and opens the same one, where it persists.
func stores(t *testing.T, test func(t *testing.T, cfg Config)) {
	t.Run("memory", func(t *testing.T) { test(t, Config{Type: "memory"}) })
	t.Run("sqlite", func(t *testing.T) {
		test(t, Config{Type: "sqlite", SQLiteDSN: filepath.Join(t.TempDir(), "sessions.db")})
	})
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
		want.Parent = "root"
		unknown := testRecord("a")
		unknown.UsageKnown, unknown.Outcome, unknown.Status = false, ClientGone, 200
		unknown.Parent = "root"
		zero := testRecord("a")
		zero.Usage, zero.Parent = Usage{}, "root"
		record(t, s, want, unknown, zero)

		page, err := s.Requests(t.Context(), "a", RecordQuery{})
		if err != nil {
			t.Fatal(err)
		}
		stored := []Record{zero, unknown, want}
		for i := range stored {
			stored[i], _ = stored[i].prepared()
		}
		if diff := cmp.Diff(stored, page.Records); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		start := want.StartedAt.UTC().Truncate(time.Millisecond)
		wantSession := Session{
			ID: "a", PromptTokens: 10, CompletionTokens: 5, CachedTokens: 4, ReasoningTokens: 2,
			Requests: 3, UnknownUsage: 1, FirstAt: start, LastAt: stored[0].StartedAt.Add(zero.Total),
		}
		if diff := cmp.Diff(wantSession, session(t, s, "a"), ignoreSeq); diff != "" {
			t.Errorf("session (-want +got):\n%s", diff)
		}
	})
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
			vary(func(r *Record) { none(r); r.Status = 400; r.Outcome = UpstreamError }),              // refused: free
			vary(func(r *Record) { none(r); r.Status = 0; r.Outcome = UpstreamError }),                // broken: unknown
			vary(func(r *Record) { none(r); r.Metered = false; r.Route = "other"; r.Model = "" }),     // not metered
			vary(func(r *Record) { r.Session = "" }),                                                  // nobody's
			vary(func(r *Record) { r.Status = 0; r.Outcome = Truncated; r.Usage = Usage{Prompt: 1} }), // usage is data
		)
		got := session(t, s, "a")
		if got.Requests != 2 || got.UnknownUsage != 2 || got.PromptTokens != 11 || got.CompletionTokens != 5 {
			t.Errorf("session = %+v; want 2 requests, 2 unknown, 11 prompt and 5 completion tokens", got)
		}
		rows, err := s.Usage(t.Context(), UsageQuery{})
		if err != nil {
			t.Fatal(err)
		}
		want := []UsageRow{{Requests: 3, UnknownUsage: 2, PromptTokens: 21, CompletionTokens: 10, CachedTokens: 8, ReasoningTokens: 4}}
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
			if got := session(t, s, "once"); got.Requests != 1 || got.PromptTokens != 10 {
				t.Errorf("session = %+v; want one request", got)
			}
			if st := s.Stats(); st.Written != 1 || st.Duplicates != 99 {
				t.Errorf("written %d, duplicates %d; want 1, 99", st.Written, st.Duplicates)
			}
		})
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
		t.Run("across restarts", func(t *testing.T) {
			if cfg.Type == "memory" {
				t.Skip("memory forgets")
			}
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
		if err := s.DeleteSession(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Session(t.Context(), "a"); !errors.Is(err, ErrNotFound) {
			t.Errorf("err = %v; want ErrNotFound", err)
		}
		if err := s.DeleteSession(t.Context(), "a"); !errors.Is(err, ErrNotFound) {
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
		record(t, s, retried, unknown, refused, other, old)
		got, err := s.RecentUse(t.Context(), time.Now().Add(-time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		want := []ModelUse{
			{Model: "gpt-4o", Requests: 5, PromptTokens: 10 + 12, CompletionTokens: 5 + 9},
			{Model: "small", Requests: 1, PromptTokens: 10, CompletionTokens: 5},
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
			"absurd usage":     func(r *Record) { r.Usage.Prompt = 1 << 60 },
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
			r.Model, r.Client, r.AnsweredModel = "a\xff\x00'?0;--\U0001F600", "'; DROP TABLE names;--", string(make([]byte, 4000))
			record(t, s, r)
			page, err := s.Requests(t.Context(), "odd", RecordQuery{})
			if err != nil || len(page.Records) != 1 {
				t.Fatalf("%d records, %v", len(page.Records), err)
			}
			if got, want := page.Records[0].Model, "a\uFFFD\uFFFD'?0;--\U0001F600"; got != want {
				t.Errorf("model = %q; want %q", got, want)
			}
		})
	})
}
