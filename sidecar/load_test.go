package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// A bubble is this sidecar between two networks, for tests in virtual time.
type bubble struct {
	*sidecartest.Bubble
	sim    *provider.Server
	server *server
}

func newBubble(t *testing.T, cfg provider.Config, settings ...string) *bubble {
	t.Helper()
	sim := provider.New(cfg)
	b := newBubbleOver(t, sim.Serve, settings...)
	b.sim = sim
	return b
}

// newBubbleOver is newBubble with another provider, which serve starts.
func newBubbleOver(t *testing.T, serve func(net.Listener) (stop func() error), settings ...string) *bubble {
	t.Helper()
	return newBubbleOn(t, provider.NewPipe(), provider.NewPipe(), serve, settings...)
}

// newBubbleOn is newBubbleOver on networks of one's choice: up leads to the provider, down to the sidecar.
func newBubbleOn(t *testing.T, up, down sidecartest.Network, serve func(net.Listener) (stop func() error), settings ...string) *bubble {
	t.Helper()
	return newBubbleWired(t, sidecartest.Wiring{Up: up, Down: down, Provider: serve}, settings...)
}

// newBubbleWired makes a bubble of everything but its sidecar.
func newBubbleWired(t *testing.T, wiring sidecartest.Wiring, settings ...string) *bubble {
	t.Helper()
	b := &bubble{}
	wiring.Sidecar = func(client *upstream.Client) (func(context.Context, net.Listener) error, func() error) {
		cfg, err := configOf(append([]string{"OPENAI_API_KEY", "sk-1", "OPENAI_BASE_URL", "http://provider/v1"}, settings...)...)
		if err != nil {
			t.Fatal(err)
		}
		store, err := openLedger(t.Context(), cfg, quiet)
		if err != nil {
			t.Fatal(err)
		}
		b.server = newServer(dependencies{Config: cfg, Logger: quiet, Ledger: store, Upstream: client})
		return func(ctx context.Context, l net.Listener) error { return b.server.serve(ctx, l, nil) }, b.server.close
	}
	b.Bubble = wiring.Start(t)
	return b
}

func TestLoad_IdleQueueAddsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, provider.Config{Account: provider.AccountConfig{RPM: 60, TPM: 100_000}}, "RATE_LIMIT_PER_MIN", "60")
		defer b.Stop()
		for i := range 3 {
			if status, waited, text, err := b.Ask(t.Context(), "s", sidecartest.Chat); err != nil || status != 200 || waited > time.Millisecond {
				t.Errorf("call %d: %d after %v, %v %s", i+1, status, waited, err, text)
			}
		}
	})
}

func TestLoad_TwoHundredCallsAtSixtyAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, provider.Config{Account: provider.AccountConfig{RPM: 60}}, "RATE_LIMIT_PER_MIN", "60")
		defer b.Stop()
		var calls sync.WaitGroup
		var answered atomic.Int64
		for i := range 200 {
			calls.Go(func() {
				if status, _, text, err := b.Ask(t.Context(), fmt.Sprint("s", i%7), sidecartest.Chat); err == nil && status == 200 {
					answered.Add(1)
				} else {
					t.Errorf("call %d: %d %v %s", i, status, err, text)
				}
			})
		}
		calls.Wait()
		if got := b.sim.Totals(); got.Throttled != 0 || answered.Load() != 200 {
			t.Errorf("%d answered, the provider's ledger says %+v", answered.Load(), got)
		}
	})
}

// TestLoad_KeepsTheLimitFull offers 1.3 times what the provider allows, from 40
// sessions, for ten minutes of virtual time.
func TestLoad_KeepsTheLimitFull(t *testing.T) {
	const rpm, tpm = 600, 300_000
	length, warmUp := 10*time.Minute, 2*time.Minute
	if testing.Short() {
		length, warmUp = 4*time.Minute, 2*time.Minute
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, provider.Config{
			Account: provider.AccountConfig{RPM: rpm, TPM: tpm}, TTFT: 300 * time.Millisecond, TokenInterval: 10 * time.Millisecond, Jitter: 0.5, Seed: 3,
		}, "RATE_LIMIT_PER_MIN", fmt.Sprint(rpm), "TOKEN_LIMIT_PER_MIN", fmt.Sprint(tpm))
		defer b.Stop()
		r := b.overload(t, 1.3*rpm, length, warmUp)
		used := r.accepted / rpm
		t.Logf("%d attempts, %d upstream 429s (%.2f %%), %.1f %% of the limit used after warm-up", r.attempts, r.throttled, 100*r.share, 100*used)
		if r.client429 != 0 || r.failed != 0 {
			t.Errorf("clients saw %d 429s and %d failures", r.client429, r.failed)
		}
		if r.share > 0.005 || used < 0.90 {
			t.Errorf("%.2f %% upstream 429s (want <= 0.5), %.1f %% used (want >= 90)", 100*r.share, 100*used)
		}
	})
}

// TestLoad_EveryAnswerHasItsRow sends 500 requests a second, as they come and not
// as they are answered, at a sidecar that keeps its ledger in SQLite.
func TestLoad_EveryAnswerHasItsRow(t *testing.T) {
	const rate = 500
	requests := 3 * rate
	if testing.Short() {
		requests = rate / 2
	}
	sim, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, sidecartest.SQLite(t)...)
	transport := &http.Transport{MaxIdleConnsPerHost: 512}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var complete atomic.Int64
	var calls sync.WaitGroup
	pace := time.NewTicker(time.Second / rate)
	defer pace.Stop()
	for i := range requests {
		<-pace.C
		body := sidecartest.Chat
		if i%2 == 1 {
			body = sidecartest.ChatStream
		}
		calls.Go(func() {
			resp, err := client.Post(s.URL+fmt.Sprintf("/v1/session/s%d/chat/completions", i%20), "application/json", strings.NewReader(body))
			if err != nil {
				return
			}
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode == 200 {
				complete.Add(1)
			}
		})
	}
	calls.Wait()
	var booked, completion int64
	for _, session := range s.Status() {
		booked += session.RequestCount
		completion += session.CompletionTokens
	}
	if complete.Load() != int64(requests) || booked != complete.Load() {
		t.Errorf("%d sent, %d complete answers, %d booked", requests, complete.Load(), booked)
	}
	if got := sim.Totals(); got.CompletionTokens != completion {
		t.Errorf("%d completion tokens booked, the provider billed %d", completion, got.CompletionTokens)
	}
}

// TestLoad_DownIsWaitedFor has a provider that cannot be reached for three
// minutes: more attempts than a refusing one would get.
func TestLoad_DownIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, provider.Config{}, "UPSTREAM_PATIENCE", "4m")
		defer b.Stop()
		b.Down.Store(true)
		time.AfterFunc(3*time.Minute, func() { b.Down.Store(false) })
		status, waited, text, err := b.Ask(t.Context(), "s", sidecartest.Chat)
		if err != nil || status != 200 || waited < 3*time.Minute || waited > 3*time.Minute+10*time.Second {
			t.Errorf("%d after %v, %v %s", status, waited, err, text)
		}
		if entries := b.sim.Ledger(); len(entries) != 1 {
			t.Errorf("%d requests reached the provider", len(entries))
		}
	})
}
