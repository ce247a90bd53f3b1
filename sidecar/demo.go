package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// The demo's provider allows ten requests a second, and six seconds' worth at
// once; its swarm asks for three times as many as that.
const (
	demoAgents   = 10
	demoRequests = 18 // of each agent
	demoParallel = 3  // of each agent at a time
	demoRPM      = 600
	demoTPM      = 300_000
	demoBurst    = 6 * time.Second
	demoRetries  = 2 // as the OpenAI SDKs do
)

// A swarmResult is what a swarm has seen.
type swarmResult struct {
	took      time.Duration
	done      atomic.Int64 // requests that ended, well or not
	succeeded atomic.Int64
	throttled atomic.Int64 // 429s that reached an agent
	mu        sync.Mutex
	waits     map[string][]time.Duration // of the answered requests, by agent: time until the first byte
	tokens    map[string]int64           // as the agents' own answers said, by agent
}

// runDemo runs one agent swarm twice: straight at a simulated provider, then
// through a sidecar in front of an equal one.
func runDemo(ctx context.Context, stdout io.Writer) error {
	live := terminal(stdout)
	fmt.Fprintf(stdout, "A simulated provider allows %d requests and %d tokens a minute (bursts of %s).\n", demoRPM, demoTPM, demoBurst)
	fmt.Fprintf(stdout, "%d agents share its key; each sends %d requests, %d at a time.\n\n", demoAgents, demoRequests, demoParallel)

	straight := provider.New(demoProvider())
	base, stop, err := straight.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	direct := swarm(ctx, stdout, live, "straight at the provider", func(string) string { return base })
	if err := stop(); err != nil {
		return err
	}

	behind := provider.New(demoProvider())
	base, stop, err = behind.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	s, address, stopSidecar, err := demoSidecar(ctx, base)
	if err != nil {
		return err
	}
	queued := swarm(ctx, stdout, live, "through the sidecar", func(agent string) string {
		return "http://" + address + "/v1/session/" + agent
	})
	booked := map[string]int64{}
	for session, err := range s.ledger.Status(ctx) {
		if err != nil {
			return err
		}
		booked[session.ID] = session.Usage.Total()
	}
	if err := stopSidecar(); err != nil {
		return err
	}
	if err := stop(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return printDemo(stdout, direct, queued, straight.Totals(), behind.Totals(), booked)
}

func demoProvider() provider.Config {
	return provider.Config{
		Account: provider.AccountConfig{RPM: demoRPM, TPM: demoTPM, Burst: demoBurst},
		TTFT:    120 * time.Millisecond, TokenInterval: 2 * time.Millisecond, Jitter: 0.3, Seed: 1,
	}
}

// demoSidecar starts the real program in this process, in front of base.
func demoSidecar(ctx context.Context, base string) (s *server, address string, stop func() error, err error) {
	env := map[string]string{
		"OPENAI_API_KEY": "demo", "OPENAI_BASE_URL": base, "PORT": "0",
		"RATE_LIMIT_PER_MIN": strconv.Itoa(demoRPM), "SHUTDOWN_GRACE": "2s",
	}
	cfg, err := config.Load(nil, func(name string) string { return env[name] })
	if err != nil {
		return nil, "", nil, err
	}
	return inProcess(ctx, cfg)
}

// inProcess serves cfg on its own listener, without a log, until stop.
func inProcess(ctx context.Context, cfg *config.Config) (s *server, address string, stop func() error, err error) {
	if s, err = build(ctx, cfg, slog.New(slog.DiscardHandler), new(slog.LevelVar)); err != nil {
		return nil, "", nil, err
	}
	listener, err := net.Listen("tcp", cfg.ListenAddr)
	if err != nil {
		return nil, "", nil, err
	}
	serving, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- s.serve(serving, listener, nil) }()
	return s, listener.Addr().String(), func() error {
		cancel()
		if err := <-served; err != nil {
			return err
		}
		return s.close()
	}, nil
}

