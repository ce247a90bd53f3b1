package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger/pgtest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// openPostgresStore opens a store and gives its backend too.
func openPostgresStore(t testing.TB, cfg Config) (*Store, *postgres) {
	t.Helper()
	s := open(t, cfg)
	return s, s.backend.(*postgres)
}

// terminate cuts all connections of an application, as an administrator or a failover does.
func terminate(t testing.TB, application string) {
	t.Helper()
	pgtest.Exec(t, pgtest.Server(t), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '"+application+"'")
}

// called gives the connections of cfg a name of their own.
func called(t testing.TB, cfg Config, name string) Config {
	cfg.PostgresDSN = pgtest.With(t, cfg.PostgresDSN, "application_name", name)
	return cfg
}

func TestPostgres_Durability(t *testing.T) {
	for durability, want := range map[string]string{DurabilityFull: "on", DurabilityNormal: "off", DurabilityAsync: "off"} {
		cfg := postgresConfig(t)
		cfg.Durability = durability
		_, p := openPostgresStore(t, cfg)
		for setting, want := range map[string]string{
			"synchronous_commit": want, "standard_conforming_strings": "on",
			"transaction_isolation": "read committed", "statement_timeout": "5s", "lock_timeout": "3s",
		} {
			var got string
			if err := p.write.NewRaw("SHOW "+setting).Scan(t.Context(), &got); err != nil || got != want {
				t.Errorf("%s: %s = %q, %v; want %q", durability, setting, got, err, want)
			}
		}
	}
}

// The server's own default must not weaken what was asked for.
func TestPostgres_FullIsFullWhereTheServerIsNot(t *testing.T) {
	cfg := postgresConfig(t)
	pgtest.Exec(t, cfg.PostgresDSN, "ALTER ROLE ledger SET synchronous_commit = off")
	defer pgtest.Exec(t, cfg.PostgresDSN, "ALTER ROLE ledger RESET synchronous_commit")
	_, p := openPostgresStore(t, cfg)
	var got string
	if err := p.write.NewRaw("SHOW synchronous_commit").Scan(t.Context(), &got); err != nil || got != "on" {
		t.Errorf("synchronous_commit = %q, %v; want on", got, err)
	}
}

// explainHook asks Postgres how it would run each SELECT that passes.
type explainHook struct {
	plans map[string]string
	raw   *bun.DB
}

func (h *explainHook) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context { return ctx }

func (h *explainHook) AfterQuery(ctx context.Context, e *bun.QueryEvent) {
	if !strings.HasPrefix(e.Query, "SELECT") {
		return
	}
	var lines []string
	if err := h.raw.NewRaw("EXPLAIN "+e.Query).Scan(ctx, &lines); err != nil {
		lines = []string{err.Error()}
	}
	h.plans[e.Query] = strings.Join(lines, "\n")
}

// With a table as large as this the planner has a choice: its settings are the server's own.
func TestPostgres_ReadsNeverScan(t *testing.T) {
	s, p := openPostgresStore(t, postgresConfig(t))
	at := time.Now().Add(-40 * 24 * time.Hour)
	for i := range 60 {
		var in batch
		for j := range maxBatch {
			r := testRecord(fmt.Sprintf("s%d", (i*maxBatch+j)%2000))
			at = at.Add(2 * time.Minute)
			r.ID, r.StartedAt = idFloor(at), at
			r.ID[6], r.ID[14], r.ID[15] = 0x70, byte(j>>8), byte(j)
			r.Model = llm.Model(fmt.Sprint("model-", j%5))
			_ = r.prepare()
			in.records = append(in.records, r)
		}
		if _, err := p.apply(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	record(t, s, testRecord("s1"))
	var size int64
	err := p.read.NewRaw(`SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class AS c WHERE relkind = 'r' AND relnamespace = ?::regnamespace`,
		p.schema).Scan(t.Context(), &size)
	t.Logf("%d bytes per record, indexes and rollups included (%v)", size/(60*maxBatch), err)
	_, err = p.write.Exec(`INSERT INTO sessions (key, first_at, last_at) SELECT 'more-' || n, n, n FROM generate_series(1, 50000) AS n;
		INSERT INTO sessions (key, client, name, first_at, last_at)
		SELECT 'client-' || n % 5 || '/more-' || n, 'client-' || n % 5, 'more-' || n, n, n FROM generate_series(1, 50000) AS n`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.write.Exec("ANALYZE"); err != nil {
		t.Fatal(err)
	}
	hook := &explainHook{plans: map[string]string{}, raw: p.write}
	p.read = p.read.WithQueryHook(hook)
	ctx := t.Context()
	page, err1 := s.Sessions(ctx, SessionQuery{Limit: 2})
	_, err2 := s.Sessions(ctx, SessionQuery{Limit: 2, Cursor: page.NextCursor})
	_, err3 := s.Session(ctx, "s1")
	requests, err4 := s.Requests(ctx, "s1", RecordQuery{Limit: 2})
	_, err5 := s.Requests(ctx, "s1", RecordQuery{Limit: 2, Cursor: requests.NextCursor})
	_, err6 := s.RecentUse(ctx, time.Now().Add(-time.Minute))
	_, err7 := s.Usage(ctx, UsageQuery{From: time.Now().Add(-30 * time.Hour), By: []string{"day", "model", "client"}})
	_, err8 := s.Usage(ctx, UsageQuery{From: time.Now().Add(-30 * time.Hour), By: []string{"hour", "model"}})
	alice := s.Of("client-3")
	page, err10 := alice.Sessions(ctx, SessionQuery{Limit: 2})
	err8 = errors.Join(err8, err10, second(alice.Sessions(ctx, SessionQuery{Limit: 2, Cursor: page.NextCursor})),
		second(p.totals(ctx, whose{"client-3", true}, Session{seq: 4}, maxPage)), second(alice.Session(ctx, "more-503")), second(alice.Requests(ctx, "more-503", RecordQuery{})))
	_, err9 := p.totals(ctx, whose{}, Session{ID: "more-2"}, maxPage)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9); err != nil {
		t.Fatal(err)
	}
	if len(hook.plans) < 9 {
		t.Errorf("%d queries were seen; want at least 9", len(hook.plans))
	}
	for query, plan := range hook.plans {
		if !strings.Contains(plan, "cost=") || strings.Contains(plan, "Seq Scan on requests") {
			t.Errorf("%s\n  runs as: %s", query, plan)
		}
		// A page of sessions is read in the order of an index, not sorted out of all.
		if strings.Contains(query, `FROM "sessions"`) && (strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "Sort")) {
			t.Errorf("%s\n  runs as: %s", query, plan)
		}
	}
}

func TestOpenPostgres_Refuses(t *testing.T) {
	cfg := postgresConfig(t)
	change := func(act func(*url.URL)) string {
		u, err := url.Parse(cfg.PostgresDSN)
		if err != nil {
			t.Fatal(err)
		}
		act(u)
		return u.String()
	}
	newer := postgresConfig(t)
	s, p := openPostgresStore(t, newer)
	if _, err := p.write.Exec("INSERT INTO schema_migrations (name, group_id) VALUES ('29990101000000', 2)"); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	for name, c := range map[string]struct {
		dsn  string
		kind error
		want string
	}{
		"no address":          {"", ErrInvalid, "needs a connection URL"},
		"a wrong password":    {change(func(u *url.URL) { u.User = url.UserPassword("ledger", "t0psecret") }), ErrInvalid, "28P01"},
		"an unknown role":     {change(func(u *url.URL) { u.User = url.UserPassword("nobody", "t0psecret") }), ErrInvalid, "28P01"},
		"an unknown database": {change(func(u *url.URL) { u.Path = "/nowhere" }), ErrInvalid, `"nowhere" does not exist`},
		"an unknown schema":   {pgtest.With(t, cfg.PostgresDSN, "search_path", "nowhere"), ErrInvalid, "no schema"},
		"a wrong parameter":   {pgtest.With(t, cfg.PostgresDSN, "frobnicate", "1"), ErrInvalid, "frobnicate"},
		"a broken URL":        {"postgres://u:t0psecret/x@host/db", ErrInvalid, "percent-encoded"},
		"half a password":     {"postgres://u:100#t0psecret@host/db", ErrInvalid, "percent-encoded"},
		"a second @":          {"postgres://u:pw@100#t0psecret@host/db", ErrInvalid, "percent-encoded"},
		"a wrong sslmode":     {pgtest.With(t, cfg.PostgresDSN, "sslmode", "maybe"), ErrInvalid, "sslmode"},
		"nobody there":        {change(func(u *url.URL) { u.Host = "127.0.0.1:1" }), ErrUnavailable, "not ready within 1.5s"},
		"a newer schema":      {newer.PostgresDSN, ErrInvalid, "newer than this program"},
	} {
		t.Run(name, func(t *testing.T) {
			var logged bytes.Buffer
			s, err := Open(t.Context(), Config{
				Type: "postgres", PostgresDSN: c.dsn, StartPatience: 1500 * time.Millisecond, JournalPath: NoJournal,
				Logger: slog.New(slog.NewTextHandler(&logged, nil)),
			})
			if err == nil {
				closeStore(t, s)
				t.Fatal("opened")
			}
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("err = %q; want one line with %q, %v", err, c.want, c.kind)
			}
			for _, secret := range []string{"s3cret", "t0psecret"} {
				if strings.Contains(err.Error()+logged.String(), secret) {
					t.Errorf("the password is shown: %v\n%s", err, logged.String())
				}
			}
		})
	}
}

// Beside a container that starts at the same moment the database is often late.
func TestOpenPostgres_WaitsForTheServer(t *testing.T) {
	cfg := postgresConfig(t)
	proxy, err := provider.NewFaultProxy(pgtest.Address(t, cfg.PostgresDSN))
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	if err := proxy.Down(); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	cfg.Logger = slog.New(onceHandler{slog.DiscardHandler, waiting, new(sync.Once)})
	cfg.PostgresDSN = pgtest.At(t, cfg.PostgresDSN, proxy.Addr())
	go func() {
		<-waiting // Open has met a refused connection
		if err := proxy.Up(); err != nil {
			t.Error(err)
		}
	}()
	s := open(t, cfg)
	record(t, s, testRecord("a"))
	closeStore(t, s)
}

// onceHandler tells when the first line was logged.
type onceHandler struct {
	slog.Handler
	first chan struct{}
	once  *sync.Once
}

func (h onceHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h onceHandler) Handle(context.Context, slog.Record) error {
	h.once.Do(func() { close(h.first) })
	return nil
}

func TestPostgres_Migrates(t *testing.T) {
	t.Run("from where a killed migration stopped", func(t *testing.T) {
		cfg := postgresConfig(t)
		s := open(t, cfg)
		record(t, s, testRecord("a"))
		closeStore(t, s)
		// Killed between its end and its mark; and one that ran half.
		pgtest.Exec(t, cfg.PostgresDSN, "DELETE FROM schema_migrations; DROP VIEW request_log; DROP TABLE state; DROP INDEX requests_session")
		s = open(t, cfg)
		record(t, s, testRecord("a"))
		if got := session(t, s, "a"); got.Requests != 2 {
			t.Errorf("requests = %d; want 2", got.Requests)
		}
		if err := s.SaveState(t.Context(), "x", nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("once, whoever comes at the same moment", func(t *testing.T) {
		cfg := postgresConfig(t)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				s, err := Open(t.Context(), cfg)
				if err != nil {
					t.Error(err)
					return
				}
				record(t, s, testRecord("a"))
				closeStore(t, s)
			})
		}
		wg.Wait()
		s := open(t, cfg)
		if got := session(t, s, "a"); got.Requests != 6 {
			t.Errorf("requests = %d; want 6", got.Requests)
		}
		var marks, names int
		err := sqlOf(t, s).read.NewRaw("SELECT count(*), count(DISTINCT name) FROM schema_migrations").Scan(t.Context(), &marks, &names)
		if err != nil || marks != names || marks == 0 {
			t.Errorf("%d marks of %d migrations, %v; want one each", marks, names, err)
		}
	})
}

// checkPostgres demands that all ids are there once, and that all sums agree.
func checkPostgres(t *testing.T, s *Store, ids map[ID]bool) {
	t.Helper()
	b := sqlOf(t, s)
	var rows []requestRow
	if err := b.read.NewSelect().Model(&rows).Column("id", "prompt_tokens").Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	stored := 0
	for _, r := range rows {
		if r.Input != nil && ids[r.ID] {
			stored++
		}
	}
	if stored != len(ids) || len(rows) != len(ids) {
		t.Errorf("%d of %d records are stored, in %d rows", stored, len(ids), len(rows))
	}
	checkSums(t, b)
}

// load records some 800 times a second, from several goroutines, until the returned function is called, which
// gives the ids of all that Record said to have taken.
func load(t *testing.T, s *Store) (stop func() map[ID]bool) {
	t.Helper()
	var mu sync.Mutex
	var ended atomic.Bool
	var wg sync.WaitGroup
	ids := map[ID]bool{}
	for worker := range 8 {
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for n := 0; !ended.Load(); n++ {
				<-tick.C
				r := testRecord(fmt.Sprintf("s%d", (worker+n)%5))
				if err := s.Record(context.Background(), r); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				ids[r.ID] = true
				mu.Unlock()
			}
		})
	}
	return func() map[ID]bool {
		ended.Store(true)
		wg.Wait()
		return ids
	}
}

