package ledger

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

var budgetDay = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)

func drawing(session string, draws ...Draw) Record {
	r := testRecord(session)
	r.Draws = draws
	return r
}

func budgetUse(t testing.TB, s *Store, scope string, since time.Time) []BudgetUse {
	t.Helper()
	got, err := s.BudgetUse(context.Background(), scope, since)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestStore_KeepsBudgets(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		team, child := Draw{"team", budgetDay}, Draw{"child", budgetDay.Add(time.Hour)}
		next := Draw{"team", budgetDay.Add(24 * time.Hour)}
		unknown := drawing("b", team)
		unknown.UsageKnown = false
		refused := drawing("b", team)
		refused.UsageKnown, refused.Status, refused.Outcome = false, 400, UpstreamError
		small := drawing("a", team)
		small.Model = "small"
		both := drawing("a", team, child)
		record(t, s, drawing("a", team), both, both, unknown, refused, small, drawing("a", next), testRecord("a"))

		use := func(day Draw, model llm.Model, n int64) BudgetUse {
			return BudgetUse{Start: day.Start, Model: model, Sums: Sums{Requests: n, Usage: llm.Usage{Input: 10 * n, Output: 5 * n, Cached: 4 * n, Reasoning: 2 * n, CacheWrite: 3 * n}}}
		}
		first := use(team, "gpt-4o", 2)
		first.Requests, first.UnknownUsage, first.Estimated = 3, 1, llm.Usage{Input: 12, Output: 9}
		want := []BudgetUse{first, use(team, "small", 1), use(next, "gpt-4o", 1)}
		if diff := cmp.Diff(want, budgetUse(t, s, "team", budgetDay)); diff != "" {
			t.Errorf("team (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want[2:], budgetUse(t, s, "team", budgetDay.Add(time.Hour))); diff != "" {
			t.Errorf("team, from the second day (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]BudgetUse{use(child, "gpt-4o", 1)}, budgetUse(t, s, "child", time.Time{})); diff != "" {
			t.Errorf("child (-want +got):\n%s", diff)
		}
		if got := budgetUse(t, s, "nobody", time.Time{}); len(got) > 0 {
			t.Errorf("nobody has drawn %+v", got)
		}

		sum := refused.Drawn()
		for _, r := range []Record{unknown, both} {
			u := r.Drawn()
			sum.Requests += u.Requests
			sum.Input += u.Input
			sum.Estimated.Add(u.Estimated, 1)
		}
		if sum.Requests != 2 || sum.Input != 10 || sum.Estimated != (llm.Usage{Input: 12, Output: 9}) {
			t.Errorf("drawn %+v", sum)
		}

		t.Run("a deleted session leaves them", func(t *testing.T) {
			if err := s.DeleteSession(t.Context(), &s.Reader, "a"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, budgetUse(t, s, "team", budgetDay)); diff != "" {
				t.Errorf("team (-want +got):\n%s", diff)
			}
		})
		if cfg.Type != "memory" { // memory forgets
			t.Run("a restart leaves them", func(t *testing.T) {
				closeStore(t, s)
				s := open(t, cfg)
				record(t, s, unknown) // offered again: counted once
				if diff := cmp.Diff(want, budgetUse(t, s, "team", budgetDay)); diff != "" {
					t.Errorf("team (-want +got):\n%s", diff)
				}
			})
		}
	})
}

// A request that was taken for dead, and is not, draws once: exactly.
func TestStore_BudgetOfALateRecord(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		late := drawing("a", Draw{"team", budgetDay})
		cut := late
		cut.Outcome, cut.UsageKnown, cut.Status = Interrupted, false, 0
		record(t, s, cut)
		if got := budgetUse(t, s, "team", budgetDay); len(got) != 1 || got[0].UnknownUsage != 1 || got[0].Estimated.Input != 12 {
			t.Errorf("drawn %+v; want an estimate", got)
		}
		record(t, s, late)
		want := []BudgetUse{{Start: budgetDay, Model: "gpt-4o", Sums: Sums{Requests: 1, Usage: llm.Usage{Input: 10, Output: 5, Cached: 4, Reasoning: 2, CacheWrite: 3}}}}
		if diff := cmp.Diff(want, budgetUse(t, s, "team", budgetDay)); diff != "" {
			t.Errorf("drawn (-want +got):\n%s", diff)
		}
	})
}

