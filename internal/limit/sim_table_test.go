package limit

import (
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

var (
	printTable = flag.Bool("table", false, "print the table of docs/limits.md, over many seeds")
	tableSeeds = flag.Int("seeds", 20, "seeds per row of the table")
)

// firstSeed keeps the table's seeds apart from those that constants were chosen by.
const firstSeed = 1000

// A scenario is one row: a provider, what the sidecar is told of it, and what
// is promised.
type scenario struct {
	name  string
	sim   simulation
	loads []float64 // nil = 0.9, 1.3, 2
	share float64   // of attempts that may meet a 429, the cold start included
	util  float64   // of what could be used, at least
}

var (
	allLearned = Config{Learn: true}
	accountA   = provider.AccountConfig{Variant: provider.Continuous, RPM: 600, TPM: 300_000}
	accountW   = provider.AccountConfig{Variant: provider.Window, RPM: 600, TPM: 300_000, RPMQuantum: time.Second}
	accountB   = provider.AccountConfig{Variant: provider.Reserve, RPM: 600, TPM: 300_000}
	accountC   = provider.AccountConfig{Variant: provider.PostPaid, RPM: 600, TPM: 300_000}
	accountRPM = provider.AccountConfig{Variant: provider.Reserve, RPM: 600, TPM: 1_200_000}
)

func told(profile string) Config {
	limits := Limits{RequestsPerMinute: 600, TokensPerMinute: 300_000}
	return Config{Learn: true, Models: []ModelLimits{{Pattern: "*", Limits: limits, Profile: profile}}}
}

func withForeign(a provider.AccountConfig) provider.AccountConfig {
	a.Foreign = provider.Foreign{Share: 0.3, After: 8 * time.Minute}
	return a
}

func bySecond(a provider.AccountConfig) provider.AccountConfig {
	a.RPMQuantum = time.Second
	return a
}

func scenarios() []scenario {
	fast := engineConfig{trip: 2 * time.Millisecond, interval: 250 * time.Millisecond}
	failing := fast
	failing.down = 2 * time.Minute
	third := Config{Learn: true, Share: 1.0 / 3}
	return []scenario{
		{"A, told", simulation{cfg: told("openai"), account: accountA}, nil, 0.001, 0.97},
		{"A, learned", simulation{cfg: allLearned, account: accountA}, nil, 0.001, 0.97},
		{"A, told, no headers", simulation{cfg: told("openai"), account: accountA, silent: true}, nil, 0.001, 0.97},
		{"A, headers at the end", simulation{cfg: allLearned, account: accountA, late: true}, nil, 0.001, 0.97},
		{"A′, told, no headers", simulation{cfg: told("azure"), account: accountW, silent: true}, nil, 0.001, 0.95},
		{"A′, told, headers", simulation{cfg: told("azure"), account: accountW}, nil, 0.001, 0.95},
		{"B, told", simulation{cfg: told("anthropic"), account: accountB}, nil, 0.001, 0.97},
		{"B, learned", simulation{cfg: allLearned, account: accountB}, nil, 0.001, 0.97},
		{"B, headers at the end", simulation{cfg: allLearned, account: accountB, late: true}, nil, 0.001, 0.97},
		{"C, told", simulation{cfg: told("postpaid"), account: accountC}, nil, 0.001, 0.97},
		{"C, learned", simulation{cfg: allLearned, account: accountC}, nil, 0.001, 0.97},
		{"requests bind, learned", simulation{cfg: allLearned, account: accountRPM}, nil, 0.001, 0.97},
		{"requests judged by the second, 429s without numbers", simulation{cfg: allLearned, account: bySecond(accountRPM), bare: true}, nil, 0.001, 0.97},
		{"requests judged by the second, 429s with the second's numbers", simulation{cfg: allLearned, account: bySecond(accountRPM)}, nil, 0.001, 0.97},
		{"30 % used by others, requests bind", simulation{cfg: allLearned, account: withForeign(accountRPM), foreign: true}, []float64{0.6, 1.3, 2}, 0.002, 0.97},
		{"30 % used by others, tokens bind", simulation{cfg: allLearned, account: withForeign(accountB), foreign: true}, []float64{0.6, 1.3, 2}, 0.002, 0.97},
		{"40 % of the waiters leave", simulation{cfg: allLearned, account: accountB, cancels: 0.4}, nil, 0.001, 0.97},
		{"a crash every 20 s for 3 min, told", simulation{cfg: told("openai"), account: accountA, crashes: 20 * time.Second}, nil, 0.001, 0},
		{"one restart", simulation{cfg: allLearned, account: accountA, crashes: 3 * time.Minute}, nil, 0.001, 0},
		{"a crash every 20 s for 3 min, learned anew", simulation{cfg: allLearned, account: accountA, crashes: 20 * time.Second}, nil, 0.01, 0},
		{"the machine sleeps 20 s, clock 500 ppm fast", simulation{cfg: allLearned, account: accountA, suspend: 20 * time.Second}, nil, 0.001, 0.97},
		{"three sidecars, a third each", simulation{cfg: third, account: accountRPM, sidecars: 3}, nil, 0.001, 0.97},
		{"three sidecars that lease from one engine", simulation{cfg: told("anthropic"), account: accountB, sidecars: 3, engine: &fast}, nil, 0.001, 0.97},
		{"the same, the engine is down for two minutes", simulation{cfg: told("anthropic"), account: accountB, sidecars: 3, engine: &failing}, nil, 0.001, 0.85},
		{"three sidecars, uncoordinated, requests bind", simulation{cfg: allLearned, account: accountRPM, sidecars: 3}, nil, 0.01, 0.90},
		{"three sidecars, uncoordinated, tokens bind", simulation{cfg: allLearned, account: accountB, sidecars: 3}, nil, 0.01, 0.90},
	}
}

// runs runs s at each load with each of n seeds.
func runs(s simulation, n int, loads ...float64) map[float64][]simResult {
	results := map[float64][]simResult{}
	var mu sync.Mutex
	var all sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, load := range loads {
		results[load] = make([]simResult, n)
		into := results[load]
		for i := range n {
			slots <- struct{}{}
			all.Go(func() {
				s := s
				s.load, s.seed = load, uint64(firstSeed+i)
				r := s.run()
				mu.Lock()
				into[i] = r
				mu.Unlock()
				<-slots
			})
		}
	}
	all.Wait()
	return results
}

func spread(results []simResult, of func(simResult) float64) (least, median, most float64) {
	values := make([]float64, len(results))
	for i, r := range results {
		values[i] = of(r)
	}
	slices.Sort(values)
	return values[0], quantileOf(values, 0.5), values[len(values)-1]
}

func quantileOf(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// TestTable holds every row's promise: with few seeds always, with -table over
// many, printed as docs/limits.md has it.
func TestTable(t *testing.T) {
	seeds, quick := 1, []float64{1.3}
	if *printTable {
		quick = nil
		seeds = *tableSeeds
		fmt.Printf("| provider, and what the sidecar knows | load | 429s, %% of attempts (gate) | after 5 min | used, %% (gate) | forecast off by, %% | |\n|---|---|---|---|---|---|---|\n")
	}
	for _, row := range scenarios() {
		t.Run(row.name, func(t *testing.T) {
			loads := quick
			if loads == nil {
				loads = row.loads
			}
			if loads == nil {
				loads = []float64{0.9, 1.3, 2}
			}
			results := runs(row.sim, seeds, loads...)
			for _, load := range loads {
				of := results[load]
				s0, s1, s2 := spread(of, simResult.share)
				_, _, w2 := spread(of, simResult.warmShare)
				u0, u1, u2 := spread(of, func(r simResult) float64 { return r.util })
				var off []float64
				for _, r := range of {
					off = append(off, r.errors...)
				}
				slices.Sort(off)
				verdict := "pass"
				if s2 > row.share || u0 < row.util {
					verdict = "**miss**"
				}
				// The gates are promised at 1.3 times the limit; the other loads are shown.
				if verdict != "pass" && load == 1.3 {
					t.Errorf("load %v: up to %.3f %% 429s (gate %.1f %%), at least %.1f %% used (gate %.0f %%)", load, 100*s2, 100*row.share, 100*u0, 100*row.util)
				}
				if *printTable {
					forecast := "–"
					if len(off) > 0 {
						forecast = fmt.Sprintf("%.0f / %.0f", 100*quantileOf(off, 0.5), 100*quantileOf(off, 0.9))
					}
					fmt.Printf("| %s | %v | %.3f / %.3f / %.3f (%.1f) | %.3f | %.1f / %.1f / %.1f (%.0f) | %s | %s |\n",
						row.name, load, 100*s0, 100*s1, 100*s2, 100*row.share, 100*w2, 100*u0, 100*u1, 100*u2, 100*row.util, forecast, verdict)
				}
			}
		})
	}
}
