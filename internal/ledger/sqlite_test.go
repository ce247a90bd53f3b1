package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

func openFile(t testing.TB) (*Store, *sqlBackend) {
	t.Helper()
	s := open(t, Config{Type: "sqlite", SQLiteDSN: filepath.Join(t.TempDir(), "x.db")})
	return s, s.backend.(*sqlBackend)
}

// SQLite before 3.51.3 can corrupt a WAL database (sqlite.org/wal.html#walresetbug).
func TestSQLite_Version(t *testing.T) {
	_, b := openFile(t)
	var version string
	if err := b.read.NewRaw("SELECT sqlite_version()").Scan(t.Context(), &version); err != nil {
		t.Fatal(err)
	}
	var major, minor, patch int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); err != nil {
		t.Fatal(err)
	}
	if major*1_000_000+minor*1000+patch < 3_051_003 {
		t.Errorf("SQLite %s; want at least 3.51.3", version)
	}
}

func TestSQLite_Pragmas(t *testing.T) {
	for durability, want := range map[string]string{DurabilityFull: "2", DurabilityNormal: "1", DurabilityAsync: "1"} {
		s := open(t, Config{Type: "sqlite", SQLiteDSN: filepath.Join(t.TempDir(), "x.db"), Durability: durability})
		for pragma, want := range map[string]string{"synchronous": want, "journal_mode": "wal", "foreign_keys": "1", "auto_vacuum": "2"} {
			var got string
			if err := s.backend.(*sqlBackend).write.NewRaw("PRAGMA "+pragma).Scan(t.Context(), &got); err != nil || got != want {
				t.Errorf("%s: %s = %q, %v; want %q", durability, pragma, got, err, want)
			}
		}
	}
}

func TestSQLite_FilesArePrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes")
	}
	dir := t.TempDir()
	s := open(t, Config{Type: "sqlite", SQLiteDSN: "file:" + dir + "/a%20b%23.db?_pragma=cache_size(-4000)"})
	record(t, s, testRecord("a"))
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		seen[f.Name()] = true
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v; want 0600", f.Name(), info.Mode().Perm())
		}
	}
	for _, name := range []string{"a b#.db", "a b#.db-wal", "a b#.db.spill"} {
		if !seen[name] {
			t.Errorf("no file %q among %v", name, seen)
		}
	}
}

// planHook asks SQLite how it would run each SELECT and DELETE that passes.
type planHook struct {
	plans map[string]string
	raw   *bun.DB
}

func (h *planHook) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context { return ctx }

func (h *planHook) AfterQuery(ctx context.Context, e *bun.QueryEvent) {
	if !strings.HasPrefix(e.Query, "SELECT") && !strings.HasPrefix(e.Query, "DELETE") {
		return
	}
	var rows []struct {
		ID, Parent, Notused int
		Detail              string
	}
	if err := h.raw.NewRaw("EXPLAIN QUERY PLAN "+e.Query).Scan(ctx, &rows); err != nil {
		h.plans[e.Query] = err.Error()
		return
	}
	for _, row := range rows {
		h.plans[e.Query] += row.Detail + "\n"
	}
}