func TestPostgres_Stopped(t *testing.T) {
	cfg := postgresConfig(t)
	s, _ := openPostgresStore(t, cfg)
	before := testRecord("a")
	record(t, s, before)
	pgtest.Control(t, "stop")
	running := false
	cont := func() {
		if !running {
			pgtest.Control(t, "cont")
			running = true
		}
	}
	defer cont()
	ids := map[ID]bool{before.ID: true}
	begin := time.Now()
	for range 20 {
		r := testRecord("a")
		record(t, s, r)
		ids[r.ID] = true
	}
	took := time.Since(begin)
	if st := s.Stats(); st.Journaled != 20 || st.Failed != 0 || !st.Degraded {
		t.Errorf("stats = %+v after %s; want 20 records in the journal, degraded", st, took)
	}
	if err := s.Ready(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("ready: %v; want ErrUnavailable", err)
	}
	if _, err := s.Session(t.Context(), "a"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a read: %v; want ErrUnavailable", err)
	}
	record(t, s, before) // a repetition, now by way of the journal
	cont()
	waitFor(t, func() bool { return s.Stats().Journaled == 0 && s.Ready(t.Context()) == nil })
	checkPostgres(t, s, ids)
	t.Logf("20 records while the server was stopped: %s", took.Round(time.Millisecond))
}

