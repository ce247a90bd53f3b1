package limit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A liar is a provider of sixty requests a minute, refilled all the time, whose headers
// tell what they like.
type liar struct {
	tell func(p *liar, now time.Time) (remaining int64, told bool)

	mu       sync.Mutex
	level    float64
	at       time.Time
	refused  int
	total    int64
	recent   []time.Time // of the last requests
	inflight int64
}

const liarLimit = 60

func (p *liar) ask(now time.Time) (s llm.Signal, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.level = min(liarLimit, p.level+now.Sub(p.at).Seconds()*liarLimit/60)
	p.at = now
	if ok = p.level >= 1; ok {
		p.level--
	} else {
		p.refused++
		s.RetryAfter, s.HasRetryAfter = time.Duration((1-p.level)*float64(time.Second)), true
		s.Dimension = llm.Requests
	}
	p.total++
	p.inflight++
	p.recent = append(p.recent, now)
	l := llm.Level{Limit: liarLimit, HasLimit: true}
	if p.tell != nil {
		if l.Remaining, l.HasRemaining = p.tell(p, now); l.HasRemaining {
			l.Remaining = max(0, l.Remaining)
			l.Reset, l.HasReset = time.Duration((liarLimit-l.Remaining))*time.Second, true
		}
	}
	s.Levels[llm.Requests] = l
	return s, ok
}

func (p *liar) within(span time.Duration, now time.Time) (n int64) {
	for _, at := range p.recent {
		if now.Sub(at) < span {
			n++
		}
	}
	return n
}

// lies are what headers have been seen to tell, or could; the truth is none.
var lies = []struct {
	name string
	tell func(p *liar, now time.Time) (remaining int64, told bool)
}{
	{"nothing", nil},
	{"the truth", func(p *liar, _ time.Time) (int64, bool) { return int64(p.level), true }},
	{"five less all that ever came", func(p *liar, _ time.Time) (int64, bool) { return 5 - p.total, true }},
	{"five less those of five seconds", func(p *liar, now time.Time) (int64, bool) { return 5 - p.within(5*time.Second, now), true }},
	{"five less those of a second", func(p *liar, now time.Time) (int64, bool) { return 5 - p.within(time.Second, now), true }},
	{"five less those in flight", func(p *liar, _ time.Time) (int64, bool) { return 5 - p.inflight, true }},
	{"always none", func(*liar, time.Time) (int64, bool) { return 0, true }},
	{"always one", func(*liar, time.Time) (int64, bool) { return 1, true }},
	{"always three", func(*liar, time.Time) (int64, bool) { return 3, true }},
}

// bursts sends bursts of small size, with pauses between, and returns how long they took
// in all, what was refused, and what the provider refused.
func (p *liar) bursts(t *testing.T, seed uint64, sizes []int, pause time.Duration) (took time.Duration, lost, refused int) {
	synctest.Test(t, func(t *testing.T) {
		p.level, p.at = liarLimit, time.Now()
		rng := rand.New(rand.NewPCG(seed, 7))
		var mu sync.Mutex
		trip := func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return 20*time.Millisecond + time.Duration(rng.Float64()*30e6)
		}
		l := New(Config{Learn: true, Global: Limits{RequestsPerMinute: 60}, Provisional: true, MaxWait: time.Minute})
		defer l.Close()
		for _, size := range sizes {
			time.Sleep(time.Duration(rng.Float64() * float64(pause)))
			began := time.Now()
			var all sync.WaitGroup
			for i := range size {
				all.Go(func() {
					r := request(fmt.Sprint("s", i%3))
					le, err := l.Acquire(t.Context(), r)
					if err != nil {
						mu.Lock()
						lost++
						mu.Unlock()
						return
					}
					defer le.Release()
					for {
						le.Sent()
						time.Sleep(trip())
						s, ok := p.ask(time.Now())
						time.Sleep(trip())
						if ok {
							le.Observe(s)
							le.Started()
							time.Sleep(trip() * 20)
							p.mu.Lock()
							p.inflight--
							p.mu.Unlock()
							return
						}
						p.mu.Lock()
						p.inflight--
						p.mu.Unlock()
						if le.Throttled(t.Context(), s) != nil {
							mu.Lock()
							lost++
							mu.Unlock()
							return
						}
					}
				})
			}
			all.Wait()
			took += time.Since(began)
		}
		refused = p.refused
	})
	return took, lost, refused
}

// TestBelief_LyingHeadersCostLittle: headers that fit nothing may not be worse than none,
// by more than a quarter. With -table it prints the rows of docs/limits.md.
func TestBelief_LyingHeadersCostLittle(t *testing.T) {
	seeds := 20
	if *printTable {
		seeds = *tableSeeds
		fmt.Println("| bursts of a limit of 60, and what the headers say is left | all of them took, s | against none (gate) | lost | 429s | |")
		fmt.Println("|---|---|---|---|---|---|")
	}
	for _, load := range []struct {
		name  string
		sizes []int
	}{
		{"six of 10", []int{10, 10, 10, 10, 10, 10}},
		{"one of 25", []int{25}},
		{"four of 30", []int{30, 30, 30, 30}},
	} {
		play := func(tell func(*liar, time.Time) (int64, bool)) (took []float64, lost, refused int) {
			for seed := range seeds {
				p := &liar{tell: tell}
				d, l, r := p.bursts(t, uint64(firstSeed+seed), load.sizes, 20*time.Second)
				took = append(took, d.Seconds())
				lost += l
				refused += r
			}
			slices.Sort(took)
			return took, lost, refused
		}
		silent, lostSilent, refusedSilent := play(nil)
		sum := func(all []float64) (s float64) {
			for _, x := range all {
				s += x
			}
			return s
		}
		for _, lie := range lies {
			took, lost, refused := play(lie.tell)
			ratio, verdict := sum(took)/sum(silent), "pass"
			if ratio > 1.25 || lost > lostSilent+seeds || refused > refusedSilent+seeds {
				verdict = "**miss**"
				t.Errorf("%s, %s: %.2f times as long as without headers, %d lost, %d refused, and %d and %d without", load.name, lie.name, ratio, lost, refused, lostSilent, refusedSilent)
			}
			if *printTable {
				fmt.Printf("| %s: %s | %.1f / %.1f / %.1f | %.2f (1.25) | %d | %d | %s |\n", load.name, lie.name, took[0], quantileOf(took, 0.5), took[len(took)-1], ratio, lost, refused, verdict)
			}
		}
	}
}
