package ledger

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

var (
	bigRecords = flag.Int("records", 200_000, "records of the benchmarks' large store")
	bigStore   = flag.String("store", "", "file that keeps the large store from run to run; it is made where there is none")
)

// One large store serves all benchmarks of a run: to make it takes longer than they do.
const (
	bigDays    = 30
	bigPerKey  = 100 // records of a session
	bigModels  = 5
	bigClients = 10
)

// fillBig fills an empty file with n records of bigDays days and n/bigPerKey sessions, through the schema but
// past the committer. Sessions are scattered over all of the time, which is the worst case for their pages.
func fillBig(b *testing.B, s *Store, n int) {
	b.Helper()
	db := s.backend.(*sqlBackend).write.DB // with bind parameters, which bun has not
	exec := func(query string, args ...any) {
		if _, err := db.ExecContext(b.Context(), query, args...); err != nil {
			b.Fatal(err)
		}
	}
	sessions := max(n/bigPerKey, 1)
	begin := hourly.floor(time.Now().Add(-bigDays * 24 * time.Hour).UnixMilli())
	exec("PRAGMA synchronous=OFF")
	exec("DROP INDEX requests_session")
	for i := range bigModels {
		exec("INSERT INTO names (id, name) VALUES (?, ?)", 1+i, fmt.Sprint("model-", i))
	}
	for i := range bigClients {
		exec("INSERT INTO names (id, name) VALUES (?, ?)", 101+i, fmt.Sprint("client-", i))
	}
	exec("INSERT INTO names (id, name) VALUES (200, 'chat/completions')")
	exec(`WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < ?)
		INSERT INTO sessions (id, key, first_at, last_at) SELECT n, printf('agent-run-%06d', n), ?, ? FROM i`, sessions, begin, begin)
	step := float64(bigDays*int64(daily)) / float64(n)
	const part = 250_000
	for from := 0; from < n; from += part {
		// 2654435761 is Knuth's multiplier: neighbours in time are strangers in session.
		exec(`WITH RECURSIVE i(n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM i WHERE n < ?2),
			r AS (SELECT n, ?3 + CAST(n * ?4 AS INTEGER) AS at FROM i)
			INSERT INTO requests SELECT unhex(printf('%012x7%03x%016x', at, n & 4095, n)), 1 + (n * 2654435761 >> 7) % ?5,
				101 + n % ?6, 200, 1 + n % ?7, 1 + n % ?7, 1, 1, 200, 1, 900 + n % 300, 200 + n % 100, 512, 0, 1000, 300, 1, at, 3, 400, 2500 FROM r`,
			from, min(from+part, n)-1, begin, step, sessions, bigClients, bigModels)
	}
	exec("INSERT INTO request_told (id, told_total) SELECT id, prompt_tokens + completion_tokens FROM requests") // as nearly every provider tells it
	exec("CREATE INDEX requests_session ON requests (session_id) WHERE session_id IS NOT NULL")
	const columns = " (start, model_id, client_id, requests, unknown, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens) "
	const counted = "count(*), 0, sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens)"
	for _, g := range []grain{hourly, daily} {
		exec("INSERT INTO "+rollupTable(g)+columns+"SELECT started_at - started_at % ?1, model_id, client_id, "+counted+" FROM requests GROUP BY 1, 2, 3", int64(g))
	}
	exec(`UPDATE sessions SET (requests, unknown, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, last_at) =
		(SELECT ` + counted + `, max(started_at + total_ms) FROM requests WHERE session_id = sessions.id)`)
	exec("PRAGMA optimize")
	exec("PRAGMA wal_checkpoint(TRUNCATE)")
	exec("PRAGMA synchronous=FULL")
}

var big struct {
	once      sync.Once
	path, dir string // dir goes with the run
	err       error
}

// openBig opens the large store, made at the first call.
func openBig(b *testing.B) *Store {
	b.Helper()
	big.once.Do(func() {
		if big.path = *bigStore; big.path != "" {
			if _, err := os.Stat(big.path); err == nil {
				return
			}
		} else if big.dir, big.err = os.MkdirTemp("", "llm-queue-proxy-big-"); big.err != nil { //nolint:usetesting // it outlives b
			return
		} else {
			big.path = filepath.Join(big.dir, "big.db")
		}
		begin := time.Now()
		s := open(b, Config{Type: "sqlite", SQLiteDSN: big.path})
		fillBig(b, s, *bigRecords)
		closeStore(b, s)
		info, err := os.Stat(big.path)
		if big.err = err; err != nil {
			return
		}
		b.Logf("%d records in %.0f s, %.1f bytes each, indexes, sessions and rollups included",
			*bigRecords, time.Since(begin).Seconds(), float64(info.Size())/float64(*bigRecords))
	})
	if big.err != nil {
		b.Fatal(big.err)
	}
	return open(b, Config{Type: "sqlite", SQLiteDSN: big.path})
}