func TestSQLite_ReadsNeverScan(t *testing.T) {
	s, b := openFile(t)
	for i := range 50 {
		r := owned([]string{"", "alice"}[i%2], fmt.Sprint("s", i%5))
		r.Draws = []Draw{{"team", r.StartedAt.Truncate(time.Hour)}}
		record(t, s, r)
	}
	hook := &planHook{plans: map[string]string{}, raw: b.write}
	b.read = b.read.WithQueryHook(hook)
	ctx := t.Context()
	page, err := s.Sessions(ctx, SessionQuery{Limit: 2})
	_, err2 := s.Sessions(ctx, SessionQuery{Limit: 2, Cursor: page.NextCursor})
	_, err3 := s.Session(ctx, "s1")
	requests, err4 := s.Requests(ctx, "s1", RecordQuery{Limit: 2})
	_, err5 := s.Requests(ctx, "s1", RecordQuery{Limit: 2, Cursor: requests.NextCursor})
	_, err6 := s.RecentUse(ctx, time.Now().Add(-time.Minute))
	_, err7 := s.Usage(ctx, UsageQuery{From: time.Now().Add(-30 * time.Hour), By: []string{"day", "model", "client"}})
	_, err8 := s.Usage(ctx, UsageQuery{From: time.Now().Add(-30 * time.Hour), By: []string{"hour", "model"}})
	_, err10 := s.Usage(ctx, UsageQuery{Session: "s1", By: []string{"model"}})
	_, err9 := s.BudgetUse(ctx, "team", time.Now().Add(-30*time.Hour))
	for _, reader := range []*Reader{&s.Reader, s.Of("alice"), s.Of("")} {
		for _, err := range reader.Status(ctx) {
			err8 = errors.Join(err8, err)
		}
		if reader.whose.owner == "" && reader.whose.one {
			continue // an operator who asks for nobody's has one session, or no list
		}
		page, err := reader.Sessions(ctx, SessionQuery{Limit: 2})
		err8 = errors.Join(err8, err, second(reader.Sessions(ctx, SessionQuery{Limit: 2, Cursor: page.NextCursor})),
			second(reader.Session(ctx, "s1")), second(reader.Requests(ctx, "s1", RecordQuery{Limit: 2})), second(s.Usage(ctx, UsageQuery{Client: "alice"})))
	}
	if err := errors.Join(err, err2, err3, err4, err5, err6, err7, err8, err9, err10); err != nil {
		t.Fatal(err)
	}
	if len(hook.plans) < 10 {
		t.Errorf("%d queries were seen; want at least 10", len(hook.plans))
	}
	hook.demandNoScan(t)
}

// demandNoScan fails t for a plan that reads a table from end to end, or sorts one.
func (h *planHook) demandNoScan(t *testing.T) {
	t.Helper()
	for query, plan := range h.plans {
		for line := range strings.SplitSeq(plan, "\n") {
			bounded := strings.Contains(line, "USING INDEX sessions_last") ||
				line == "SCAN first" // rows of a query with a limit
			if strings.Contains(line, "SCAN") && !bounded ||
				strings.Contains(line, "TEMP B-TREE FOR ORDER") || line == "" && plan == "" {
				t.Errorf("%s\n  runs as: %s", query, plan)
			}
		}
	}
}

// The writer's own queries hold up every batch behind them.
func TestSQLite_WritesNeverScan(t *testing.T) {
	s, b := openFile(t)
	for i := range 20 {
		record(t, s, testRecord(fmt.Sprint("s", i%5)))
	}
	hook := &planHook{plans: map[string]string{}, raw: b.read} // the writer's connection is taken
	b.write = b.write.WithQueryHook(hook)
	record(t, s, testRecord("s1"), testRecord("new"))
	if err := s.DeleteSession(t.Context(), &s.Reader, "s1"); err != nil {
		t.Fatal(err)
	}
	if err := s.inTurn(t.Context(), func(ctx context.Context) (bool, error) {
		return b.prune(ctx, horizon{records: time.Now(), hours: time.Now()})
	}); err != nil {
		t.Fatal(err)
	}
	if len(hook.plans) < 5 {
		t.Errorf("%d queries were seen; want at least 5", len(hook.plans))
	}
	hook.demandNoScan(t)
}

