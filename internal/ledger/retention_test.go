package ledger

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestStore_RetentionRunsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty()
		s := startFaulty(t, f, Config{KeepRequests: 48 * time.Hour, KeepHourly: 24 * time.Hour})
		first := testRecord("a")
		first.ID = idFloor(time.Now()) // of the bubble's time: NewID never goes back, and the bubble's is the year 2000
		first.ID[15] = 1
		record(t, s, first)
		left := func() (rows, hours, days int) {
			page, err := s.Requests(t.Context(), "a", RecordQuery{})
			byHour, err2 := s.Usage(t.Context(), UsageQuery{By: []string{"hour"}})
			byDay, err3 := s.Usage(t.Context(), UsageQuery{By: []string{"day"}})
			if err := errors.Join(err, err2, err3); err != nil {
				t.Fatal(err)
			}
			return len(page.Records), len(byHour), len(byDay)
		}
		for _, c := range []struct {
			after             time.Duration
			rows, hours, days int
		}{{0, 1, 1, 1}, {23 * time.Hour, 1, 1, 1}, {3 * time.Hour, 1, 0, 1}, {21 * time.Hour, 1, 0, 1}, {3 * time.Hour, 0, 0, 1}} {
			<-time.After(c.after)
			synctest.Wait()
			if rows, hours, days := left(); rows != c.rows || hours != c.hours || days != c.days {
				t.Errorf("%v later: %d rows, %d hours, %d days; want %d, %d, %d", c.after, rows, hours, days, c.rows, c.hours, c.days)
			}
		}
		if err := s.Record(t.Context(), first); !errors.Is(err, ErrInvalid) {
			t.Errorf("a repetition after retention: %v; want ErrInvalid", err)
		}
		if got := session(t, s, "a"); got.Requests != 1 {
			t.Errorf("requests = %d; want that totals stay, and count once", got.Requests)
		}
		closeStore(t, s)
	})
}

// A store that is never idle must shrink all the same.
func TestStore_RetentionUnderConstantLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty()
		s := startFaulty(t, f, Config{KeepRequests: time.Hour})
		next := func(n int) *pending {
			r := testRecord("a")
			r.ID = idFloor(time.Now())
			r.ID[14], r.ID[15] = byte(n>>8), byte(n)
			return &pending{record: r}
		}
		n := 0
		over := time.Now().Add(4 * time.Hour)
		busy := func(batch) error { // while one batch is written, the next one arrives
			<-time.After(10 * time.Second) // few enough that the memory ledger forgets none by itself
			if n++; time.Now().Before(over) {
				return s.queue.put(context.Background(), next(n))
			}
			return nil
		}
		f.fail.Store(&busy)
		if err := s.queue.put(t.Context(), next(0)); err != nil {
			t.Fatal(err)
		}
		<-time.After(4*time.Hour - time.Minute)
		f.mu.RLock()
		oldest := time.Now()
		for id := range f.records {
			if id.Time().Before(oldest) {
				oldest = id.Time()
			}
		}
		f.mu.RUnlock()
		if age := time.Since(oldest); age > 2*time.Hour+10*time.Minute {
			t.Errorf("the oldest record is %v old; want no more than an hour and the next run", age)
		}
		closeStore(t, s)
	})
}

// Hourly totals go a day at a time, so that a first run on an old store holds nobody up.
func TestSQLite_RetentionOfHoursInSlices(t *testing.T) {
	s, b := openFile(t)
	for day := range 20 {
		r := testRecord("a")
		r.StartedAt = time.Now().Add(-time.Duration(day) * 24 * time.Hour)
		record(t, s, r)
	}
	slices := 0
	err := s.inTurn(t.Context(), func(ctx context.Context) (bool, error) {
		slices++
		return b.prune(ctx, horizon{hours: time.Now()})
	})
	if err != nil || slices < 20 {
		t.Errorf("%d slices, %v; want 20 and more", slices, err)
	}
	if rows, err := s.Usage(t.Context(), UsageQuery{By: []string{"hour"}}); err != nil || len(rows) > 1 {
		t.Errorf("%d hours are left, %v; want the present one at most", len(rows), err)
	}
}

func TestSteady(t *testing.T) {
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		since time.Duration
		wall  time.Time
		want  time.Time
	}{
		"the clock keeps up":    {time.Hour, at.Add(time.Hour), at.Add(time.Hour)},
		"it jumps a year ahead": {time.Hour, at.AddDate(1, 0, 0), at.Add(time.Hour)},
		"it goes back":          {2 * time.Hour, at.Add(time.Hour), at.Add(time.Hour)},
	} {
		if got := steady(at, c.since, c.wall); !got.Equal(c.want) {
			t.Errorf("%s: %v; want %v", name, got, c.want)
		}
	}
}

