package ledger

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clients has n of them record through act until the benchmark ends, and reports records per
// second. Read the figures as ratios of cases in one run: absolutes are the disk's.
func clients(b *testing.B, n int, act func(Record) error) {
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := act(testRecord(fmt.Sprint("agent-", i))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "records/s")
}

func benchStore(b *testing.B, durability string) *Store {
	return open(b, Config{Type: "sqlite", SQLiteDSN: filepath.Join(b.TempDir(), "x.db"), Durability: durability})
}

func BenchmarkRecord_group500ClientsFull(b *testing.B) {
	s := benchStore(b, DurabilityFull)
	b.ResetTimer()
	clients(b, 500, func(r Record) error { return s.Record(context.Background(), r) })
}

func BenchmarkRecord_group500ClientsNormal(b *testing.B) {
	s := benchStore(b, DurabilityNormal)
	b.ResetTimer()
	clients(b, 500, func(r Record) error { return s.Record(context.Background(), r) })
}

// One transaction per request, through the same tables: what the committer replaces.
func BenchmarkRecord_single500ClientsFull(b *testing.B) {
	s := benchStore(b, DurabilityFull)
	var mu sync.Mutex
	b.ResetTimer()
	clients(b, 500, func(r Record) error {
		if err := r.prepare(); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		_, err := s.backend.apply(context.Background(), batch{records: []Record{r}})
		return err
	})
}

func BenchmarkRecord_oneClientFull(b *testing.B) {
	s := benchStore(b, DurabilityFull)
	b.ResetTimer()
	clients(b, 1, func(r Record) error { return s.Record(context.Background(), r) })
}

// Four sidecars on one Postgres, half of the traffic on one session; see .ci/postgres.
func BenchmarkPostgres_group4Sidecars(b *testing.B) {
	all := fourStores(b, postgresConfig(b))
	var n atomic.Int64
	b.ResetTimer()
	clients(b, 400, func(Record) error {
		i := int(n.Add(1))
		return all[i%4].Record(context.Background(), hot(i/4))
	})
}

// The same traffic, one transaction per request: each sidecar has eight connections that do nothing else.
func BenchmarkPostgres_single4Sidecars(b *testing.B) {
	cfg := postgresConfig(b)
	free := make(chan *postgres, 32)
	for range cap(free) {
		own := cfg
		own.JournalPath = NoJournal
		free <- open(b, own).backend.(*postgres)
	}
	var n atomic.Int64
	b.ResetTimer()
	clients(b, 400, func(Record) error {
		p := <-free
		defer func() { free <- p }()
		i := int(n.Add(1))
		r := hot(i / 4)
		if err := r.prepare(); err != nil {
			return err
		}
		_, err := p.apply(context.Background(), batch{records: []Record{r}})
		return err
	})
}

func BenchmarkRecord_memory500Clients(b *testing.B) {
	s := open(b, Config{})
	b.ResetTimer()
	clients(b, 500, func(r Record) error { return s.Record(context.Background(), r) })
}

func BenchmarkStart_thenRecordSoon(b *testing.B) {
	var f flight
	f.init(time.Second, func() {})
	b.ReportAllocs()
	r := testRecord("a")
	for b.Loop() {
		r.ID = NewID()
		f.start(r)
		f.end(r.ID)
	}
}
