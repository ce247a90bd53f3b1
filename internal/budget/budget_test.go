package budget

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// book is a Book whose store holds what stored says, closed with the test.
func book(t *testing.T, stored func(scope string, since time.Time) (Amount, error), change ...func(*Config)) *Book {
	cfg := Config{Load: func(_ context.Context, l Limit, since time.Time) (Amount, error) {
		if stored == nil {
			return Amount{}, nil
		}
		return stored(l.Scope, since)
	}}
	for _, f := range change {
		f(&cfg)
	}
	b := New(cfg)
	t.Cleanup(b.Close)
	return b
}

func tokens(n int64) Amount { return Amount{Tokens: n} }

func daily(scope string, n int64) []Limit {
	return []Limit{{Scope: scope, Name: scope, Per: Day, Tokens: n}}
}

func reserve(t *testing.T, b *Book, limits []Limit, n int64) *Reservation {
	t.Helper()
	r, err := b.Reserve(t.Context(), limits, tokens(n))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func exceeded(t *testing.T, b *Book, limits []Limit) *ExceededError {
	t.Helper()
	var e *ExceededError
	r, err := b.Reserve(t.Context(), limits, tokens(1))
	if !errors.As(err, &e) {
		r.Release()
		t.Fatalf("err = %v; want that the budget is used up", err)
	}
	return e
}

// An account never promises more than it has, but to one request that goes alone; and
// where reservations are large enough, it is never overspent by more than that one's excess.
func TestAccount_NeverPromisesMoreThanItHas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := &Limit{
			Tokens: rapid.SampledFrom([]int64{0, 1, 100, 1000}).Draw(t, "tokens"),
			Money:  llm.Money{Lo: rapid.SampledFrom([]uint64{0, 1, 500}).Draw(t, "money")},
		}
		var a account
		var open []Amount
		var alone Amount // of the last request that was let in without room
		amount := func(name string, most Amount) Amount {
			return Amount{rapid.Int64Range(0, most.Tokens).Draw(t, name), llm.Money{Lo: rapid.Uint64Range(0, most.Money.Lo).Draw(t, name+" money")}}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(open) > 0 && rapid.Bool().Draw(t, "end one") {
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				a.settle(open[i], amount("used", open[i]))
				open = append(open[:i], open[i+1:]...)
			} else {
				want := amount("want", Amount{300, llm.Money{Lo: 300}})
				fits := limit.of(want).holds(a.used.Plus(a.reserved).Plus(want))
				switch v := a.judge(limit, want); {
				case v == usedUp && !limit.reached(a.used):
					t.Fatal("refused though something is left")
				case v == waits && len(open) == 0:
					t.Fatal("waits for nobody")
				case v == waits && fits:
					t.Fatal("waits though it fits")
				case v == granted && !fits && len(open) > 0:
					t.Fatal("promised twice")
				case v == granted:
					if want.Money != (llm.Money{}) { // else it draws on no money
						alone.Money = llm.Money{}
					}
					if alone.Tokens = 0; !fits {
						alone = Amount{want.Tokens, alone.Money.Add(want.Money)}
					}
					a.reserve(want)
					open = append(open, want)
				}
			}
			if a.held != len(open) {
				t.Fatalf("%d held, %d open", a.held, len(open))
			}
			if over := a.used.Plus(a.reserved).minus(alone); !limit.holds(over) {
				t.Fatalf("promised %+v, and alone %+v, of %+v", over, alone, limit)
			}
		}
	})
}

// spend has a hundred requests at once draw on a budget of 1000 tokens, each
// reserving and costing 30, and returns what was spent.
func spend(admit func() (settle func(), ok bool)) int64 {
	var spent atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if settle, ok := admit(); ok {
				time.Sleep(time.Second) // of the bubble: the request's own time
				spent.Add(30)
				settle()
			}
		})
	}
	wg.Wait()
	return spent.Load()
}

func TestBook_ParallelRequestsDoNotOverspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book(t, nil)
		got := spend(func() (func(), bool) {
			r, err := b.Reserve(t.Context(), daily("team", 1000), tokens(30))
			return func() { r.Settle(tokens(30)) }, err == nil
		})
		// 33 fit; one more goes alone, for 10 are left.
		if got != 1020 {
			t.Errorf("spent %d of 1000; want 1020", got)
		}
	})
	t.Run("without reservation they do, and this test sees it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var used atomic.Int64
			got := spend(func() (func(), bool) {
				return func() { used.Add(30) }, used.Load() < 1000
			})
			if got <= 1020 {
				t.Errorf("spent %d: the test cannot see an overdraft", got)
			}
		})
	})
}

