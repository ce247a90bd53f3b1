package tokens

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// say is a chat of about n tokens of English.
func say(n int) Request {
	return Request{Messages: []byte(`[{"role":"user","content":"` + strings.Repeat("one of the words ", n/4) + `"}]`)}
}

func TestEstimator_ConvergesInThreeAnswers(t *testing.T) {
	for _, truth := range []float64{0.6, 1, 1.8, 3} {
		t.Run(fmt.Sprint(truth), func(t *testing.T) {
			e, k := New(Config{}), Key{Model: "stranger", Session: "s"}
			exact := func(est Estimate) int64 { return est.Overhead + int64(truth*float64(est.Raw)) }
			for range 3 {
				est := e.Estimate(k, say(1000))
				e.Observe(k, est, llm.Usage{Input: exact(est), Output: 1}, "")
			}
			est := e.Estimate(k, say(1500))
			if off := float64(est.Input)/float64(exact(est)) - 1; math.Abs(off) > .03 {
				t.Errorf("off by %+.1f %% after three answers", 100*off)
			}
			other := e.Estimate(Key{Model: "stranger", Session: "new"}, say(1500))
			if off := float64(other.Input)/float64(exact(other)) - 1; math.Abs(off) > .1 {
				t.Errorf("a new session of the model is off by %+.1f %%", 100*off)
			}
		})
	}
}

func TestEstimator_TellsScriptsApart(t *testing.T) {
	e := New(Config{})
	greek := Request{Messages: []byte(`[{"role":"user","content":"` + strings.Repeat("μια καλή ημέρα ", 60) + `"}]`)}
	for n := range 20 { // English costs what we say, Greek three times that
		k := Key{Model: "m", Session: fmt.Sprint(n)}
		for r, ratio := range map[*Request]float64{new(say(300)): 1, &greek: 3} {
			est := e.Estimate(k, *r)
			e.Observe(k, est, llm.Usage{Input: est.Overhead + int64(ratio*float64(est.Raw))}, "")
		}
	}
	for _, tt := range []struct {
		name  string
		r     Request
		ratio float64
	}{{"english", say(300), 1}, {"greek", greek, 3}} {
		est := e.Estimate(Key{Model: "m", Session: "new"}, tt.r)
		if off := float64(est.Input)/(tt.ratio*float64(est.Raw)) - 1; math.Abs(off) > .12 {
			t.Errorf("%s in a new session is off by %+.1f %%", tt.name, 100*off)
		}
	}
}

func TestEstimator_SurvivesPoisonedUsage(t *testing.T) {
	k := Key{Model: "gpt-4o", Session: "s"}
	for _, poison := range []llm.Usage{
		{},
		{Input: -5, Output: -5},
		{Input: 1},
		{Input: 1e9},
		{Input: maxTokens, Output: maxTokens},
		{Input: math.MaxInt64, Output: math.MaxInt64},
		{Input: math.MinInt64, Output: math.MinInt64},
	} {
		t.Run(fmt.Sprintf("%d and %d", poison.Input, poison.Output), func(t *testing.T) {
			e := New(Config{})
			est := e.Estimate(k, say(400))
			for range 50 {
				e.Observe(k, est, poison, strings.Repeat("x", 1<<20))
			}
			after := e.Estimate(k, say(400))
			if low, high := int64(minRatio*float64(est.Raw)), int64(maxRatio*float64(est.Raw))+est.Overhead; after.Input < low || after.Input > high {
				t.Errorf("poisoned estimate %d of raw %d", after.Input, est.Raw)
			}
			for range 60 {
				e.Observe(k, est, llm.Usage{Input: est.Overhead + est.Raw, Output: 80}, "")
			}
			healed := e.Estimate(k, say(400))
			if off := float64(healed.Input)/float64(est.Overhead+est.Raw) - 1; math.Abs(off) > .05 {
				t.Errorf("off by %+.1f %% after sixty honest answers", 100*off)
			}
		})
	}
}

