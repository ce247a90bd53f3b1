package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// TestHalfOpen_AnOutageMeetsNoHerd has 500 clients come while nobody listens at
// the provider's address: the sidecar knocks now and then, and all are served
// soon after it is back.
func TestHalfOpen_AnOutageMeetsNoHerd(t *testing.T) {
	for name, warm := range map[string]bool{"of a provider that answered before": true, "from the start": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const clients, lasts = 500, 30 * time.Second
				patience := "" // a minute, with one that has answered
				if !warm {
					patience = "60s"
				}
				b := newBubble(t, provider.Config{TTFT: 300 * time.Millisecond, TokenInterval: 20 * time.Millisecond}, "RATE_LIMIT_PER_MIN", "0", "UPSTREAM_PATIENCE", patience)
				defer b.Stop()
				if warm {
					if status, _, _, err := b.Ask(t.Context(), "s", sidecartest.Chat); err != nil || status != 200 {
						t.Fatal(status, err)
					}
					<-time.After(5 * time.Minute) // until its connection is closed for idleness
				}
				b.Down.Store(true)
				begun := time.Now()
				time.AfterFunc(lasts, func() { b.Down.Store(false) })
				halfOpen := func() (open bool) {
					var status admin.QueueStatus
					resp, err := b.Client.Get("http://127.0.0.1/queue/status")
					if err == nil {
						err = errors.Join(json.NewDecoder(resp.Body).Decode(&status), resp.Body.Close())
					}
					if err != nil {
						t.Error(err)
					}
					for _, g := range status.Groups {
						open = open || g.HalfOpen && strings.Contains(stateOf(g), "half-open")
					}
					return open
				}
				time.AfterFunc(lasts/2, func() {
					if !halfOpen() {
						t.Error("the queue's status does not say that the provider is only probed")
					}
				})
				var calls sync.WaitGroup
				for i := range clients {
					calls.Go(func() {
						<-time.After(time.Duration(i) * 10 * time.Millisecond)
						if status, _, text, err := b.Ask(t.Context(), fmt.Sprint(i), sidecartest.Chat); err != nil || status != 200 {
							t.Errorf("client %d: %d %s %v", i, status, text, err)
						}
					})
				}
				calls.Wait()
				after := time.Since(begun) - lasts
				t.Logf("%d connections were tried in 30 s; all had their answers %v after it", b.Dials.Load(), after)
				if b.Dials.Load() > 40 {
					t.Errorf("%d connections were tried", b.Dials.Load())
				}
				if after > 20*time.Second {
					t.Errorf("all had their answers %v after the outage", after)
				}
				if halfOpen() {
					t.Error("the queue's status still says half-open")
				}
			})
		})
	}
}

// TestHalfOpen_HTTP2RefusalsGoThroughTheQueue has a provider on HTTP/2 take a
// request and say that it has not processed it: the client sees only the answer
// of the second attempt, and all books tell of one request.
func TestHalfOpen_HTTP2RefusalsGoThroughTheQueue(t *testing.T) {
	for name, deed := range map[string]provider.Deed{"GOAWAY": provider.GoAway, "REFUSED_STREAM": provider.RefuseStream} {
		for _, body := range []string{sidecartest.Chat, sidecartest.ChatStream} {
			sim, base := provider.Start(t, provider.Config{})
			fault, err := provider.NewFaultProxy(strings.TrimSuffix(strings.TrimPrefix(base, "http://"), "/v1"))
			if err != nil {
				t.Fatal(err)
			}
			fault.Script(provider.Damage{Deed: deed})
			transport := upstream.NewTransport()
			transport.Protocols = new(http.Protocols)
			transport.Protocols.SetUnencryptedHTTP2(true)
			address, err := url.Parse("http://" + fault.Addr() + "/v1")
			if err != nil {
				t.Fatal(err)
			}
			env := map[string]string{"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": address.String(), "RATE_LIMIT_PER_MIN": "60"}
			config, err := config.Load(nil, func(name string) string { return env[name] })
			if err != nil {
				t.Fatal(err)
			}
			logger := slog.New(slog.DiscardHandler)
			store, err := openLedger(t.Context(), config, logger)
			if err != nil {
				t.Fatal(err)
			}
			s := newServer(dependencies{
				Config: config, Logger: logger, Ledger: store,
				Upstream: upstream.New(upstream.Config{Base: address, Key: func() string { return "sk-1" }, Transport: transport}),
			})
			server := httptest.NewServer(s.handlerFor(httpapi.MainListener))

			a := sidecartest.Send(t, "POST", server.URL+"/v1/session/s/chat/completions", body)
			if a.StatusCode != 200 || !strings.Contains(a.Body, "chat.completion") {
				t.Errorf("%s: %d %s", name, a.StatusCode, a.Body)
			}
			if n := len(sim.Ledger()); n != 1 {
				t.Errorf("%s: the provider served %d requests", name, n)
			}
			metrics := sidecartest.Send(t, "GET", server.URL+"/metrics", "").Body
			for _, line := range []string{`attempts_repeated_total{reason="not_sent"} 1`, `in_flight 0`, `queue_depth 0`} {
				if !strings.Contains(metrics, "llm_queue_proxy_"+line+"\n") {
					t.Errorf("%s: no %q in the metrics", name, line)
				}
			}
			side := sidecartest.At(t, server.URL)
			if rows := side.Rows("s"); len(rows) != 1 || rows[0].Attempts != 1 || rows[0].UsageSource != "exact" {
				t.Errorf("%s: rows %+v", name, rows)
			}
			snapshot := s.limits.Snapshot()
			if used := snapshot.Granted; used != 2 || s.limits.InFlight() != 0 {
				t.Errorf("%s: %d places granted, %d in flight", name, used, s.limits.InFlight())
			}
			http.DefaultClient.CloseIdleConnections()
			server.Close()
			if err := s.close(); err != nil {
				t.Error(err)
			}
			transport.CloseIdleConnections()
			if err := fault.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