// A hundred goroutines offer the same ids, and the budget counts each once.
func TestStore_BudgetCountsAnIDOnce(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		one, two := drawing("a", Draw{"team", budgetDay}), drawing("a", Draw{"team", budgetDay})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { record(t, s, one) })
			wg.Go(func() { record(t, s, two) })
		}
		wg.Wait()
		if got := budgetUse(t, s, "team", budgetDay); len(got) != 1 || got[0].Requests != 2 || got[0].Input != 20 {
			t.Errorf("drawn %+v; want two requests", got)
		}
	})
}

func TestStore_RecordRefusesBrokenBudgets(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		for name, draws := range map[string][]Draw{
			"none": {{"", budgetDay}}, "nul": {{"a\x00", budgetDay}}, "broken": {{"\xff", budgetDay}},
			"long": {{strings.Repeat("a", 257), budgetDay}}, "no start": {{"a", time.Time{}}}, "too many": make([]Draw, 9),
		} {
			if err := s.Record(t.Context(), drawing("a", draws...)); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: err = %v; want ErrInvalid", name, err)
			}
		}
		record(t, s, drawing("a", Draw{"it's ?0 \x1f", budgetDay}))
		if got := budgetUse(t, s, "it's ?0 \x1f", budgetDay); len(got) != 1 {
			t.Errorf("drawn %+v", got)
		}
	})
}

// A query cut at a day gives the same sums, apart.
func TestStore_UsageIsCutAtDays(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		for _, hours := range []int{-30, -1, 0, 5, 23, 24, 25, 60} {
			r := testRecord("a")
			r.StartedAt = budgetDay.Add(time.Duration(hours) * time.Hour)
			record(t, s, r)
		}
		cut := []time.Time{budgetDay.Add(24 * time.Hour), budgetDay, budgetDay.AddDate(0, 0, 9)}
		for _, by := range [][]string{nil, {"hour"}, {"day"}, {"model", "client"}} {
			parts := map[time.Time]int64{}
			rows, err := s.Usage(t.Context(), UsageQuery{From: budgetDay.Add(-40 * time.Hour), To: budgetDay.Add(61 * time.Hour), By: by, Cuts: cut})
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range rows {
				parts[row.Part] += row.Requests
			}
			if diff := cmp.Diff(map[time.Time]int64{{}: 2, budgetDay: 3, cut[0]: 3}, parts); diff != "" {
				t.Errorf("by %v (-want +got):\n%s", by, diff)
			}
		}
		// Beginning behind a cut.
		rows, err := s.Usage(t.Context(), UsageQuery{From: budgetDay.Add(2 * time.Hour), To: budgetDay.Add(6 * time.Hour), Cuts: cut})
		if err != nil || len(rows) != 1 || !rows[0].Part.Equal(budgetDay) {
			t.Errorf("rows %+v, %v", rows, err)
		}
		if _, err := s.Usage(t.Context(), UsageQuery{By: []string{"hour"}, MaxRows: 3}); !errors.Is(err, ErrInvalid) {
			t.Errorf("err = %v; want ErrInvalid for too many rows", err)
		}
	})
}