func TestEstimator_DoesNotLearn(t *testing.T) {
	image := `{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}`
	for name, r := range map[string]Request{
		"a ratio of text from media":     {Messages: []byte(`[{"role":"user","content":[` + image + `]}]`)},
		"from context out of sight":      {Messages: say(300).Messages, OpaqueContext: true},
		"from an unknown earlier answer": {Messages: say(300).Messages, PreviousResponseID: "resp_unseen"},
		"from a few words":               {Messages: []byte(`[{"role":"user","content":"hi"}]`)},
	} {
		t.Run(name, func(t *testing.T) {
			e, k := New(Config{}), Key{Model: "gpt-4o", Session: "s"}
			before := e.Estimate(k, say(500)).Input
			for range 10 {
				est := e.Estimate(k, r)
				e.Observe(k, est, llm.Usage{Input: 5*est.Input + 100}, "")
			}
			if after := e.Estimate(k, say(500)).Input; after != before {
				t.Errorf("the estimate of plain text moved from %d to %d", before, after)
			}
		})
	}
}

func TestEstimator_LearnsMediaAndHiddenContext(t *testing.T) {
	e, k := New(Config{}), Key{Model: "gpt-4o", Session: "s"}
	image := Request{Messages: []byte(`[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]}]`)}
	opaque := say(100)
	opaque.OpaqueContext = true
	for range 60 {
		e.Observe(k, e.Estimate(k, image), llm.Usage{Input: 1500}, "")
		e.Observe(k, e.Estimate(k, opaque), llm.Usage{Input: 5000}, "")
	}
	if got := e.Estimate(k, image).Input; got < 1350 || got > 1650 {
		t.Errorf("an image of 1500 is estimated at %d", got)
	}
	if got := e.Estimate(k, opaque).Input; got < 4500 || got > 5500 {
		t.Errorf("a request of 5000 is estimated at %d", got)
	}
}

func TestEstimator_RemembersResponses(t *testing.T) {
	e, k := New(Config{MaxResponses: 4}), Key{Model: "gpt-4o", Client: "alice", Session: "s"}
	first := Request{Messages: []byte(`"hello"`)}
	e.Observe(k, e.Estimate(k, first), llm.Usage{Input: 700, Output: 300}, "resp_1")
	next := first
	next.PreviousResponseID = "resp_1"

	est := e.Estimate(k, next)
	if est.Unknown || est.Overhead != 1000+e.Estimate(k, first).Overhead {
		t.Errorf("unknown %t, overhead %d, want 1000 more than without", est.Unknown, est.Overhead)
	}
	if est := e.Estimate(Key{Model: "gpt-4o", Client: "mallory", Session: "s"}, next); !est.Unknown {
		t.Error("another client's response is known")
	}
	for n := range 4 {
		e.Observe(k, est, llm.Usage{Input: 1}, fmt.Sprint("resp_new_", n))
	}
	if est := e.Estimate(k, next); !est.Unknown {
		t.Error("a response beyond the bound is remembered")
	}
}

func TestEstimator_ExpectsTheUsualCompletion(t *testing.T) {
	e, k := New(Config{}), Key{Model: "o3", Session: "s"}
	answer := func(effort string, choices, completion int64) {
		r := say(100)
		r.Effort, r.Choices = effort, choices
		e.Observe(k, e.Estimate(k, r), llm.Usage{Input: 100, Output: completion}, "")
	}
	for range 10 {
		answer("low", 2, 200)
		answer("high", 1, 9000)
	}
	for effort, want := range map[string]int64{"low": 100, "high": 9000, "never seen": firstOutput} {
		r := say(100)
		r.Effort = effort
		if got := e.Estimate(k, r).Output; got != want {
			t.Errorf("effort %s: expects %d, want %d", effort, got, want)
		}
	}
	r := say(100)
	r.Effort, r.MaxOutput = "high", 1000
	if got := e.Estimate(k, r).Output; got != 1000 {
		t.Errorf("expects %d beyond the cap of 1000", got)
	}
	for n := range 100 {
		answer(fmt.Sprint("invented", n), 1, 5)
	}
	if n := len(e.modelOf("o3").outputs); n > maxEfforts {
		t.Errorf("%d efforts remembered", n)
	}
}

func TestEstimator_RestartKeepsWhatModelsTaught(t *testing.T) {
	e := New(Config{})
	for n := range 40 {
		for _, name := range []llm.Model{"a", "b"} {
			k := Key{Model: name, Session: fmt.Sprint(n)}
			r := say(200)
			r.Effort = []string{"", "high"}[n%2]
			est := e.Estimate(k, r)
			e.Observe(k, est, llm.Usage{Input: 2 * est.Raw, Output: int64(100 + n)}, "")
		}
	}
	stored, err := json.Marshal(e.Export())
	if err != nil {
		t.Fatal(err)
	}
	var loaded []Calibration
	if err := json.Unmarshal(stored, &loaded); err != nil {
		t.Fatal(err)
	}
	restarted := New(Config{})
	restarted.Import(loaded)
	if diff := cmp.Diff(e.Export(), restarted.Export()); diff != "" {
		t.Errorf("exported again (-before +after):\n%s", diff)
	}
	k := Key{Model: "a", Session: "new"}
	if got, want := restarted.Estimate(k, say(1000)).Input, e.Estimate(k, say(1000)).Input; got != want {
		t.Errorf("estimates %d after a restart, %d before", got, want)
	}
}

