package proxy

import (
	"encoding/json"
	"hash/maphash"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

func TestLimitRequest_SaysWhatTheFileAndTheHintsAllow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // or time would pass between the deadline and the queue
		p := &Proxy{seed: maphash.MakeSeed()}
		cfg := &config.Config{QueueMaxWait: 4 * time.Minute, File: config.File{
			Clients:  map[string]config.ClientRule{"web": {Weight: 4, Priority: "normal"}, "vip": {Weight: 1, Priority: "high"}},
			Sessions: []config.SessionRule{{Match: "agent-*", Weight: 2}},
		}}
		request := func(client string, who session.Identity, headers ...string) limit.Request {
			r := &http.Request{Header: http.Header{}}
			for i := 0; i+1 < len(headers); i += 2 {
				r.Header.Set(headers[i], headers[i+1])
			}
			x := &exchange{p: p, req: request{cfg: cfg, r: r, who: who, client: client, endpoint: wire.Chat, decoded: decoded(t)}}
			x.req.await()
			return p.limitRequest(x)
		}
		if d := request("web", session.Identity{}); d.MaxWait != 4*time.Minute || d.Timeout != 0 {
			t.Errorf("without a hint it waits %v, and %v for its answer", d.MaxWait, d.Timeout)
		}
		if d := request("web", session.Identity{MaxWait: time.Hour}); d.MaxWait != 4*time.Minute {
			t.Errorf("a hint beyond QUEUE_MAX_WAIT gives %v", d.MaxWait)
		}
		got := request("web", session.Identity{Session: "agent-7", Priority: "high"})
		if got.ClientWeight != 4 || got.Weight != 2 || got.Priority != limit.Normal || got.Model != "gpt-4o" {
			t.Errorf("got %+v", got)
		}
		if p := request("web", session.Identity{Priority: "low"}).Priority; p != limit.Low {
			t.Errorf("a client may lower its priority, got %v", p)
		}
		if p := request("vip", session.Identity{}).Priority; p != limit.High {
			t.Errorf("the file grants high, got %v", p)
		}
		if w := request("web", session.Identity{Session: "agent-7", Weight: 9}).Weight; w != 9 {
			t.Errorf("a hint goes before the rule, got %v", w)
		}
		hinted := request("web", session.Identity{MaxWait: 7 * time.Second}, "X-Stainless-Timeout", "600", "X-Stainless-Read-Timeout", "60", "X-Stainless-Retry-Count", "1")
		if hinted.MaxWait != 7*time.Second || hinted.Timeout != time.Minute || hinted.RetryCount != 1 || hinted.RetryKey == 0 {
			t.Errorf("got %+v", hinted)
		}
	})
}

// TestLimitRequest_GrantsNoMoreThanTheFile asks for a hundred times the weight, and
// for a priority that was not granted.
func TestLimitRequest_GrantsNoMoreThanTheFile(t *testing.T) {
	p := &Proxy{seed: maphash.MakeSeed()}
	r := &http.Request{Header: http.Header{}, RemoteAddr: "x"}
	cfg := &config.Config{File: config.File{Clients: map[string]config.ClientRule{"web": {Weight: 4, Priority: "normal"}}}}
	for _, client := range []string{"web", "stranger"} {
		got := p.limitRequest(&exchange{p: p, req: request{cfg: cfg, r: r, client: client, decoded: decoded(t), who: session.Identity{Session: "s", Weight: 100, Priority: "high"}}})
		if want := map[string]float64{"web": 4}[client]; got.ClientWeight != want || got.Priority != limit.Normal || got.Weight != 100 {
			t.Errorf("%s: %+v", client, got)
		}
	}
}

// FuzzNames takes any name and header that a client may send.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{"gpt-4o", "a\nb", "\xff", "é", strings.Repeat("x", 300), "\u2028", "1e9", "-1", "NaN"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name := ledger.CleanName(text)
		if len(name) > 128 || !utf8.ValidString(name) || strings.ContainsAny(name, "\n\r\x00\x1b\u2028\u2029\x7f") {
			t.Errorf("%q is kept as %q", text, name)
		}
		if _, err := json.Marshal(name); err != nil {
			t.Error(err)
		}
		if d := patience(http.Header{"X-Stainless-Timeout": {text}}); d < 0 || d > 1e6*time.Second {
			t.Errorf("%q: %v", text, d)
		}
	})
}

func TestRepeats_AreAShareOfTheTraffic(t *testing.T) {
	var b repeatBudget
	now := time.Now()
	spend := func(tries int) (got int) {
		for range tries {
			if b.spend(now) {
				got++
			}
		}
		return got
	}
	if got := spend(1000); got != repeatsSaved {
		t.Errorf("%d at once, want %d", got, repeatsSaved)
	}
	now = now.Add(2 * time.Second)
	if got := spend(1000); got != 2*repeatPerSecond {
		t.Errorf("%d after two seconds, want %v", got, 2*repeatPerSecond)
	}
	for range 200 {
		b.earn()
	}
	if got := spend(1000); got < 39 || got > 40 {
		t.Errorf("%d for 200 requests, want a fifth", got)
	}
}
