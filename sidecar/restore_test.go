package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// lives is one ledger and one key at one provider, on which the sidecar starts
// again and again.
type lives struct {
	t      *testing.T
	config *config.Config
	store  *ledger.Store
	sim    *provider.Server
	up     *provider.Pipe
	close  func()
}

func newLives(t *testing.T, settings ...string) *lives {
	t.Helper()
	config, err := configOf(append([]string{
		"OPENAI_API_KEY", "sk-1", "OPENAI_BASE_URL", "http://provider/v1", "LEARN_LIMITS", "false", "DISCONNECT_POLICY", "cancel", "SHUTDOWN_GRACE", "1s",
	}, settings...)...)
	if err != nil {
		t.Fatal(err)
	}
	store, err := openLedger(t.Context(), config, quiet)
	if err != nil {
		t.Fatal(err)
	}
	l := &lives{t: t, config: config, store: store, up: provider.NewPipe()}
	l.sim = provider.New(provider.Config{Account: provider.AccountConfig{RPM: 60, TPM: 100_000}, TTFT: 200 * time.Millisecond})
	stopSim := l.sim.Serve(l.up)
	l.close = func() {
		if err := errors.Join(stopSim(), store.Close(context.Background())); err != nil {
			t.Error(err)
		}
	}
	return l
}

// live is one life: use has a sidecar that is gone afterwards, with everything
// it had not put into the ledger.
func (l *lives) live(restored bool, use func(b *sidecartest.Bubble)) {
	l.t.Helper()
	over := make(chan struct{})
	b := sidecartest.Wiring{
		Up: l.up, Down: provider.NewPipe(),
		Provider: func(net.Listener) func() error { return func() error { return nil } }, // it outlives them
		Sidecar: func(client *upstream.Client) (func(context.Context, net.Listener) error, func() error) {
			s := newServer(dependencies{Config: l.config, Logger: quiet, Ledger: l.store, Upstream: client})
			if restored {
				s.restore(l.t.Context())
			}
			return func(ctx context.Context, down net.Listener) error { defer close(over); return s.serve(ctx, down, nil) },
				func() error { s.limits.Close(); return nil }
		},
	}.Start(l.t)
	use(b)
	b.Cancel()
	<-over // while the clients' connections are still open
	b.Stop()
}

// crashLoop lets 30 clients call at once in each of n short lives, and returns
// what the provider counted. Each life begins with a cold start's tenth of the
// limit, if nothing tells it what was used before.
func crashLoop(t *testing.T, n int, life time.Duration, restored bool) provider.Totals {
	t.Helper()
	l := newLives(t, "RATE_LIMIT_PER_MIN", "60", "TOKEN_LIMIT_PER_MIN", "100000")
	for range n {
		l.live(restored, func(b *sidecartest.Bubble) {
			calling, hangUp := context.WithCancel(t.Context())
			var calls sync.WaitGroup
			for i := range 30 {
				calls.Go(func() { _, _, _, _ = b.Ask(calling, fmt.Sprint("s", i), sidecartest.Chat) })
			}
			<-time.After(life)
			hangUp()
			calls.Wait()
		})
	}
	l.close()
	return l.sim.Totals()
}

func TestRestore_ACrashLoopKeepsWithinTheLimit(t *testing.T) {
	for _, life := range []time.Duration{2 * time.Second, 5 * time.Second, 15 * time.Second} {
		t.Run(life.String(), func(t *testing.T) {
			n := int(5 * time.Minute / life)
			synctest.Test(t, func(t *testing.T) {
				got := crashLoop(t, n, life, true)
				t.Logf("%d lives: %d requests, %d of them throttled", n, got.Requests, got.Throttled)
				least := int64(60)
				if life <= 2*time.Second {
					least = 30 // two seconds of the limit stay for newcomers: so short a life has little more
				}
				if got.Throttled != 0 || got.Accepted < least {
					t.Errorf("%d of %d requests met a 429", got.Throttled, got.Requests)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				// The same without what the ledger remembers: or the test would show nothing.
				if got := crashLoop(t, n, life, false); got.Throttled == 0 {
					t.Errorf("%d lives that remember nothing were never throttled in %d requests", n, got.Requests)
				}
			})
		})
	}
}

func TestRestore_TheDayIsNotForgotten(t *testing.T) {
	file := sidecartest.WriteFile(t, "limits.yaml", "limits: [{model: gpt-4o, requests_per_minute: 5, requests_per_day: 5}]")
	synctest.Test(t, func(t *testing.T) {
		l := newLives(t, "CONFIG_FILE", file)
		defer l.close()
		ask := func(b *sidecartest.Bubble, want int, code string) {
			if status, _, text, err := b.Ask(t.Context(), "s", sidecartest.Chat); err != nil || status != want || !strings.Contains(text, code) {
				t.Errorf("%d %v %s, want %d %s", status, err, text, want, code)
			}
		}
		for range 2 {
			l.live(true, func(b *sidecartest.Bubble) { ask(b, 200, ""); ask(b, 200, "") })
		}
		l.live(true, func(b *sidecartest.Bubble) {
			ask(b, 200, "")
			ask(b, 503, "daily_limit")
		})
		<-time.After(26 * time.Hour)
		l.live(true, func(b *sidecartest.Bubble) { ask(b, 200, "") })
	})
}
