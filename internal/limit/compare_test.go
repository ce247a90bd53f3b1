package limit

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// TestCompare_CompletionsAgainstFIFO holds the limiter against a queue of
// x/time/rate limiters that knows the provider's limits and way of charging.
// What is compared is what the provider finished after warm-up. Clients are
// patient: who refuses large requests early completes more of small ones.
func TestCompare_CompletionsAgainstFIFO(t *testing.T) {
	seeds := 1
	if *printTable {
		seeds = *tableSeeds
		fmt.Printf("| provider | backoff only: completed, 429s | FIFO + x/time/rate: completed, 429s | limiter: completed, 429s | limiter / FIFO (gate) | |\n|---|---|---|---|---|---|\n")
	}
	for _, test := range []struct {
		name    string
		account provider.AccountConfig
		cancels float64
		gate    float64
	}{
		{"refunds what was not used (B)", accountB, 0, 1.4},
		{"refunds, and 40 % of the waiters leave", accountB, 0.4, 1.6},
		{"charges at admission (A)", accountA, 0, 0.98},
	} {
		t.Run(test.name, func(t *testing.T) {
			sim := simulation{cfg: allLearned, account: test.account, cancels: test.cancels, patience: time.Hour}
			ours := runs(sim, seeds, 1.3)[1.3]
			sim.policy = newFIFOPolicy
			fifo := runs(sim, seeds, 1.3)[1.3]
			sim.policy = newBackoffPolicy
			none := runs(sim, seeds, 1.3)[1.3]
			ratios := make([]float64, seeds)
			for i := range ratios {
				ratios[i] = float64(ours[i].completed) / float64(fifo[i].completed)
			}
			slices.Sort(ratios)
			verdict := "pass"
			if ratios[0] < test.gate {
				verdict = "**miss**"
				t.Errorf("%.2f times the completions of FIFO, want %.2f", ratios[0], test.gate)
			}
			if *printTable {
				row := func(results []simResult) string {
					_, completed, _ := spread(results, func(r simResult) float64 { return float64(r.completed) })
					_, refused, _ := spread(results, simResult.share)
					return fmt.Sprintf("%.0f, %.2f %%", completed, 100*refused)
				}
				fmt.Printf("| %s | %s | %s | %s | %.2f / %.2f / %.2f (%v) | %s |\n", test.name, row(none), row(fifo), row(ours),
					ratios[0], quantileOf(ratios, 0.5), ratios[seeds-1], test.gate, verdict)
			}
		})
	}
}

// TestCompare_BrokenVariantsMissTheGates shows that the simulator can tell: what
// the limiter does is taken away piece by piece, and each time a gate is missed.
func TestCompare_BrokenVariantsMissTheGates(t *testing.T) {
	if *printTable {
		fmt.Printf("| what is broken | 429s, %% of attempts | used, %% |\n|---|---|---|\n")
	}
	for _, test := range []struct {
		name string
		sim  simulation
	}{
		{"no guard band (A)", simulation{cfg: told("openai"), account: accountA, broken: broken{guard: true}}},
		{"settled to the usage where the provider does not (A)", simulation{cfg: told("postpaid"), account: accountA, silent: true}},
		{"never settled where the provider does (B)", simulation{cfg: told("anthropic"), account: accountB, silent: true, broken: broken{settle: true}}},
		{"a 429 gives its charge back and teaches nothing (quantised)", simulation{cfg: Config{Global: Limits{RequestsPerMinute: 600}}, account: bySecond(accountRPM), silent: true, broken: broken{keep: true}}},
		{"a bucket where the provider counts fixed minutes (A′)", simulation{cfg: told("openai"), account: accountW, silent: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := runs(test.sim, 1, 1.3)[1.3][0]
			if r.share() <= 0.001 && r.util >= 0.97 {
				t.Errorf("%.3f %% 429s and %.1f %% used: within the gates", 100*r.share(), 100*r.util)
			}
			if *printTable {
				fmt.Printf("| %s | %.2f | %.1f |\n", test.name, 100*r.share(), 100*r.util)
			}
		})
	}
}