func TestBook_WaitsForReservationsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book(t, nil)
		limits := daily("team", 100)
		first := reserve(t, b, limits, 80)
		order := make(chan int, 3)
		var wg sync.WaitGroup
		for i, n := range []int64{50, 5, 30} {
			wg.Go(func() {
				r, err := b.Reserve(t.Context(), limits, tokens(n))
				if err != nil {
					t.Error(err)
				}
				order <- i
				defer r.Settle(tokens(n))
				time.Sleep(time.Second)
			})
			synctest.Wait() // it stands in the queue; the small one behind the large does not overtake it
		}
		if len(order) > 0 || b.Waiting() != 3 {
			t.Errorf("one was let in beside the reservation; %d wait", b.Waiting())
		}
		first.Settle(tokens(10))
		wg.Wait()
		close(order)
		got := ""
		for i := range order {
			got += fmt.Sprint(i)
		}
		if got[0] != '0' {
			t.Errorf("order %s", got)
		}
		if b.Waiting() != 0 {
			t.Errorf("%d wait", b.Waiting())
		}
		// 10+50+5+30 = 95 used; what is left is let alone, then the budget is used up.
		last := reserve(t, b, limits, 40)
		last.Settle(tokens(40))
		exceeded(t, b, limits)
	})
}

func TestBook_ReleaseGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book(t, nil)
		limits := daily("team", 100)
		r := reserve(t, b, limits, 100)
		done := make(chan struct{})
		go func() {
			defer close(done)
			reserve(t, b, limits, 100).Settle(tokens(100))
		}()
		synctest.Wait()
		r.Release()
		r.Settle(tokens(100)) // too late: it has ended
		<-done
		exceeded(t, b, limits)
	})
}

func TestBook_PeriodsEnd(t *testing.T) {
	for per, want := range map[Period]time.Duration{Hour: time.Hour, Day: 24 * time.Hour, Month: 31 * 24 * time.Hour, Ever: 0} {
		t.Run(string(per), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // begins at midnight, 1 January 2000
				start := time.Now()
				b := book(t, nil)
				limits := []Limit{{Scope: "x", Name: "x", Per: per, Tokens: 10}}
				time.Sleep(time.Minute)
				late := reserve(t, b, limits, 5)
				reserve(t, b, limits, 5).Settle(tokens(10))
				e := exceeded(t, b, limits)
				if want == 0 {
					if !e.ResetAt.IsZero() {
						t.Errorf("ever ends at %v", e.ResetAt)
					}
					time.Sleep(1000 * time.Hour)
					exceeded(t, b, limits)
					late.Release()
					return
				}
				if reset := e.ResetAt.Sub(start); reset != want {
					t.Errorf("reset after %v, want %v", reset, want)
				}
				time.Sleep(time.Until(e.ResetAt) - 1)
				exceeded(t, b, limits)
				time.Sleep(time.Nanosecond)
				reserve(t, b, limits, 5).Release()
				late.Settle(tokens(1000)) // of the period before
				reserve(t, b, limits, 5).Settle(tokens(9))
				reserve(t, b, limits, 5).Settle(tokens(1))
				exceeded(t, b, limits)
			})
		})
	}
}

// Who waits when the period ends gets its place in the next.
func TestBook_ANewPeriodEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book(t, nil)
		limits := daily("x", 10)
		old := reserve(t, b, limits, 10)
		r := reserve(t, b, limits, 10) // a day later
		if got := r.At(); !got.Equal(Day.Start(got)) {
			t.Errorf("let in at %v", got)
		}
		old.Settle(tokens(99))
		r.Settle(tokens(5))
		reserve(t, b, limits, 5).Release()
	})
}

func TestBook_AllBudgetsOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book(t, nil)
		child, parent := daily("child", 100), daily("parent", 50)
		both := append(daily("child", 100), parent...)
		reserve(t, b, both, 40).Settle(tokens(60))
		exceeded(t, b, both) // the parent's
		reserve(t, b, child, 40).Settle(tokens(40))
		exceeded(t, b, child)
	})
}

// Requests that wait in two queues in opposite orders do not wait for each other.
func TestBook_NoDeadlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book(t, nil)
		ab := append(daily("a", 1000), daily("b", 1000)...)
		ba := append(daily("b", 1000), daily("a", 1000)...)
		var wg sync.WaitGroup
		for i := range 40 {
			limits := [][]Limit{ab, ba, daily("a", 1000), daily("b", 1000)}[i%4]
			wg.Go(func() {
				r, err := b.Reserve(t.Context(), limits, tokens(400))
				if err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
				r.Settle(tokens(1))
			})
		}
		wg.Wait()
	})
}