// What rollups say of all sessions, the records say of each.
func TestStore_UsageOfASession(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		at := func(session string, hours int, change func(*Record)) {
			r := testRecord(session)
			r.StartedAt = budgetDay.Add(time.Duration(hours)*time.Hour + time.Minute)
			id := idFloor(r.StartedAt)
			copy(r.ID[:6], id[:6])
			change(&r)
			record(t, s, r)
		}
		// A clock was set between a record's start and its id, in either direction.
		astray := func(start time.Time, by time.Duration) {
			r := testRecord("a")
			r.StartedAt = start
			id := idFloor(start.Add(by))
			copy(r.ID[:6], id[:6])
			record(t, s, r)
		}
		astray(budgetDay.Add(-2*time.Hour), -50*time.Second)
		astray(budgetDay.Add(3*time.Hour), -50*time.Second)
		astray(budgetDay.Add(25*time.Hour-time.Second), 50*time.Second)
		for _, hours := range []int{-30, -1, 0, 5, 23, 24, 60} {
			at("a", hours, func(*Record) {})
			at("a", hours, func(r *Record) { r.Model, r.Client = "small", "bob" })
			at("a", hours, func(r *Record) { r.Model, r.AnsweredModel = "", "small"; r.UsageKnown = false })
			at("a", hours, func(r *Record) { r.UsageKnown, r.Metered = false, false })
			at("a", hours, func(r *Record) { r.UsageKnown, r.Status, r.Outcome = false, 400, UpstreamError })
		}
		cuts := []time.Time{budgetDay, budgetDay.AddDate(0, 0, 1)}
		for _, by := range [][]string{nil, {"hour"}, {"day", "model"}, {"model", "client"}, {"client"}} {
			for _, from := range []time.Time{{}, budgetDay.Add(-2 * time.Hour), budgetDay.Add(3 * time.Hour)} {
				q := UsageQuery{From: from, To: budgetDay.Add(25 * time.Hour), By: by, Cuts: cuts}
				all, err := s.Usage(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				q.Session = "a"
				one, err := s.Usage(t.Context(), q)
				if err != nil || len(all) == 0 {
					t.Fatal(err, len(all))
				}
				if diff := cmp.Diff(all, one); diff != "" {
					t.Errorf("by %v from %v (-rollups +records):\n%s", by, from, diff)
				}
			}
		}
		at("b", 5, func(*Record) {})
		rows, err := s.Usage(t.Context(), UsageQuery{Session: "b"})
		if err != nil || len(rows) != 1 || rows[0].Requests != 1 {
			t.Errorf("session b: %+v, %v", rows, err)
		}
		if _, err := s.Usage(t.Context(), UsageQuery{Session: "nobody"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("err = %v; want ErrNotFound", err)
		}
	})
}

func TestOpenReader_ReadsBesideAWriter(t *testing.T) {
	databases(t, func(t *testing.T, cfg Config) {
		readBeside(t, cfg)
	})
}

func readBeside(t *testing.T, cfg Config) {
	s := open(t, cfg)
	r, err := OpenReader(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	record(t, s, drawing("a", Draw{"team", budgetDay}))
	if got, err := r.Session(t.Context(), "a"); err != nil || got.Requests != 1 {
		t.Errorf("session %+v, %v", got, err)
	}
	if got, err := r.BudgetUse(t.Context(), "team", budgetDay); err != nil || len(got) != 1 {
		t.Errorf("budget %+v, %v", got, err)
	}
	t.Run("after it", func(t *testing.T) {
		closeStore(t, s)
		r, err := OpenReader(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close(context.Background())
		if got, err := r.Session(t.Context(), "a"); err != nil || got.Requests != 1 {
			t.Errorf("session %+v, %v", got, err)
		}
	})
	t.Run("what is none is refused, and not made", func(t *testing.T) {
		for _, cfg := range []Config{
			{Type: "sqlite", SQLiteDSN: t.TempDir() + "/no.db"},
			{Type: "memory"},
			{},
			{Type: "postgres", PostgresDSN: "postgres://nobody:secret@127.0.0.1:1/x"},
			{Type: "postgres"},
		} {
			r, err := OpenReader(t.Context(), cfg)
			if _, made := os.Stat(cfg.SQLiteDSN); made == nil {
				t.Errorf("%s was made", cfg.SQLiteDSN)
			}
			if err == nil {
				t.Errorf("%+v was opened", cfg)
				r.Close(context.Background())
			} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") {
				t.Errorf("err = %v", err)
			}
		}
	})
}