// percentiles runs act until the benchmark ends, and reports the median and the 99th percentile, by the clock and by the
// processor's time of the thread, which other work on the machine does not lengthen. The first hundred calls warm
// the cache and are not counted.
func percentiles(b *testing.B, act func() error) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range 100 {
		if err := act(); err != nil {
			b.Fatal(err)
		}
	}
	var took, cpu []time.Duration
	for b.Loop() {
		begin, used := time.Now(), threadCPU()
		if err := act(); err != nil {
			b.Fatal(err)
		}
		took, cpu = append(took, time.Since(begin)), append(cpu, threadCPU()-used)
	}
	for unit, all := range map[string][]time.Duration{"ms": took, "cpu-ms": cpu} {
		slices.Sort(all)
		b.ReportMetric(ms(all[len(all)/2]), "p50-"+unit)
		b.ReportMetric(ms(all[len(all)*99/100]), "p99-"+unit)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func BenchmarkQuery(b *testing.B) {
	s := openBig(b)
	ctx := context.Background()
	key := func() string { return fmt.Sprintf("agent-run-%06d", 1+rand.IntN(max(*bigRecords/bigPerKey, 1))) }
	page, err := s.Sessions(ctx, SessionQuery{Limit: 500})
	if err != nil {
		b.Fatal(err)
	}
	for name, act := range map[string]func() error{
		"session by id": func() error {
			_, err := s.Session(ctx, key())
			return err
		},
		"page of 50 sessions": func() error {
			_, err := s.Sessions(ctx, SessionQuery{})
			return err
		},
		"page of 50 sessions further on": func() error {
			_, err := s.Sessions(ctx, SessionQuery{Cursor: page.NextCursor})
			return err
		},
		"page of 50 requests of a session": func() error {
			_, err := s.Requests(ctx, key(), RecordQuery{})
			return err
		},
		"last 24 h by model": func() error {
			_, err := s.Usage(ctx, UsageQuery{From: time.Now().Add(-24 * time.Hour), By: []string{"model"}})
			return err
		},
		"all time by model": func() error {
			_, err := s.Usage(ctx, UsageQuery{By: []string{"model"}})
			return err
		},
	} {
		b.Run(name, func(b *testing.B) { percentiles(b, act) })
	}
}

// BenchmarkPrune removes old records while one client goes on recording; what that one waits at most is a slice.
func BenchmarkPrune(b *testing.B) {
	s := open(b, Config{Type: "sqlite", SQLiteDSN: filepath.Join(b.TempDir(), "x.db")})
	n := min(*bigRecords, 500_000)
	fillBig(b, s, n)
	var took []time.Duration
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			begin := time.Now()
			if err := s.Record(context.Background(), testRecord("busy")); err != nil {
				b.Error(err)
				return
			}
			took = append(took, time.Since(begin))
		}
	})
	b.ResetTimer()
	begin := time.Now()
	at := time.Now().Add(-24 * time.Hour)
	err := s.inTurn(context.Background(), func(ctx context.Context) (bool, error) {
		return s.backend.prune(ctx, horizon{records: at, hours: at})
	})
	b.ReportMetric(float64(n)/time.Since(begin).Seconds(), "records/s")
	close(stop)
	wg.Wait()
	if err != nil {
		b.Fatal(err)
	}
	slices.Sort(took)
	b.ReportMetric(ms(took[len(took)/2]), "record-p50-ms")
	b.ReportMetric(ms(took[len(took)*99/100]), "record-p99-ms")
}

// BenchmarkRecord_paced is what the terminal event of an answer waits: 500 clients, 75 records a second
// together, against an fsync of the same disk.
func BenchmarkRecord_paced500ClientsFull(b *testing.B) {
	s := benchStore(b, DurabilityFull)
	const perSecond = 75
	f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var mu sync.Mutex
	var took, raw []time.Duration
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	for i := 0; b.Loop(); i++ {
		<-tick.C
		// The raw fsync takes turns with the records, so that both meet the same disk at the same time.
		begin := time.Now()
		if _, err := f.WriteAt(make([]byte, 4096), int64(i%256)*4096); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		raw = append(raw, time.Since(begin))
		wg.Go(func() {
			<-time.After(rand.N(time.Second / perSecond)) // clients do not come in step
			begin := time.Now()
			if err := s.Record(context.Background(), testRecord(fmt.Sprint("agent-", i%500))); err != nil {
				b.Error(err)
			}
			mu.Lock()
			took = append(took, time.Since(begin))
			mu.Unlock()
		})
	}
	wg.Wait()
	slices.Sort(took)
	slices.Sort(raw)
	b.ReportMetric(ms(raw[len(raw)/2]), "fsync-p50-ms")
	b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
	b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
	b.ReportMetric(float64(took[len(took)/2])/float64(raw[len(raw)/2]), "fsyncs")
}