func TestEstimator_ImportRefusesDamage(t *testing.T) {
	nan, good := math.NaN(), Calibration{Model: "good", Text: fit{PP: 10, PY: 20}, Output: 5, Answers: 9}
	e := New(Config{})
	e.Import([]Calibration{
		{Model: "nan", Text: fit{PP: nan}},
		{Model: "negative", Output: -1, Answers: 9},
		{Model: "infinite", Mx: math.Inf(1)},
		{Model: "singular", Text: fit{PW: 1e12}},
		{Model: llm.Model(strings.Repeat("long", 1000)), Output: 1, Answers: 9},
		good,
	})
	if diff := cmp.Diff([]Calibration{good}, e.Export()); diff != "" {
		t.Errorf("imported (-want +got):\n%s", diff)
	}
}

func TestEstimator_MemoryIsBounded(t *testing.T) {
	e := New(Config{MaxSessions: 10, MaxModels: 5, MaxResponses: 3})
	for n := range 200 {
		k := Key{Model: llm.Model(fmt.Sprint("model", n%50)), Client: "c", Session: fmt.Sprint("s", n)}
		e.Observe(k, e.Estimate(k, say(100)), llm.Usage{Input: 120, Output: 9}, fmt.Sprint(n))
	}
	if s, m, r := len(e.sessions.entries), len(e.models.entries), len(e.responses.entries); s > 10 || m > 5 || r > 3 {
		t.Errorf("%d sessions, %d models, %d responses", s, m, r)
	}
}

func TestEstimator_IsSafeForConcurrentUse(t *testing.T) {
	e := New(Config{MaxSessions: 8, MaxModels: 2, MaxResponses: 8})
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for i := range 200 {
				k := Key{Model: llm.Model(fmt.Sprint(i % 4)), Client: fmt.Sprint(n), Session: fmt.Sprint(i % 20)}
				r := say(30)
				r.PreviousResponseID = fmt.Sprint(i - 1)
				e.Observe(k, e.Estimate(k, r), llm.Usage{Input: 40, Output: 5}, fmt.Sprint(i))
				if i%50 == 0 {
					e.Import(e.Export())
				}
			}
		})
	}
	wg.Wait()
}

func TestEstimator_AllocatesNothing(t *testing.T) {
	e, k := New(Config{}), Key{Model: "gpt-4o", Client: "c", Session: "s"}
	r := chat(64<<10, samples["english"]+samples["chinese"])
	r.Tools = []byte(`[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"x":{"type":"string"}}}}}]`)
	for _, known := range []bool{false, true} {
		if n := testing.AllocsPerRun(20, func() { e.Estimate(k, r) }); n != 0 {
			t.Errorf("model known %t: %.0f allocations", known, n)
		}
		e.Observe(k, e.Estimate(k, r), llm.Usage{Input: 20000, Output: 10}, "")
	}
}

func TestLRU_ForgetsTheLeastRecentlyUsed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 5).Draw(t, "limit")
		l := newLRU[int, int](limit)
		var order []int // newest last
		values := map[int]int{}
		use := func(k int) {
			for i, o := range order {
				if o == k {
					order = append(order[:i], order[i+1:]...)
					break
				}
			}
			order = append(order, k)
			if len(order) > limit {
				delete(values, order[0])
				order = order[1:]
			}
		}
		for n := range rapid.IntRange(1, 60).Draw(t, "steps") {
			k := rapid.IntRange(0, 8).Draw(t, "key")
			if rapid.Bool().Draw(t, "put") {
				*l.put(k) = n
				use(k)
				values[k] = n
			} else if v := l.get(k); v != nil {
				use(k)
			}
			got := map[int]int{}
			for k, n := range l.entries {
				got[k] = n.value
			}
			if diff := cmp.Diff(values, got); diff != "" {
				t.Fatalf("holds (-want +got):\n%s", diff)
			}
		}
	})
}