func TestPostgres_KilledAndRestarted(t *testing.T) {
	s, _ := openPostgresStore(t, postgresConfig(t))
	stop := load(t, s)
	for range 3 {
		written := s.Stats().Written
		waitFor(t, func() bool { return s.Stats().Written > written+500 })
		pgtest.Control(t, "kill")
		spilled := s.Stats().Spilled
		waitFor(t, func() bool { return s.Stats().Spilled > spilled })
		pgtest.Control(t, "start")
		waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	}
	ids := stop()
	waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	checkPostgres(t, s, ids)
	if st := s.Stats(); st.Failed != 0 || st.Replayed == 0 {
		t.Errorf("stats = %+v; want none lost, some replayed", st)
	}
	t.Logf("3 kills of the server, %d records, stats %+v", len(ids), s.Stats())
}

func TestPostgres_ConnectionsTerminated(t *testing.T) {
	s, _ := openPostgresStore(t, called(t, postgresConfig(t), "doomed"))
	stop := load(t, s)
	for range 10 {
		written := s.Stats().Written
		waitFor(t, func() bool { return s.Stats().Written > written+200 })
		terminate(t, "doomed")
	}
	ids := stop()
	waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	checkPostgres(t, s, ids)
}

// The server's answers are cut in steps of 9 bytes over all of a connection's first transactions: the answer to COMMIT
// has 18, so that once at least a commit has happened and nobody was told.
func TestPostgres_AnswersCutAnywhere(t *testing.T) {
	cfg := postgresConfig(t)
	proxy, err := provider.NewFaultProxy(pgtest.Address(t, cfg.PostgresDSN))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	cfg = called(t, cfg, "cut")
	cfg.PostgresDSN = pgtest.At(t, cfg.PostgresDSN, proxy.Addr())
	cfg.lastBackoff = 20 * time.Millisecond
	s, _ := openPostgresStore(t, cfg)
	ids := map[ID]bool{}
	cuts, told := 0, s.Stats().Duplicates
	for after := int64(1000); after < 1900; after += 9 {
		proxy.Script(provider.Damage{Deed: provider.Reset, After: after})
		accepted := proxy.Accepted()
		terminate(t, "cut")
		for range 2 {
			r := testRecord("a")
			record(t, s, r)
			ids[r.ID] = true
		}
		waitFor(t, func() bool { return s.Stats().Journaled == 0 && proxy.Accepted() > accepted })
		if n := s.Stats().Duplicates; n > told {
			t.Logf("cut after %d bytes: the outcome of %d was unknown", after, n-told)
			told = n
		}
		cuts++
	}
	checkPostgres(t, s, ids)
	if told == 0 {
		t.Error("no commit was repeated that had succeeded: the test does not cut where it should")
	}
	t.Logf("%d connections cut, %d records", cuts, len(ids))
}

