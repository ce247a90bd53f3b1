package ledger

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// The crash tests run this test binary again as a child that records as fast as it can and
// tells the id of each record once Record has returned. The parent kills it with SIGKILL at a random
// moment, and looks for all that was told.

const (
	crashDirEnv        = "LEDGER_TEST_CRASH_DIR"
	crashDurabilityEnv = "LEDGER_TEST_CRASH_DURABILITY"
	crashWorkers       = 20
)

// crashChild records until it is killed. One record in twenty is offered twice.
func crashChild(dir string) int {
	s, err := Open(context.Background(), Config{
		Type: "sqlite", SQLiteDSN: filepath.Join(dir, "crash.db"),
		Durability: os.Getenv(crashDurabilityEnv), NoteAfter: 2 * time.Millisecond,
	})
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
func crashOnce(t *testing.T, dir, durability string, after time.Duration) (told []ID) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, crashDurabilityEnv+"="+durability)
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
		id, err := ParseID(lines.Text())
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
	var verdict string
	if err := b.write.NewRaw("PRAGMA integrity_check").Scan(t.Context(), &verdict); err != nil || verdict != "ok" {
		t.Fatalf("integrity check: %q, %v", verdict, err)
	}
	const columns = "coalesce(sum(prompt_tokens),0) || '/' || coalesce(sum(completion_tokens),0)"
	sums := map[string]string{}
	for name, query := range map[string]string{
		"requests": "SELECT sum(metered AND status BETWEEN 200 AND 299) || '/' || " +
			"sum(metered AND prompt_tokens IS NULL AND (status = 0 OR status BETWEEN 200 AND 299)) || '/' || " + columns + " FROM requests",
		"sessions": "SELECT sum(requests) || '/' || sum(unknown) || '/' || " + columns + " FROM sessions",
		"hourly":   "SELECT sum(requests) || '/' || sum(unknown) || '/' || " + columns + " FROM usage_hourly",
		"daily":    "SELECT sum(requests) || '/' || sum(unknown) || '/' || " + columns + " FROM usage_daily",
	} {
		var sum string
		if err := b.write.NewRaw(query).Scan(t.Context(), &sum); err != nil {
			t.Fatal(err)
		}
		sums[name] = sum
	}
	if drawn, err := b.write.NewSelect().Table("budget_usage").Exists(t.Context()); err != nil || drawn {
		var sum string
		if err := b.write.NewRaw("SELECT sum(requests) || '/' || sum(unknown) || '/' || "+columns+" FROM budget_usage").Scan(t.Context(), &sum); err != nil {
			t.Fatal(err)
		}
		sums["budgets"] = sum
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
	for _, durability := range []string{DurabilityFull, DurabilityNormal} {
		t.Run(durability, func(t *testing.T) {
			dir := t.TempDir()
			var told []ID
			for range rounds {
				told = append(told, crashOnce(t, dir, durability, rand.N(40*time.Millisecond))...)
			}
			s := open(t, Config{Type: "sqlite", SQLiteDSN: filepath.Join(dir, "crash.db")})
			b := s.backend.(*sqlBackend)
			if n := lost(t, b, told); n > 0 {
				t.Errorf("%d of %d acknowledged records are lost", n, len(told))
			}
			checkSums(t, b)
			if left, err := b.inflight(t.Context(), 0); err != nil || len(left) > 0 {
				t.Errorf("%d notes are left, %v; want each booked as interrupted or recorded", len(left), err)
			}
			if left, err := b.write.NewSelect().Table("inflight_draws").Count(t.Context()); err != nil || left > 0 {
				t.Errorf("%d draws of notes are left, %v", left, err)
			}
			cut, err := b.write.NewSelect().Model((*requestRow)(nil)).Where("outcome = ?", Interrupted).Count(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d kills: %d records acknowledged, 0 lost, %d requests seen as interrupted", rounds, len(told), cut)
		})
	}
}

// Without waiting the promise cannot hold; and a test that cannot see that proves nothing.
func TestStore_KillLosesWithAsync(t *testing.T) {
	dir := t.TempDir()
	var told []ID
	for range 30 {
		told = append(told, crashOnce(t, dir, DurabilityAsync, rand.N(40*time.Millisecond))...)
		s := open(t, Config{Type: "sqlite", SQLiteDSN: filepath.Join(dir, "crash.db")})
		n := lost(t, s.backend.(*sqlBackend), told)
		checkSums(t, s.backend.(*sqlBackend))
		closeStore(t, s)
		if n > 0 {
			t.Logf("%d of %d records reported as accepted are lost", n, len(told))
			return
		}
	}
	t.Error("no record was ever lost: this test cannot see a loss")
}
