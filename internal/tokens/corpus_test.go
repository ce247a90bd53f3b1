package tokens

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// counted is one text of the corpus and its exact counts by published tokenizers.
// fit/SOURCES.md says where the texts come from, fit/truth.mjs who counted.
type counted struct {
	Side, Source, Category, Text string
	Counts                       map[string]int64

	messages []byte // Text as a chat of one message
}

var corpus = sync.OnceValues(func() ([]counted, error) {
	f, err := os.Open("testdata/corpus.jsonl.gz")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zr, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return nil, err
	}
	var all []counted
	for dec := json.NewDecoder(zr); ; {
		var c counted
		if err := dec.Decode(&c); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
})

// heldOut returns the texts that no weight was fitted on.
func heldOut(t testing.TB) []counted {
	t.Helper()
	all, err := corpus()
	if err != nil {
		t.Fatalf("read corpus: %v", err)
	}
	return slices.DeleteFunc(slices.Clone(all), func(c counted) bool { return c.Side != "judge" })
}

// quoted is text as a JSON string.
func quoted(t testing.TB, s string) []byte {
	t.Helper()
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		t.Fatal(err)
	}
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}

// accuracy collects estimates beside the truth.
type accuracy struct {
	est, exact float64
	errs       []float64
}

func (a *accuracy) add(est, exact float64) {
	a.est += est
	a.exact += exact
	a.errs = append(a.errs, math.Abs(est/exact-1))
}

func (a *accuracy) bias() float64 { return a.est/a.exact - 1 }

func (a *accuracy) quantile(p float64) float64 {
	slices.Sort(a.errs)
	return a.errs[int(p*float64(len(a.errs)-1))]
}

func median(v []float64) float64 {
	slices.Sort(v)
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2
}

func TestHeuristic_ErrorOnHeldOutSources(t *testing.T) {
	all, err := corpus()
	if err != nil {
		t.Fatalf("read corpus: %v", err)
	}
	side := map[string]string{}
	for _, c := range all {
		if was := side[c.Source]; was != "" && was != c.Side {
			t.Fatalf("source %s stands on both sides", c.Source)
		}
		side[c.Source] = c.Side
	}

	var acc accuracy
	ratios := map[string][]float64{}
	for _, c := range heldOut(t) {
		var x text
		x.scan(quoted(t, c.Text)[1:])
		exact := float64(c.Counts["o200k"])
		est := float64(x.cost) / unit
		acc.add(est, exact)
		ratios[c.Category] = append(ratios[c.Category], est/exact)
	}
	t.Logf("%d texts: bias %+.1f %%, p50 %.1f %%, p90 %.1f %%, p99 %.1f %%", len(acc.errs),
		100*acc.bias(), 100*acc.quantile(.5), 100*acc.quantile(.9), 100*acc.quantile(.99))
	if math.Abs(acc.bias()) > .04 || acc.quantile(.5) > .07 || acc.quantile(.9) > .20 {
		t.Error("beyond bias 4 %, p50 7 %, p90 20 %")
	}
	for category, r := range ratios {
		if m := median(r); m < .8 || m > 1.25 {
			t.Errorf("%s: median ratio %.2f of %d texts, want 0.8 to 1.25", category, m, len(r))
		}
	}
	if n := len(ratios); n < 40 {
		t.Errorf("only %d categories", n)
	}
}

// TestCalibration_OtherTokenizers plays sessions of changing content against
// tokenizers that the weights know nothing of, under names that say nothing.
func TestCalibration_OtherTokenizers(t *testing.T) {
	byCategory := map[string][]counted{}
	var common, categories []string
	for _, c := range heldOut(t) {
		if byCategory[c.Category] == nil {
			categories = append(categories, c.Category)
		}
		c.messages = slices.Concat([]byte(`[{"role":"user","content":`), quoted(t, c.Text), []byte(`}]`))
		byCategory[c.Category] = append(byCategory[c.Category], c)
	}
	for _, c := range categories {
		if strings.HasPrefix(c, "code") || strings.HasSuffix(c, "-en") || c == "mixed" || c == "markdown" {
			common = append(common, c)
		}
	}
	pick := func(r *rand.Rand) string {
		if r.IntN(2) == 0 {
			return common[r.IntN(len(common))]
		}
		return categories[r.IntN(len(categories))]
	}
	for _, tokenizer := range []string{"o200k", "cl100k", "claude", "llama3", "mistral", "deepseek", "gemini", "qwen"} {
		t.Run(tokenizer, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			e := New(Config{})
			var after [11]accuracy
			for session := range 600 {
				k := Key{Model: "m", Client: "c", Session: string(rune('a'+session%26)) + string(rune(session))}
				subject, aside := pick(r), pick(r)
				for n := range after {
					from := byCategory[subject]
					if r.IntN(5) == 0 {
						from = byCategory[aside]
					}
					doc := from[r.IntN(len(from))]
					est := e.Estimate(k, Request{Messages: doc.messages})
					exact := doc.Counts[tokenizer] + perReply + perMessage
					after[n].add(float64(est.Input), float64(exact))
					e.Observe(k, est, llm.Usage{Input: exact, Output: 100}, "")
				}
			}
			for _, n := range []int{0, 1, 3, 10} {
				t.Logf("after %2d answers: bias %+5.1f %%, p50 %4.1f %%, p90 %4.1f %%", n,
					100*after[n].bias(), 100*after[n].quantile(.5), 100*after[n].quantile(.9))
			}
			if a := &after[3]; math.Abs(a.bias()) > .03 || a.quantile(.5) > .08 {
				t.Error("beyond bias 3 %, p50 8 % after 3 answers")
			}
		})
	}
}