func TestSQLite_BytesPerRecord(t *testing.T) {
	s, b := openFile(t)
	n, sessions := 20_000, 200
	if testing.Short() {
		n = 5000
	}
	at := time.Now().Add(-30 * 24 * time.Hour)
	for i := 0; i < n; i += maxBatch {
		var in batch
		for j := range maxBatch {
			r := testRecord(fmt.Sprintf("agent-run-%06d", (i+j)%sessions))
			at = at.Add(time.Minute)
			r.ID, r.StartedAt = idFloor(at), at
			r.ID[6], r.ID[15] = 0x70, byte(j)
			r.Usage = llm.Usage{Input: int64(1000 + j), Output: 300, Cached: 512}
			r.Model = [...]llm.Model{"gpt-4o", "gpt-4o-mini", "o3", "text-embedding-3-small", "gpt-4.1"}[j%5]
			_ = r.prepare()
			in.records = append(in.records, r)
		}
		if _, err := b.apply(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, s)
	info, err := os.Stat(s.cfg.SQLiteDSN)
	if err != nil {
		t.Fatal(err)
	}
	perRecord := float64(info.Size()) / float64(n)
	t.Logf("%.1f bytes per record, indexes and rollups included", perRecord)
	if perRecord > 160 {
		t.Errorf("%.1f bytes per record; want at most 160", perRecord)
	}
}

func TestMemory_IsBounded(t *testing.T) {
	m := newMemory(100, 50)
	for i := range 5000 {
		r := testRecord(fmt.Sprint("s", i))
		if _, err := m.apply(t.Context(), batch{records: []Record{r}}); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.byKey) != 100 || m.recent.Len() != 100 || len(m.records) != 50 || len(m.arrived) != 50 {
		t.Errorf("%d sessions, %d records; want 100, 50", len(m.byKey), len(m.records))
	}
	if len(m.byID) != 100 || len(m.namedLocked(whose{}, "s4999")) != 1 {
		t.Errorf("%d ids, want 100, the latest among them", len(m.byID))
	}
}

func FuzzJournal_ReadFrame(f *testing.F) {
	f.Add([]byte(`{"Session":"a"}`))
	f.Add(appendFrame(appendFrame(nil, []byte(`{}`)), []byte(`[]`)))
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for read := int64(0); ; {
			_, size, err := readFrame(r)
			if err != nil {
				break
			}
			if read += size; read > int64(len(data)) {
				t.Fatalf("read %d of %d bytes", read, len(data))
			}
		}
		// The same bytes with a checksum that fits: a record, or an error that is no end.
		framed := appendFrame(nil, data)
		rec, size, err := readFrame(bytes.NewReader(framed))
		switch {
		case len(data) == 0 || len(data) > frameMax:
			if !errors.Is(err, errFrameEnd) {
				t.Fatalf("a frame of %d bytes: %v", len(data), err)
			}
		case errors.Is(err, errFrameEnd):
			t.Fatal("a whole frame is taken for the end")
		case err == nil:
			if size != int64(len(framed)) {
				t.Fatalf("read %d of %d bytes", size, len(framed))
			}
			body, err := json.Marshal(&rec)
			if err != nil {
				t.Fatalf("a record that cannot be written: %v", err)
			}
			var again Record
			if err := json.Unmarshal(body, &again); err != nil || !reflect.DeepEqual(again, rec) {
				t.Fatalf("%+v comes back as %+v, %v", rec, again, err)
			}
		}
	})
}

func FuzzCursors_Parse(f *testing.F) {
	f.Add(sessionCursor{1, 2}.String())
	f.Add(NewID().String())
	f.Add("")
	seal, err := cursorSealOf(newCursorKey())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seal.seal("another question", "1.2"))
	f.Fuzz(func(t *testing.T, text string) {
		if position, err := seal.open("a question", text); text != "" && !errors.Is(err, ErrInvalid) {
			t.Fatalf("the cursor %q is taken for %q, %v", text, position, err)
		}
		if text != "" {
			if position, err := seal.open("a question", seal.seal("a question", text)); err != nil || position != text {
				t.Fatalf("%q comes back as %q, %v", text, position, err)
			}
		}
		c, err := parseSessionCursor(text)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatal(err)
		}
		if c != nil {
			if again, err := parseSessionCursor(c.String()); err != nil || *again != *c {
				t.Fatalf("%v comes back as %v, %v", c, again, err)
			}
		}
		id, err := parseRecordCursor(text)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatal(err)
		}
		if id != nil {
			if again, err := parseRecordCursor(id.String()); err != nil || *again != *id {
				t.Fatalf("%v comes back as %v, %v", id, again, err)
			}
		}
	})
}