// swarm lets every agent send its requests, and shows how it goes.
func swarm(ctx context.Context, stdout io.Writer, live bool, title string, baseURL func(agent string) string) *swarmResult {
	result := &swarmResult{waits: map[string][]time.Duration{}, tokens: map[string]int64{}}
	transport := &http.Transport{MaxIdleConnsPerHost: demoAgents * demoParallel}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	started := time.Now()
	var agents sync.WaitGroup
	for a := range demoAgents {
		name := fmt.Sprintf("agent-%02d", a+1)
		var next atomic.Int64
		for range demoParallel {
			agents.Go(func() {
				for n := next.Add(1); n <= demoRequests && ctx.Err() == nil; n = next.Add(1) {
					result.ask(ctx, client, baseURL(name), name, int(n))
				}
			})
		}
	}
	finished := make(chan struct{})
	go func() { agents.Wait(); close(finished) }()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for running := true; running; {
		select {
		case <-finished:
			running = false
		case <-ticker.C:
		}
		end := "\n"
		if live && running {
			end = "\r"
		}
		fmt.Fprintf(stdout, "%-25s %3.0f s: %3d of %d requests done, %3d answered, %3d 429s seen%s", title, time.Since(started).Seconds(),
			result.done.Load(), demoAgents*demoRequests, result.succeeded.Load(), result.throttled.Load(), end)
	}
	result.took = time.Since(started)
	return result
}

// ask sends one request the way the OpenAI SDKs do: two retries after a 429,
// as late as the answer says, or after half a second and twice that.
func (r *swarmResult) ask(ctx context.Context, client *http.Client, baseURL, agent string, n int) {
	defer r.done.Add(1)
	body := fmt.Sprintf(`{"model":"gpt-4o-mini","max_tokens":%d,"messages":[{"role":"user","content":"%s, step %d: say %d words about %s"}]}`,
		120, agent, n, 20+(n*7)%50, strings.Repeat("queues and limits ", 1+n%5))
	started := time.Now()
	for try := range demoRetries + 1 {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, baseURL+"/chat/completions", bytes.NewReader([]byte(body)))
		if err != nil {
			return
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return
		}
		waited := time.Since(started)
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case err != nil:
			return
		case resp.StatusCode == http.StatusOK:
			r.answered(agent, waited, answer)
			return
		case resp.StatusCode != http.StatusTooManyRequests:
			return
		}
		r.throttled.Add(1)
		pause := 500 * time.Millisecond << try
		if ms, err := strconv.ParseFloat(resp.Header.Get("Retry-After-Ms"), 64); err == nil {
			pause = time.Duration(ms * float64(time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause - rand.N(pause/4+1)):
		}
	}
}

func (r *swarmResult) answered(agent string, waited time.Duration, answer []byte) {
	var parsed struct {
		Usage struct {
			Total int64 `json:"total_tokens"`
		} `json:"usage"`
	}
	_ = json.Unmarshal(answer, &parsed) // an answer without usage counts none
	r.succeeded.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits[agent] = append(r.waits[agent], waited)
	r.tokens[agent] += parsed.Usage.Total
}

// allWaits are the waits of every agent, sorted.
func (r *swarmResult) allWaits() []time.Duration {
	var all []time.Duration
	for _, waits := range r.waits {
		all = append(all, waits...)
	}
	slices.Sort(all)
	return all
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))]
}

func printDemo(stdout io.Writer, direct, queued *swarmResult, straight, behind provider.Totals, booked map[string]int64) error {
	const total = demoAgents * demoRequests
	out := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	row := func(name string, a, b any) { fmt.Fprintf(out, "%s\t%v\t%v\t\n", name, a, b) }
	share := func(n int64) string { return fmt.Sprintf("%d (%.0f %%)", n, 100*float64(n)/total) }
	used := func(accepted int64, took time.Duration) string {
		return fmt.Sprintf("%.0f %%", 100*float64(accepted)/(demoRPM*(took+demoBurst).Minutes()))
	}
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
	fmt.Fprintln(stdout)
	row("", "straight", "sidecar")
	row("requests", total, total)
	row("answered", share(direct.succeeded.Load()), share(queued.succeeded.Load()))
	row("429s seen by agents", direct.throttled.Load(), queued.throttled.Load())
	row("429s from the provider", straight.Throttled, behind.Throttled)
	row("took", seconds(direct.took), seconds(queued.took))
	row("limit used", used(straight.Accepted, direct.took), used(behind.Accepted, queued.took))
	a, b := direct.allWaits(), queued.allWaits()
	row("wait for the answer, median", seconds(quantile(a, 0.5)), seconds(quantile(b, 0.5)))
	row("wait for the answer, longest", seconds(quantile(a, 1)), seconds(quantile(b, 1)))
	if err := out.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(stdout)
	row("session", "median wait", "tokens booked")
	for agent := range demoAgents {
		name := fmt.Sprintf("agent-%02d", agent+1)
		waits := slices.Sorted(slices.Values(queued.waits[name]))
		note := fmt.Sprint(booked[name])
		if booked[name] != queued.tokens[name] {
			note += fmt.Sprintf(" (its answers say %d)", queued.tokens[name])
		}
		row(name, seconds(quantile(waits, 0.5)), note)
	}
	return out.Flush()
}