func TestBook_WhoLeavesFreesThePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book(t, nil)
		limits := daily("x", 100)
		held := reserve(t, b, limits, 90)
		ctx, leave := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		go func() { _, err := b.Reserve(ctx, limits, tokens(100)); errs <- err }()
		synctest.Wait()
		go func() {
			r, err := b.Reserve(t.Context(), limits, tokens(10)) // fits, but came second
			r.Release()
			errs <- err
		}()
		synctest.Wait()
		leave()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v", err)
		}
		if err := <-errs; err != nil {
			t.Errorf("err = %v", err)
		}
		go func() { _, err := b.Reserve(t.Context(), limits, tokens(100)); errs <- err }()
		synctest.Wait()
		b.RejectWaiting()
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Errorf("err = %v", err)
		}
		held.Release()
	})
}

func TestBook_WarnLetsPassAndTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := ""
		b := book(t, nil, func(c *Config) {
			c.UsedUp = func(Limit) { told += "!" }
			c.Passed = func(Limit) { told += "." }
		})
		limits := []Limit{{Scope: "x", Per: Hour, Tokens: 10, Warn: true}}
		for range 3 {
			reserve(t, b, limits, 1000).Settle(tokens(10))
		}
		if told != "!.." {
			t.Errorf("told %s: once when it was used up, then for each that passed", told)
		}
		time.Sleep(time.Hour)
		reserve(t, b, limits, 1).Settle(tokens(10))
		if told != "!..!" {
			t.Errorf("told %s", told)
		}
	})
}

func TestBook_LoadsWhatWasUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loads, broken := 0, true
		b := book(t, func(scope string, since time.Time) (Amount, error) {
			time.Sleep(time.Millisecond)
			loads++
			if broken {
				return Amount{}, errors.New("no store")
			}
			if !since.Equal(Day.Start(time.Now())) {
				t.Errorf("%s loaded since %v", scope, since)
			}
			return tokens(90), nil
		}, func(c *Config) { c.MaxAccounts = 2 })
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := b.Reserve(t.Context(), daily("x", 100), tokens(1)); !errors.Is(err, ErrUnknown) {
					t.Errorf("err = %v", err)
				}
			})
		}
		wg.Wait()
		if loads != 1 {
			t.Errorf("%d loads for ten requests at once", loads)
		}
		broken = false
		reserve(t, b, daily("x", 100), 1).Settle(tokens(10))
		exceeded(t, b, daily("x", 100))
		if loads != 2 {
			t.Errorf("%d loads", loads)
		}
		held := reserve(t, b, daily("y", 100), 1)
		reserve(t, b, daily("z", 100), 1).Release() // pushes x out, y is in use
		if b.accounts["x"] != nil || b.accounts["y"] == nil {
			t.Error("the wrong one was forgotten")
		}
		held.Release()
	})
}

// Several processes on one store see each other's use within Refresh.
func TestBook_RefreshesFromASharedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var store Amount
		var mu sync.Mutex
		fresh := true
		b := book(t, func(string, time.Time) (Amount, error) { mu.Lock(); defer mu.Unlock(); return store, nil },
			func(c *Config) { c.Refresh = 5 * time.Second; c.Fresh = func() bool { return fresh } })
		limits := daily("x", 100)
		reserve(t, b, limits, 1).Settle(tokens(10))
		store = tokens(100) // ours, and 90 of another process
		reserve(t, b, limits, 1).Release()
		fresh = false // the store lacks some of our own
		time.Sleep(5 * time.Second)
		reserve(t, b, limits, 1).Release()
		synctest.Wait()
		reserve(t, b, limits, 1).Release()
		fresh = true
		reserve(t, b, limits, 1).Release() // starts the reading
		synctest.Wait()
		exceeded(t, b, limits)
		store = tokens(50)
		time.Sleep(5 * time.Second)
		exceeded(t, b, limits)
		synctest.Wait()
		reserve(t, b, limits, 1).Release()

		store = tokens(100) // by other prices, say
		b.Reread()
		reserve(t, b, limits, 1).Release()
		synctest.Wait()
		exceeded(t, b, limits)
	})
}