// A standby, or a primary that was made one, answers every question and takes nothing.
func TestPostgres_ReadOnly(t *testing.T) {
	s, _ := openPostgresStore(t, called(t, postgresConfig(t), "readonly"))
	admin := pgtest.With(t, pgtest.Server(t), "default_transaction_read_only", "off")
	pgtest.Exec(t, admin, "ALTER ROLE ledger SET default_transaction_read_only = on")
	reset := func() { pgtest.Exec(t, admin, "ALTER ROLE ledger RESET default_transaction_read_only") }
	defer reset()
	terminate(t, "readonly")
	ids := map[ID]bool{}
	for range 10 {
		r := testRecord("a")
		record(t, s, r)
		ids[r.ID] = true
	}
	if st := s.Stats(); st.Spilled != 10 || st.Failed != 0 {
		t.Errorf("stats = %+v; want 10 records in the journal", st)
	}
	if err := s.Ready(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("ready: %v; want ErrUnavailable", err)
	}
	reset() // the failover has ended: new connections reach a primary
	waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	checkPostgres(t, s, ids)
}

func TestPostgres_DiskFull(t *testing.T) {
	base := pgtest.Server(t)
	small := os.Getenv(pgtest.EnvSmall)
	if small == "" {
		t.Skip("no small disk: mounting one takes root")
	}
	pgtest.Exec(t, base, "CREATE TABLESPACE small LOCATION '"+small+"/space'")
	t.Cleanup(func() { pgtest.Exec(t, base, "DROP TABLESPACE small") }) // after the schema of DSN, for cleanups run backwards
	cfg := postgresConfig(t)
	cfg.PostgresDSN = pgtest.With(t, cfg.PostgresDSN, "default_tablespace", "small")
	s, _ := openPostgresStore(t, cfg)
	first := testRecord("a")
	record(t, s, first)
	ids := map[ID]bool{first.ID: true}

	ballast := filepath.Join(small, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) || f.Close() != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range 600 {
		wg.Go(func() {
			r := testRecord(fmt.Sprint("full-", i))
			record(t, s, r)
			mu.Lock()
			ids[r.ID] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	if st := s.Stats(); st.Journaled == 0 || st.Failed != 0 || !st.Degraded {
		t.Errorf("stats = %+v; want records in the journal, none lost", st)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	checkPostgres(t, s, ids)
}

func TestPostgres_PoisonSparesItsNeighbours(t *testing.T) {
	s, _ := openPostgresStore(t, postgresConfig(t))
	ids := map[ID]bool{}
	var work []*pending
	for i := range 50 {
		r := testRecord("a")
		if err := r.prepare(); err != nil {
			t.Fatal(err)
		}
		if i == 17 || i == 33 {
			r.Usage.Input = -1 // past Record's own checks: only the table refuses it
		} else {
			ids[r.ID] = true
		}
		work = append(work, &pending{record: r, done: make(chan error, 1)})
	}
	release, held := make(chan struct{}), make(chan struct{})
	s.queue.control(&control{do: func(context.Context) error { close(held); <-release; return nil }})
	<-held
	for _, p := range work {
		if err := s.queue.put(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	for i, p := range work {
		if err := <-p.done; errors.Is(err, ErrInvalid) != (i == 17 || i == 33) {
			t.Errorf("record %d: %v", i, err)
		}
	}
	checkPostgres(t, s, ids)
}

// What the schema lacks is not the records' fault.
func TestPostgres_BrokenSchema(t *testing.T) {
	cfg := postgresConfig(t)
	s, _ := openPostgresStore(t, cfg)
	for _, broken := range []struct{ with, without string }{
		{"ALTER TABLE usage_daily RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO usage_daily"},
		{"ALTER TABLE requests RENAME COLUMN outcome TO fate", "ALTER TABLE requests RENAME COLUMN fate TO outcome"},
	} {
		pgtest.Exec(t, cfg.PostgresDSN, broken.with)
		record(t, s, testRecord("a"))
		if st := s.Stats(); st.Journaled != 1 || st.Rejected != 0 {
			t.Errorf("stats = %+v; want the record in the journal", st)
		}
		pgtest.Exec(t, cfg.PostgresDSN, broken.without)
		waitFor(t, func() bool { return s.Stats().Journaled == 0 })
	}
	if got := session(t, s, "a"); got.Requests != 2 {
		t.Errorf("requests = %d; want 2", got.Requests)
	}
}

// A session that one sidecar deletes while another stores requests of it: whichever comes first, no request may be left without
// its session. The other sidecar's half done transaction is played by a connection of the test.
func TestPostgres_SessionDeletedMeanwhile(t *testing.T) {
	setup := func(t *testing.T) (s *Store, other *pgx.Conn, exec func(string)) {
		cfg := called(t, postgresConfig(t), "meanwhile")
		s = open(t, cfg)
		record(t, s, testRecord("a"))
		other, err := pgx.Connect(t.Context(), cfg.PostgresDSN)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = other.Close(context.Background()) })
		return s, other, func(statement string) {
			t.Helper()
			if _, err := other.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
	}
	blocked := func(other *pgx.Conn) func() bool {
		return func() bool {
			var n int
			err := other.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
				WHERE application_name = 'meanwhile' AND wait_event_type = 'Lock'`).Scan(&n)
			return err == nil && n == 1
		}
	}
	check := func(t *testing.T, s *Store, want int) {
		t.Helper()
		var rows, dangling int
		err := sqlOf(t, s).read.NewRaw(`SELECT count(*), count(*) FILTER (WHERE s.id IS NULL)
			FROM requests AS r LEFT JOIN sessions AS s ON s.id = r.session_id`).Scan(t.Context(), &rows, &dangling)
		if err != nil || rows != want || dangling != 0 {
			t.Errorf("%d requests, %d of them without session, %v; want %d, 0", rows, dangling, err, want)
		}
	}
	t.Run("a request is stored before the deletion", func(t *testing.T) {
		s, other, exec := setup(t)
		exec("BEGIN")
		exec(fmt.Sprintf(`INSERT INTO requests SELECT '%s', session_id, client_id, route_id, model_id, answered_id, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 200, 1, 0, 1
			FROM requests LIMIT 1`, NewID()))
		exec("UPDATE sessions SET requests = requests + 1 WHERE key = 'a'")
		deleted := make(chan error, 1)
		go func() { deleted <- s.DeleteSession(context.Background(), &s.Reader, "a") }()
		waitFor(t, blocked(other))
		exec("COMMIT")
		if err := <-deleted; err != nil {
			t.Error(err)
		}
		check(t, s, 0)
	})
	t.Run("a request comes while the deletion is under way", func(t *testing.T) {
		s, other, exec := setup(t)
		exec("BEGIN")
		exec("SELECT FROM sessions WHERE key = 'a' FOR UPDATE")
		exec("DELETE FROM requests")
		stored := make(chan error, 1)
		go func() { stored <- s.Record(context.Background(), testRecord("a")) }()
		waitFor(t, blocked(other))
		exec("DELETE FROM sessions WHERE key = 'a'")
		exec("COMMIT")
		if err := <-stored; err != nil {
			t.Error(err)
		}
		check(t, s, 1)
		if got := session(t, s, "a"); got.Requests != 1 {
			t.Errorf("requests = %d; want those of the new session", got.Requests)
		}
		if st := s.Stats(); st.Spilled != 0 {
			t.Errorf("stats = %+v; want the batch repeated at once", st)
		}
	})
}

// four stores on one database, half of their traffic on one session.
func fourStores(t testing.TB, cfg Config) []*Store {
	var all []*Store
	for i := range 4 {
		own := cfg
		own.JournalPath = filepath.Join(t.TempDir(), fmt.Sprint(i))
		all = append(all, open(t, own))
	}
	return all
}

func hot(n int) Record {
	r := testRecord("hot")
	if n%2 == 0 {
		r.Session = fmt.Sprint("cold-", n%97)
	}
	r.Model, r.Client = llm.Model(fmt.Sprint("model-", n%7)), fmt.Sprint("client-", n%3)
	return r
}

func TestPostgres_FourSidecarsDoNotDeadlock(t *testing.T) {
	cfg := postgresConfig(t)
	deadlocks := func(s *Store) (n int64) {
		if err := sqlOf(t, s).read.NewRaw("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(t.Context(), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	all := fourStores(t, cfg)
	before := deadlocks(all[0])
	each := 4000
	if testing.Short() {
		each = 800
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	ids := map[ID]bool{}
	for i, s := range all {
		for worker := range 50 {
			wg.Go(func() {
				for n := range each / 50 {
					r := hot(n + 13*worker)
					record(t, s, r)
					if n%10 == 0 {
						record(t, all[(i+1)%4], r) // a repetition, by way of another sidecar
					}
					if i == 0 && n%20 == 7 {
						_ = s.DeleteSession(context.Background(), &s.Reader, "gone")
					}
					if n%20 < 2 {
						gone := testRecord("gone") // a session that ends while others use it
						record(t, s, gone)
					}
					mu.Lock()
					ids[r.ID] = true
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if err := all[0].DeleteSession(t.Context(), &all[0].Reader, "gone"); err != nil && !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	pgtest.Exec(t, cfg.PostgresDSN, "SELECT pg_stat_force_next_flush()")
	if n := deadlocks(all[0]) - before; n > 0 {
		t.Errorf("%d deadlocks", n)
	}
	var spilled int64
	for _, s := range all {
		spilled += s.Stats().Spilled
	}
	if spilled > 0 {
		t.Errorf("%d records went through the journal; want none", spilled)
	}
	b := sqlOf(t, all[0])
	var dangling int
	err := b.read.NewRaw(`SELECT count(*) FROM requests AS r WHERE session_id IS NOT NULL AND NOT EXISTS (SELECT FROM sessions AS s WHERE s.id = r.session_id)`).
		Scan(t.Context(), &dangling)
	if err != nil || dangling > 0 {
		t.Errorf("%d requests of sessions that are not there, %v", dangling, err)
	}
	n, err := b.read.NewSelect().Model((*requestRow)(nil)).Count(t.Context())
	if err != nil || n != int64(len(ids)) {
		t.Errorf("%d rows, %v; want %d", n, err, len(ids))
	}
	var requests, hourly int64
	err = errors.Join(b.read.NewRaw("SELECT sum(requests)::bigint FROM sessions").Scan(t.Context(), &requests),
		b.read.NewRaw("SELECT sum(requests)::bigint FROM usage_hourly").Scan(t.Context(), &hourly))
	var written int64
	for _, s := range all {
		written += s.Stats().Written
	}
	if err != nil || requests != int64(len(ids)) || hourly != written {
		t.Errorf("sessions add up to %d, hours to %d, %v; want %d and all %d that were written", requests, hourly, err, len(ids), written)
	}
}

func notesOf(t testing.TB, s *Store) (n int64) {
	t.Helper()
	n, err := sqlOf(t, s).write.NewSelect().Model((*noteRow)(nil)).Count(t.Context())
	if err != nil {
		return -1 // the connection may just have been cut
	}
	return n
}

func interrupted(t testing.TB, s *Store, key string) int64 {
	t.Helper()
	one, err := s.Session(t.Context(), key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	return one.UnknownUsage
}

func TestPostgres_Instances(t *testing.T) {
	quick := func(cfg Config, name string) Config {
		cfg = called(t, cfg, name)
		cfg.NoteAfter, cfg.DeadAfter, cfg.lastBackoff = time.Millisecond, 400*time.Millisecond, 50*time.Millisecond
		cfg.JournalPath = filepath.Join(t.TempDir(), name)
		return cfg
	}
	beats := func(s *Store) int64 {
		var n int64
		p := s.backend.(*postgres)
		if err := p.read.NewRaw("SELECT beat FROM instances WHERE id = ?", p.instance).Scan(t.Context(), &n); err != nil {
			return -1
		}
		return n
	}
	t.Run("one that lives keeps its requests, whatever happens to its connections", func(t *testing.T) {
		cfg := postgresConfig(t)
		a := open(t, quick(cfg, "living"))
		flying := testRecord("a")
		a.Start(flying)
		waitFor(t, func() bool { return notesOf(t, a) == 1 })
		b := open(t, quick(cfg, "watching"))
		for range 8 { // each outlives no connection, and all of them together several times DeadAfter
			terminate(t, "living")
			seen := beats(b)
			waitFor(t, func() bool { return beats(b) > seen })
			c := open(t, quick(cfg, "starting"))
			if n := interrupted(t, c, "a"); n != 0 {
				t.Fatalf("%d requests of a process that lives are booked as interrupted", n)
			}
			closeStore(t, c)
		}
		record(t, a, flying)
		waitFor(t, func() bool { return a.Stats().Journaled == 0 }) // the last cut may have sent it there
		if got := session(t, b, "a"); got.Requests != 1 || got.UnknownUsage != 0 {
			t.Errorf("session = %+v; want the one request", got)
		}
		if n := notesOf(t, a); n != 0 {
			t.Errorf("%d notes are left", n)
		}
	})
	t.Run("one that stands still lives as long as its connection", func(t *testing.T) {
		cfg := postgresConfig(t)
		a := open(t, quick(cfg, "still"))
		a.Start(testRecord("a"))
		waitFor(t, func() bool { return notesOf(t, a) == 1 })
		release, held := make(chan struct{}), make(chan struct{})
		a.queue.control(&control{do: func(context.Context) error { close(held); <-release; return nil }})
		<-held // its committer does nothing any more, as that of a stopped process
		defer close(release)
		b := open(t, quick(cfg, "watching"))
		still := beats(a)
		for range 3 { // of b's beats there are four to DeadAfter
			seen := beats(b)
			waitFor(t, func() bool { return beats(b) >= seen+5 })
		}
		if n := interrupted(t, b, "a"); n != 0 || beats(a) != still {
			t.Errorf("%d interrupted requests, beat %d after %d; want none, for the lock is held", n, beats(a), still)
		}
	})
	t.Run("one that ended is booked at once", func(t *testing.T) {
		cfg := postgresConfig(t)
		a := open(t, quick(cfg, "ending"))
		a.Start(testRecord("a"))
		waitFor(t, func() bool { return notesOf(t, a) == 1 })
		neighbour := open(t, quick(cfg, "living"))
		living := testRecord("living")
		neighbour.Start(living)
		waitFor(t, func() bool { return notesOf(t, a) == 2 })
		defer record(t, neighbour, living)
		closeStore(t, a)
		slow := quick(cfg, "next")
		slow.DeadAfter = time.Hour
		b := open(t, slow)
		waitFor(t, func() bool { return interrupted(t, b, "a") == 1 }) // the neighbour may be about it
		if n := interrupted(t, b, "living"); n != 0 {
			t.Errorf("%d interrupted requests of the neighbour; want 0", n)
		}
		waitFor(t, func() bool { // the two that live
			n, err := sqlOf(t, b).read.NewSelect().TableExpr("instances").Count(t.Context())
			return err == nil && n == 2
		})
	})
	t.Run("one that was only cut off has the last word", func(t *testing.T) {
		cfg := postgresConfig(t)
		proxy, err := provider.NewFaultProxy(pgtest.Address(t, cfg.PostgresDSN))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = proxy.Close() })
		cut := quick(cfg, "cutoff")
		cut.PostgresDSN = pgtest.At(t, cut.PostgresDSN, proxy.Addr())
		a := open(t, cut)
		flying, later := testRecord("a"), testRecord("a")
		a.Start(flying)
		waitFor(t, func() bool { return notesOf(t, a) == 1 })
		if err := proxy.Down(); err != nil {
			t.Fatal(err)
		}
		terminate(t, "cutoff")
		b := open(t, quick(cfg, "watching"))
		waitFor(t, func() bool { return interrupted(t, b, "a") == 1 }) // nobody can tell it from a dead one
		record(t, a, flying, later)
		if st := a.Stats(); st.Journaled != 2 {
			t.Errorf("stats = %+v; want both in the journal", st)
		}
		if err := proxy.Up(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return a.Stats().Journaled == 0 })
		if got := session(t, b, "a"); got.Requests != 2 || got.UnknownUsage != 0 || got.Input != 20 {
			t.Errorf("session = %+v; want two requests and their tokens", got)
		}
		checkPostgres(t, b, map[ID]bool{flying.ID: true, later.ID: true})
		another := testRecord("a")
		a.Start(another)
		waitFor(t, func() bool { return notesOf(t, a) == 1 })
		waitFor(t, func() bool { return beats(a) > 2 }) // it is an instance again
		record(t, a, another)
	})
	t.Run("notes older than what retention keeps are only removed", func(t *testing.T) {
		cfg := postgresConfig(t)
		a := open(t, quick(cfg, "old"))
		old := testRecord("a")
		old.ID = idFloor(time.Now().Add(-time.Hour))
		a.Start(old)
		waitFor(t, func() bool { return notesOf(t, a) == 1 })
		closeStore(t, a)
		floor := idFloor(time.Now().Add(-time.Minute))
		pgtest.Exec(t, cfg.PostgresDSN, fmt.Sprintf(`INSERT INTO state VALUES ('%s', '\x%x')`, prunedState, floor[:]))
		b := open(t, quick(cfg, "next"))
		if n := notesOf(t, b); n != 0 {
			t.Errorf("%d notes are left", n)
		}
		if n := interrupted(t, b, "a"); n != 0 {
			t.Errorf("%d interrupted requests; want 0", n)
		}
	})
}

// TestPostgres_Readable: a view that is gone takes no record's place, and is said.
func TestPostgres_Readable(t *testing.T) {
	cfg := postgresConfig(t)
	s := open(t, cfg)
	defer closeStore(t, s)
	record(t, s, testRecord("a"))
	if err := s.Readable(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, cfg.PostgresDSN, "DROP VIEW request_log")
	if err := s.Readable(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("readable: %v", err)
	}
	record(t, s, testRecord("a"))
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("ready: %v", err)
	}
}