// What a wrong clock pruned must not make all that follows too old, once the clock is right again.
func TestStore_RetentionByAClockThatWasWrong(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		record(t, s, testRecord("a"))
		wrong := time.Now().AddDate(1, 0, 0)
		if err := s.inTurn(t.Context(), func(ctx context.Context) (bool, error) {
			return s.backend.prune(ctx, horizon{records: wrong, hours: wrong})
		}); err != nil {
			t.Fatal(err)
		}
		record(t, s, testRecord("a"))
		if got := session(t, s, "a"); got.Requests != 2 {
			t.Errorf("requests = %d; want 2", got.Requests)
		}
	})
}

// The wall clock may go back while the program runs: ids go on, every record is counted once, in
// the hour that the clock said.
func TestStore_ClockGoesBack(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		noon := time.Date(2026, 10, 25, 12, 30, 0, 0, time.UTC)
		var ids []ID
		for i := range 20 {
			r := testRecord("a")
			r.ID, r.StartedAt = idFloor(noon.Add(time.Duration(i)*time.Millisecond)), noon.Add(time.Duration(i)*time.Second)
			r.ID[15] = byte(i + 1)
			if i >= 10 {
				r.StartedAt = r.StartedAt.Add(-time.Hour) // the id is that of uuid.NewV7: never behind the one before
			}
			record(t, s, r, r)
			ids = append(ids, r.ID)
		}
		rows, err := s.Usage(t.Context(), UsageQuery{By: []string{"hour"}})
		if err != nil || len(rows) != 2 || rows[0].Requests != 10 || rows[1].Requests != 10 {
			t.Errorf("usage = %+v, %v; want ten requests in each hour", rows, err)
		}
		got := session(t, s, "a")
		if got.Requests != 20 || got.FirstAt.After(noon.Add(-50*time.Minute)) || got.LastAt.Before(noon) {
			t.Errorf("session = %+v; want 20 requests from before noon's half to after it", got)
		}
		var seen []ID
		for q := (RecordQuery{Limit: 7}); ; {
			page, err := s.Requests(t.Context(), "a", q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page.Records {
				seen = append(seen, r.ID)
			}
			if q.Cursor = page.NextCursor; q.Cursor == "" {
				break
			}
		}
		if len(seen) != 20 || seen[0] != ids[19] || seen[19] != ids[0] {
			t.Errorf("pages hold %d records; want all 20, the latest first", len(seen))
		}
	})
}

func TestNewID_NeverGoesBack(t *testing.T) {
	last := NewID()
	for range 100_000 {
		id := NewID()
		if compareIDs(id, last) <= 0 {
			t.Fatalf("%s follows %s", id, last)
		}
		last = id
	}
}

// What retention frees is given back to the file system, but for what the next hours need.
func TestSQLite_RetentionShrinksTheFile(t *testing.T) {
	s, b := openFile(t)
	old := time.Now().Add(-100 * time.Hour)
	n := byte(0)
	for range 40 {
		var in batch
		for range maxBatch {
			n++
			r := testRecord("a")
			old = old.Add(time.Millisecond)
			r.ID, r.StartedAt = idFloor(old), old
			r.ID[15] = n
			_ = r.prepare()
			in.records = append(in.records, r)
		}
		if _, err := b.apply(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	size := func() int64 {
		if _, err := b.write.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(s.cfg.SQLiteDSN)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	slices := 0
	err := s.inTurn(t.Context(), func(ctx context.Context) (bool, error) {
		slices++
		return b.prune(ctx, horizon{records: time.Now().Add(-time.Hour), hours: time.Now()})
	})
	if err != nil {
		t.Fatal(err)
	}
	after := size()
	t.Logf("%d slices; %d KiB before, %d KiB after", slices, before>>10, after>>10)
	if slices < 22 || slices > 40 || after > before-(before/2) {
		t.Errorf("%d slices left %d of %d bytes; want more than half given back", slices, after, before)
	}
	checkSumsButPruned(t, b)
}

// checkSumsButPruned is checkSums where records are gone: the totals that stay agree with one another.
func checkSumsButPruned(t *testing.T, b *sqlBackend) {
	t.Helper()
	var sessions, days int64
	err := errors.Join(
		b.write.NewRaw("SELECT sum(requests) FROM sessions").Scan(t.Context(), &sessions),
		b.write.NewRaw("SELECT sum(requests) FROM usage_daily").Scan(t.Context(), &days))
	if err != nil || sessions != days || sessions == 0 {
		t.Errorf("sessions add up to %d, days to %d, %v", sessions, days, err)
	}
}