// What is settled while the store is read may be missing in what was read: it is counted on top.
func TestBook_CountsWhatIsSettledDuringAReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := false
		b := book(t, func(string, time.Time) (Amount, error) {
			if slow {
				time.Sleep(time.Second)
			}
			return tokens(50), nil
		})
		limits := daily("x", 100)
		held := reserve(t, b, limits, 10)
		slow = true
		b.Reread()
		reserve(t, b, limits, 1).Release() // starts the reading
		synctest.Wait()
		held.Settle(tokens(50))
		time.Sleep(2 * time.Second)
		exceeded(t, b, limits)
	})
}

// What was counted twice because of that is right after the next reading, without a Refresh too.
func TestBook_ReadsAgainAfterADoubtfulReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var store atomic.Int64
		slow, fresh := true, true
		b := book(t, func(string, time.Time) (Amount, error) {
			if slow {
				time.Sleep(time.Second)
			}
			return tokens(store.Load()), nil
		}, func(c *Config) { c.Fresh = func() bool { return fresh } })
		limits := daily("x", 100)
		held := reserve(t, b, limits, 10)
		b.Reread()
		reserve(t, b, limits, 1).Release() // starts the reading
		store.Store(60)
		held.Settle(tokens(60)) // and is in the store before that is read
		time.Sleep(2 * time.Second)
		exceeded(t, b, limits) // 120, for the moment
		time.Sleep(2 * time.Second)
		reserve(t, b, limits, 1).Release()

		// A first reading of a store that lacks something is followed by one that does not.
		slow, fresh = false, false
		other := daily("y", 100)
		reserve(t, b, other, 1).Release()
		store.Store(100)
		reserve(t, b, other, 1).Release()
		fresh = true
		reserve(t, b, other, 1).Release() // starts the reading
		synctest.Wait()
		exceeded(t, b, other)
	})
}

// A budget whose period changes is read again when a request of the old period has settled.
func TestBook_ReadsAgainAfterAChangeOfPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var store atomic.Int64
		b := book(t, func(string, time.Time) (Amount, error) { return tokens(store.Load()), nil })
		time.Sleep(36 * time.Hour) // to the second of the month
		held := reserve(t, b, daily("x", 100), 10)
		limits := []Limit{{Scope: "x", Per: Month, Tokens: 100}}
		reserve(t, b, limits, 1).Release()
		store.Store(100)
		held.Settle(tokens(100))
		reserve(t, b, limits, 1).Release() // starts the reading
		synctest.Wait()
		exceeded(t, b, limits)
	})
}

// Budgets that could not be read are forgotten like others.
func TestBook_ForgetsWhatItCouldNotRead(t *testing.T) {
	b := book(t, func(string, time.Time) (Amount, error) { return Amount{}, errors.New("down") },
		func(c *Config) { c.MaxAccounts = 10 })
	for i := range 100 {
		if _, err := b.Reserve(t.Context(), daily(fmt.Sprint(i), 100), tokens(1)); !errors.Is(err, ErrUnknown) {
			t.Fatal(err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.accounts); n > 10 || n != b.recent.Len() {
		t.Errorf("%d accounts, %d in order; want 10", n, b.recent.Len())
	}
}

func TestReservation_NilDoesNothing(t *testing.T) {
	var r *Reservation
	r.Release()
	r.Settle(tokens(1))
}

// The grains in which draws are stored add up to periods.
func TestPeriod_GrainsLieInTheirPeriod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "at"), 0)
		for per, grain := range map[Period]time.Duration{Hour: time.Hour, Day: 24 * time.Hour, Month: 24 * time.Hour, Ever: 24 * time.Hour} {
			start, from := per.Start(at), per.Grain(at)
			end := per.End(start)
			if from.Before(start) || from.After(at) || at.Sub(from) >= grain || !end.IsZero() && from.Add(grain).After(end) || !per.Start(from).Equal(start) {
				t.Fatalf("%s at %v: period %v to %v, grain %v", per, at, start, end, from)
			}
		}
	})
}

func TestPeriod_Months(t *testing.T) {
	for _, c := range [][3]string{
		{"2026-01-31T23:59:59Z", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"},
		{"2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"2028-02-29T23:59:59-02:00", "2028-03-01T00:00:00Z", "2028-04-01T00:00:00Z"},
	} {
		at, _ := time.Parse(time.RFC3339, c[0])
		start := Month.Start(at)
		if got := start.Format(time.RFC3339); got != c[1] || Month.End(start).Format(time.RFC3339) != c[2] {
			t.Errorf("%s lies in %s to %s", c[0], got, Month.End(start))
		}
	}
}
