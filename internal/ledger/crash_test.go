package ledger

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uptrace/bun/dialect"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger/pgtest"
)

// The crash tests run this test binary again as a child that records as fast as it can and
// tells the id of each record once Record has returned. The parent kills it with SIGKILL at a random
// moment, and looks for all that was told.

const (
	crashDirEnv        = "LEDGER_TEST_CRASH_DIR"
	crashDSNEnv        = "LEDGER_TEST_CRASH_DSN" // of Postgres
	crashDurabilityEnv = "LEDGER_TEST_CRASH_DURABILITY"
	crashWorkers       = 20
)

// crashConfig is the ledger of a crash test: a file in dir, or a database and its journal there.
func crashConfig(dir, dsn string) Config {
	if dsn == "" {
		return Config{Type: "sqlite", SQLiteDSN: filepath.Join(dir, "crash.db")}
	}
	return Config{Type: "postgres", PostgresDSN: dsn, JournalPath: filepath.Join(dir, "crash.spill"), DeadAfter: 400 * time.Millisecond}
}

// crashKinds are the ledgers that outlive a process.
func crashKinds(t *testing.T, test func(t *testing.T, dsn string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, "") })
	t.Run("postgres", func(t *testing.T) { test(t, pgtest.DSN(t)) })
}

// crashChild records until it is killed. One record in twenty is offered twice.
func crashChild(dir string) int {
	cfg := crashConfig(dir, os.Getenv(crashDSNEnv))
	cfg.Durability, cfg.NoteAfter = os.Getenv(crashDurabilityEnv), 2*time.Millisecond
	s, err := Open(context.Background(), cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for worker := range crashWorkers {
		wg.Go(func() {
			for n := 0; ; n++ {
				r := testRecord(fmt.Sprintf("s%d", (worker+n)%7))
				r.Draws = []Draw{{"crash", r.StartedAt.Truncate(24 * time.Hour)}}
				s.Start(r)
				if n%3 == 0 {
					<-time.After(5 * time.Millisecond) // long enough to be noted, and killed in flight
				}
				err := s.Record(context.Background(), r)
				if err == nil && n%20 == 0 {
					err = s.Record(context.Background(), r)
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				mu.Lock()
				fmt.Println(r.ID) // one write: never torn by the kill, for pipes write so little at once
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return 1
}

// crashOnce runs a child, kills it some time after its first record, and returns what it told.
func crashOnce(t *testing.T, dir, dsn, durability string, after time.Duration) (told []ID) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, crashDSNEnv+"="+dsn, crashDurabilityEnv+"="+durability)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var killer *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		id, err := parseID(lines.Text())
		if err != nil {
			continue // the last line may be cut
		}
		if killer == nil {
			killer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		told = append(told, id)
	}
	_ = cmd.Wait() // killed: that it "failed" is the plan
	if killer == nil {
		t.Fatal("the child died before its first record")
	}
	return told
}

// checkSums demands that session totals and both rollups equal the sums of the records.
func checkSums(t *testing.T, b *sqlBackend) {
	t.Helper()
	if b.write.Dialect().Name() == dialect.SQLite {
		var verdict string
		if err := b.write.NewRaw("PRAGMA integrity_check").Scan(t.Context(), &verdict); err != nil || verdict != "ok" {
			t.Fatalf("integrity check: %q, %v", verdict, err)
		}
	}
	sums := map[string]string{}
	var queries []string // one statement sees one moment, whoever still writes
	drawn, err := b.write.NewSelect().Table("budget_usage").Exists(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, query := range map[string]string{
		"requests": "sum(CASE WHEN metered = 1 AND status BETWEEN 200 AND 299 THEN 1 ELSE 0 END) || '/' || " +
			"sum(CASE WHEN metered = 1 AND prompt_tokens IS NULL AND (status = 0 OR status BETWEEN 200 AND 299) THEN 1 ELSE 0 END)",
		"sessions": "sum(requests) || '/' || sum(unknown)", "usage_hourly": "sum(requests) || '/' || sum(unknown)",
		"usage_daily": "sum(requests) || '/' || sum(unknown)", "budget_usage": "sum(requests) || '/' || sum(unknown)",
	} {
		if name == "budget_usage" && !drawn {
			continue // this test has no budgets
		}
		queries = append(queries, "SELECT '"+name+"' AS name, "+query+
			" || '/' || coalesce(sum(prompt_tokens), 0) || '/' || coalesce(sum(completion_tokens), 0) AS sum FROM "+name)
	}
	var rows []struct{ Name, Sum string }
	if err := b.write.NewRaw(strings.Join(queries, " UNION ALL ")).Scan(t.Context(), &rows); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		sums[row.Name] = row.Sum
	}
	for name, sum := range sums {
		if sum != sums["requests"] {
			t.Errorf("%s add up to %s, requests to %s", name, sum, sums["requests"])
		}
	}
}

// lost returns how many of ids have no row with exact usage.
func lost(t *testing.T, b *sqlBackend, ids []ID) int {
	t.Helper()
	var rows []requestRow
	err := b.write.NewSelect().Model(&rows).Column("id").Where("prompt_tokens IS NOT NULL").Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stored := make(map[ID]bool, len(rows))
	for _, r := range rows {
		stored[r.ID] = true
	}
	n := 0
	for _, id := range ids {
		if !stored[id] {
			n++
		}
	}
	return n
}

func TestStore_KillLosesNothing(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 4
	}
	crashKinds(t, func(t *testing.T, dsn string) {
		var told []ID
		dir := t.TempDir()
		for _, durability := range []string{DurabilityFull, DurabilityNormal} {
			for range rounds {
				told = append(told, crashOnce(t, dir, dsn, durability, rand.N(40*time.Millisecond))...)
			}
		}
		s := open(t, crashConfig(dir, dsn))
		b := sqlOf(t, s)
		// A database that others may use learns only by waiting that the last child is dead.
		waitFor(t, func() bool { return notesOf(t, s) == 0 })
		if n := lost(t, b, told); n > 0 {
			t.Errorf("%d of %d acknowledged records are lost", n, len(told))
		}
		checkSums(t, b)
		if left, err := b.write.NewSelect().Table("inflight_draws").Count(t.Context()); err != nil || left > 0 {
			t.Errorf("%d draws of notes are left, %v", left, err)
		}
		cut, err := b.write.NewSelect().Model((*requestRow)(nil)).Where("outcome = ?", Interrupted).Count(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d kills: %d records acknowledged, 0 lost, %d requests seen as interrupted", 2*rounds, len(told), cut)
	})
}

// Without waiting the promise cannot hold; and a test that cannot see that proves nothing.
func TestStore_KillLosesWithAsync(t *testing.T) {
	crashKinds(t, func(t *testing.T, dsn string) {
		dir := t.TempDir()
		var told []ID
		for range 30 {
			told = append(told, crashOnce(t, dir, dsn, DurabilityAsync, rand.N(40*time.Millisecond))...)
			s := open(t, crashConfig(dir, dsn))
			n := lost(t, sqlOf(t, s), told)
			checkSums(t, sqlOf(t, s))
			closeStore(t, s)
			if n > 0 {
				t.Logf("%d of %d records reported as accepted are lost", n, len(told))
				return
			}
		}
		t.Error("no record was ever lost: this test cannot see a loss")
	})
}
