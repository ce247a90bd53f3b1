package limit

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A windowed provider counts requests by fixed windows, and tells what is left
// of the window and for how long.
type windowed struct {
	limit  int64
	window time.Duration
	named  bool // its headers name the window

	mu    sync.Mutex
	began time.Time
	used  int64
}

func (c *windowed) ask() (s llm.Signal, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if began := now.Truncate(c.window); !began.Equal(c.began) {
		c.began, c.used = began, 0
	}
	if ok = c.used < c.limit; ok {
		c.used++
	}
	left := c.began.Add(c.window).Sub(now)
	reset := (left + time.Second - 1).Truncate(time.Second) // whole seconds, as headers have it
	s.Levels[llm.Requests] = llm.Level{Limit: c.limit, Remaining: c.limit - c.used, Reset: reset, HasLimit: true, HasRemaining: true, HasReset: true}
	if c.named {
		s.Levels[llm.Requests].Period = c.window
	}
	return s, ok
}

// burst sends n requests at once through a limiter, and returns how long they took and
// how many 429s they met. A round trip takes 100 ms.
func (c *windowed) burst(t *testing.T, l *Limiter, n int) (took time.Duration, refused int64) {
	t.Helper()
	var all sync.WaitGroup
	var refusals atomic.Int64
	began := time.Now()
	for range n {
		all.Go(func() {
			le, err := l.Acquire(t.Context(), request("a"))
			if err != nil {
				t.Error(err)
				return
			}
			defer le.Release()
			for {
				le.Sent()
				<-time.After(50 * time.Millisecond)
				s, ok := c.ask()
				<-time.After(50 * time.Millisecond)
				if ok {
					le.Observe(s)
					le.Started()
					return
				}
				refusals.Add(1)
				if err := le.Throttled(t.Context(), s); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return time.Since(began), refusals.Load()
}

func TestPace_TheResetSaysThePeriod(t *testing.T) {
	for _, tt := range []struct {
		name   string
		c      *windowed
		n      int
		most   time.Duration
		minute float64 // limit that is learned
	}{
		{"ten a second", &windowed{limit: 10, window: time.Second}, 80, 14 * time.Second, 600},
		{"ten a second, said by name", &windowed{limit: 10, window: time.Second, named: true}, 80, 11 * time.Second, 600},
		{"fifty in ten seconds", &windowed{limit: 50, window: 10 * time.Second}, 400, 110 * time.Second, 300},
		{"sixty a minute", &windowed{limit: 60, window: time.Minute}, 150, 180 * time.Second, 60},
		{"two thousand a minute", &windowed{limit: 2000, window: time.Minute}, 500, 100 * time.Second, 2000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(Config{Learn: true, Global: Limits{RequestsPerMinute: 60}, Provisional: true, MaxWait: 10 * time.Minute, MaxAttempts: 1000})
				defer l.Close()
				time.Sleep(37 * time.Second) // windows are not ours
				tt.c.burst(t, l, 1)
				took, refused := tt.c.burst(t, l, tt.n)
				var learned int64
				for _, g := range l.Snapshot().Groups {
					for _, m := range g.Meters {
						if m.Name == llm.Requests.String() && m.Learned {
							learned = m.Limit
						}
					}
				}
				t.Logf("%d in %v, %d refused, %d a minute learned", tt.n, took, refused, learned)
				if took > tt.most || refused > int64(tt.n/20+3) || learned != int64(tt.minute) {
					t.Errorf("%d in %v (at most %v), %d refused, %d a minute learned, want %v", tt.n, took, tt.most, refused, learned, tt.minute)
				}
			})
		})
	}
}
