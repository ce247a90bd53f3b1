package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

func TestProxy_BytesGoUpAndComeDownAsTheyAre(t *testing.T) {
	odd := `{ "temperature":0.70, "vendor":{"a":1e0,"a":2},"model" : "gpt-4o", "messages":[{"content":null,"x":"\u005f"}], "seed":12345678901234567890123 }` + "\n\n"
	reply := `{"id" : "x","error":null, "choices":[ ],"usage":{"prompt_tokens":1e0,"completion_tokens":2,"total_tokens":3}, "float":0.10}` + "\r\n"
	var up string
	var headers http.Header
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		up, headers = string(body), r.Header
		w.Header()["X-Vendor"] = []string{"a", "b"}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("X-Should-Retry", "true")
		w.Header().Set("X-Echo", "Bearer sk-upstream-canary")
		_, _ = io.WriteString(w, reply)
	})
	s := start(t, base)
	a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s1/chat/completions?api-version=1&x=%20", odd,
		"Authorization", "Bearer client-key", "X-Vendor-In", "1", "X-Session-Id", "ignored", "X-Queue-Timeout", "10s")
	if up != odd {
		t.Errorf("up went %q", up)
	}
	if a.Body != reply {
		t.Errorf("down came %q", a.Body)
	}
	if headers.Get("Authorization") != "Bearer sk-upstream-canary" || headers.Get("X-Vendor-In") != "1" || headers.Get("X-Session-Id") != "" || headers.Get("X-Queue-Timeout") != "" {
		t.Errorf("headers up: %v", headers)
	}
	if got := a.Header; fmt.Sprint(got["X-Vendor"]) != "[a b]" || got.Get("Content-Type") != "application/json; charset=utf-8" ||
		got.Get("X-Should-Retry") != "" || got.Get("X-Echo") != "" || got.Get("X-Queue-Wait-Ms") == "" || got.Get("X-Request-Id") == "" ||
		!strings.HasPrefix(got.Get("Server-Timing"), "queue;dur=") {
		t.Errorf("headers down: %v", got)
	}
	if got := s.Status()["s1"]; got != totals("s1", 1, 2, 1) {
		t.Errorf("booked %+v", got)
	}
}

func TestProxy_EverythingElsePasses(t *testing.T) {
	sim, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base)
	t.Run("models", func(t *testing.T) {
		if a := sidecartest.Send(t, "GET", s.URL+"/v1/models?x=1", ""); a.StatusCode != 200 || !strings.Contains(a.Body, `"list"`) {
			t.Errorf("%d %s", a.StatusCode, a.Body)
		}
	})
	t.Run("multipart", func(t *testing.T) {
		body := "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n\x00\xff\x01\r\n--b--\r\n"
		a := sidecartest.Send(t, "POST", s.URL+"/v1/session/audio/audio/transcriptions", body, "Content-Type", "multipart/form-data; boundary=b")
		sum := sha256.Sum256([]byte(body))
		entries := sim.Ledger()
		if last := entries[len(entries)-1]; last.BodyHash != hex.EncodeToString(sum[:]) {
			t.Errorf("the body changed; answer %d %s", a.StatusCode, a.Body)
		}
	})
	t.Run("the upstream's errors", func(t *testing.T) {
		a := sidecartest.Send(t, "GET", s.URL+"/v1/no/such/route", "")
		if a.StatusCode != 404 || !strings.Contains(a.Body, "Invalid URL (GET /v1/no/such/route)") {
			t.Errorf("%d %s", a.StatusCode, a.Body)
		}
	})
	t.Run("methods and binary answers", func(t *testing.T) {
		for _, method := range []string{"GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PROPFIND"} {
			var seen string
			binary := "\x00\x01\xfe\xff"
			base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
				seen = r.Method + " " + r.RequestURI
				w.WriteHeader(http.StatusAccepted)
				_, _ = io.WriteString(w, binary)
			})
			a := sidecartest.Send(t, method, start(t, base).URL+"/v1/files/a%2Fb/content?q=%2F", "")
			if method == "HEAD" {
				binary = ""
			}
			if seen != method+" /v1/files/a%2Fb/content?q=%2F" || a.StatusCode != 202 || a.Body != binary {
				t.Errorf("%s: seen %q, answered %d %q", method, seen, a.StatusCode, a.Body)
			}
		}
	})
	if rows := s.Rows("audio"); len(rows) != 1 || rows[0].Metered || rows[0].UsageSource != "none" {
		t.Errorf("rows %+v", rows)
	}
	if booked := s.Status()["audio"]; booked.RequestCount != 0 {
		t.Errorf("unmetered requests are counted: %+v", booked)
	}
}

// TestProxy_SendsTwiceOnlyWhatIsSafe is promise 2 of the contract, row by row.
func TestProxy_SendsTwiceOnlyWhatIsSafe(t *testing.T) {
	hint := http.Header{"Retry-After-Ms": {"5"}}
	for _, c := range []struct {
		name     string
		fault    provider.Fault
		status   int
		attempts int64
	}{
		{"429", provider.Throttle(5 * time.Millisecond), 200, 2},
		{"503 with a hint", provider.Status(503, hint, `{"error":{"message":"busy"}}`), 200, 2},
		{"529 with a hint", provider.Status(529, hint, `{"error":{"message":"busy"}}`), 200, 2},
		{"503 without a hint", provider.Status(503, nil, `{"error":{"message":"busy"}}`), 503, 1},
		{"500", provider.ServerError(500), 500, 1},
		{"500 with a hint", provider.Status(500, hint, `{}`), 500, 1},
		{"408", provider.Status(408, hint, `{}`), 408, 1},
		{"400", provider.Status(400, nil, `{"error":{"message":"bad"}}`), 400, 1},
		{"connection broken after the request", provider.Hangup(), 502, 1},
		{"answer broken in its middle", provider.CutAfterBytes(40), 502, 1},
		{"answer reset in its middle", provider.ResetAfterBytes(40), 502, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			sim, base := sidecartest.Simulated(t, provider.Config{Faults: []provider.Fault{c.fault}})
			s := start(t, base)
			a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.Chat)
			if a.StatusCode != c.status || sim.Totals().Requests != c.attempts {
				t.Errorf("answered %d after %d attempts, want %d after %d: %s", a.StatusCode, sim.Totals().Requests, c.status, c.attempts, a.Body)
			}
			rows := s.Rows("s")
			if len(rows) != 1 || rows[0].Attempts != int(c.attempts) {
				t.Fatalf("rows %+v, want one with %d attempts", rows, c.attempts)
			}
			if exact := rows[0].UsageSource == "exact"; exact != (c.status == 200) {
				t.Errorf("usage %s at status %d", rows[0].UsageSource, c.status)
			}
		})
	}
}

func TestProxy_PassesIncurable429sOn(t *testing.T) {
	for name, fault := range map[string]provider.Fault{"insufficient_quota": provider.Quota(), "Request too large": provider.TooLarge()} {
		t.Run(name, func(t *testing.T) {
			sim, base := sidecartest.Simulated(t, provider.Config{Faults: []provider.Fault{fault}})
			a := sidecartest.Send(t, "POST", start(t, base).URL+"/v1/chat/completions", sidecartest.Chat)
			if a.StatusCode != 429 || !strings.Contains(a.Body, name) || a.Header.Get("X-Should-Retry") != "false" || sim.Totals().Requests != 1 {
				t.Errorf("%d %v %s after %d attempts", a.StatusCode, a.Header, a.Body, sim.Totals().Requests)
			}
		})
	}
}

func TestProxy_WaitsForAnUpstreamThatIsNotThere(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	s := start(t, "http://"+address+"/v1")
	got := make(chan sidecartest.Answer, 1)
	go func() {
		if a, err := sidecartest.Try(t.Context(), "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.Chat); err == nil {
			got <- a
		}
		close(got)
	}()
	// The upstream comes up once the first attempt has failed.
	for len(s.Log.Lines("upstream unreachable")) == 0 {
		<-time.After(time.Millisecond)
	}
	sim := provider.New(provider.Config{})
	_, stop, err := sim.Listen(address)
	if err != nil {
		t.Fatalf("the port was taken meanwhile: %v", err)
	}
	defer func() { _ = stop() }()
	if a := <-got; a.Response == nil || a.StatusCode != 200 {
		t.Errorf("got %+v", a)
	}
	if entries := sim.Ledger(); len(entries) != 1 {
		t.Errorf("%d requests reached the upstream, want 1", len(entries))
	}
}

func TestProxy_UpstreamDownForTooLong(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	s := start(t, "http://"+listener.Addr().String()+"/v1", "QUEUE_MAX_WAIT", "1s")
	a := sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.Chat)
	if a.StatusCode != 502 || sidecartest.ErrorOf(t, a) != "upstream_unreachable" || !strings.Contains(a.Body, "(refused)") || a.Header.Get("Retry-After-Ms") == "" {
		t.Errorf("%d %v %s", a.StatusCode, a.Header, a.Body)
	}
	if strings.Contains(a.Body, "127.0.0.1") {
		t.Errorf("the error holds an address: %s", a.Body)
	}
}

// What was never sent has no row, but its log line says what could not be served.
func TestProxy_LogsWhatItRefuses(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "RATE_LIMIT_PER_MIN", "1")
	for range 2 {
		sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.Chat, "X-Queue-Timeout", "1ms")
	}
	lines := s.Log.Lines("request")
	if len(lines) != 2 || lines[1]["status"] != 503.0 || lines[1]["attempts"] != 0.0 || lines[1]["model"] == "" || lines[1]["model"] != lines[0]["model"] {
		t.Errorf("logged %v", lines)
	}
}

func TestProxy_RefusesBadInput(t *testing.T) {
	sim, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "MAX_BODY_BYTES", "1KiB")
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code                     string
	}{
		{"session id in the path", "POST", "/v1/session/a%2Fb/chat/completions", sidecartest.Chat, nil, 400, "invalid_session_id"},
		{"dot segments", "POST", "/v1/models/%2e%2e/x", "", nil, 400, "invalid_path"},
		{"hint", "POST", "/v1/chat/completions", sidecartest.Chat, []string{"X-Queue-Timeout", "soon"}, 400, "invalid_hint"},
		{"metered field named twice", "POST", "/v1/chat/completions", `{"model":"a","stream":true,"str\u0065am":false}`, nil, 400, "duplicate_field"},
		{"large body", "POST", "/v1/chat/completions", `{"model":"` + strings.Repeat("x", 2000) + `"}`, nil, 413, "request_too_large"},
		{"unknown route", "GET", "/chat/completions", "", nil, 404, "unknown_route"},
		{"the base of the API", "GET", "/v1", "", nil, 404, "unknown_route"},
		{"unknown method", "POST", "/sessions/status", "{}", nil, 404, "unknown_route"},
		{"v1 twice", "POST", "/v1/v1/chat/completions", sidecartest.Chat, nil, 404, "unknown_route"},
		{"v1 twice behind a session", "POST", "/v1/session/s/v1/v1/chat/completions", sidecartest.Chat, nil, 404, "unknown_route"},
		{"unknown session", "GET", "/sessions/nobody/status", "", nil, 404, "unknown_session"},
		{"page", "GET", "/sessions?limit=0", "", nil, 400, "invalid_query"},
		{"cursor", "GET", "/sessions?cursor=%ff", "", nil, 400, "invalid_query"},
		{"usage", "GET", "/usage?by=colour", "", nil, 400, "invalid_query"},
		{"time", "GET", "/usage?from=yesterday", "", nil, 400, "invalid_query"},
		{"host", "GET", "/v1/models", "", []string{"Host", "evil.test"}, 421, "host_not_allowed"},
		{"host of an admin route", "GET", "/sessions/status", "", []string{"Host", "evil.test:8080"}, 421, "host_not_allowed"},
		{"origin", "POST", "/v1/chat/completions", sidecartest.Chat, []string{"Origin", "https://evil.test"}, 403, "origin_not_allowed"},
		{"null origin", "POST", "/v1/chat/completions", sidecartest.Chat, []string{"Origin", "null"}, 403, "origin_not_allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := sidecartest.Send(t, c.method, s.URL+c.path, c.body, c.headers...)
			if a.StatusCode != c.status || sidecartest.ErrorOf(t, a) != c.code {
				t.Errorf("%d %s, want %d %s", a.StatusCode, a.Body, c.status, c.code)
			}
		})
	}
	t.Run("large body without a declared length", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/v1/chat/completions", io.MultiReader(strings.NewReader(strings.Repeat(" ", 5000))))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 413 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
	if n := len(sim.Ledger()); n != 0 {
		t.Errorf("%d of the refused requests reached the upstream", n)
	}
}

func TestProxy_InvalidJSONIsTheUpstreamsToJudge(t *testing.T) {
	sim, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base)
	for _, body := range []string{`{"model":`, `[]`, `hello`, `{"model":"gpt-4o"}{"model":"gpt-4o"}`, "\xff\xfe"} {
		a := sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", body)
		entries := sim.Ledger()
		sum := sha256.Sum256([]byte(body))
		if last := entries[len(entries)-1]; a.StatusCode != 400 || last.BodyHash != hex.EncodeToString(sum[:]) {
			t.Errorf("%q: answered %d, the bytes that arrived have hash %s", body, a.StatusCode, last.BodyHash)
		}
	}
}

func TestProxy_RecognisesALoop(t *testing.T) {
	var hops atomic.Int64
	var self string
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) { // a name that leads back, unseen at the start
		if hops.Add(1) > 5 {
			t.Error("the request goes round")
			return
		}
		req, _ := http.NewRequestWithContext(r.Context(), r.Method, self+r.URL.Path, nil)
		req.Header = r.Header.Clone()
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})
	s := start(t, base)
	self = s.URL
	if a := sidecartest.Send(t, "GET", s.URL+"/v1/models", ""); a.StatusCode != 508 || sidecartest.ErrorOf(t, a) != "loop_detected" || hops.Load() != 1 {
		t.Errorf("%d %s after %d hops", a.StatusCode, a.Body, hops.Load())
	}
}

func TestProxy_ClientKeys(t *testing.T) {
	sim, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "CLIENT_API_KEYS", "web=key-canary-1,key-canary-2")
	for _, c := range []struct {
		path    string
		headers []string
		status  int
	}{
		{"/v1/models", nil, 401},
		{"/sessions/status", nil, 401},
		{"/metrics", nil, 401},
		{"/nothing", nil, 401},
		{"/v1/models", []string{"Authorization", "Bearer wrong"}, 401},
		{"/v1/models", []string{"Authorization", "Bearer key-canary-1"}, 200},
		{"/v1/models", []string{"Authorization", "bearer key-canary-1"}, 200},
		{"/v1/models", []string{"Authorization", "Basic key-canary-1"}, 401},
		{"/v1/models", []string{"Api-Key", "key-canary-2"}, 200},
		{"/sessions/status", []string{"Authorization", "Bearer key-canary-2"}, 200},
		{"/livez", nil, 200},
		{"/readyz", nil, 200},
		{"/healthz", []string{"Host", "10.0.0.7:8080"}, 200},
	} {
		if a := sidecartest.Send(t, "GET", s.URL+c.path, "", c.headers...); a.StatusCode != c.status {
			t.Errorf("%s with %v: %d, want %d", c.path, c.headers, a.StatusCode, c.status)
		}
	}
	for _, e := range sim.Ledger() {
		if strings.Contains(fmt.Sprint(e.Header), "key-canary") {
			t.Errorf("a client's key went upstream: %v", e.Header)
		}
	}
	for _, key := range []string{"key-canary-1", "key-canary-2"} {
		sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat, "Authorization", "Bearer "+key)
	}
	for key, name := range map[string]string{"key-canary-1": "web", "key-canary-2": "key-2"} {
		a := sidecartest.Send(t, "GET", s.URL+"/usage?by=client", "", "Authorization", "Bearer "+key)
		if !strings.Contains(a.Body, `"client":"`+name+`"`) || strings.Count(a.Body, `"client":`) != 1 {
			t.Errorf("usage by client, as %s: %s", name, a.Body)
		}
	}
}

func TestProxy_AdminRoutesMoveToTheirOwnListener(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin := listener.Addr().String()
	listener.Close()
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "ADMIN_ADDR", admin)
	for url, status := range map[string]int{
		s.URL + "/sessions/status": 404, s.URL + "/metrics": 404, s.URL + "/v1/models": 200, s.URL + "/livez": 200,
		"http://" + admin + "/sessions/status": 200, "http://" + admin + "/metrics": 200, "http://" + admin + "/v1/models": 404, "http://" + admin + "/readyz": 200,
	} {
		if a := sidecartest.Send(t, "GET", url, ""); a.StatusCode != status {
			t.Errorf("%s: %d, want %d", url, a.StatusCode, status)
		}
	}
}

func TestProxy_AdminAnswers(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, sidecartest.SQLite(t)...)
	if a := sidecartest.Send(t, "GET", s.URL+"/sessions/status", ""); strings.TrimSpace(a.Body) != "{}" {
		t.Errorf("empty status: %s", a.Body)
	}
	for range 2 {
		sidecartest.Send(t, "POST", s.URL+"/v1/session/s-1/chat/completions", sidecartest.Chat)
	}
	sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat, "X-Session-Id", "s-2")
	sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat)
	all := s.Status()
	if len(all) != 2 || all["s-1"].RequestCount != 2 || all["s-1"].TotalTokens != all["s-1"].PromptTokens+all["s-1"].CompletionTokens || all["s-2"].CompletionTokens != 5 {
		t.Errorf("status %+v", all)
	}
	var one admin.SessionStatus
	for _, path := range []string{"/sessions/s-1/status", "/v1/session/s-1/status"} {
		a := sidecartest.Send(t, "GET", s.URL+path, "")
		if err := json.Unmarshal([]byte(a.Body), &one); err != nil || one != all["s-1"] {
			t.Errorf("%s: %s", path, a.Body)
		}
		if keys := strings.Count(a.Body, `":`); keys != 5 {
			t.Errorf("%s has %d members, want 5: %s", path, keys, a.Body)
		}
	}
	var page struct {
		Sessions   []admin.SessionRow
		NextCursor *string `json:"next_cursor"`
	}
	a := sidecartest.Send(t, "GET", s.URL+"/sessions?limit=1", "")
	if err := json.Unmarshal([]byte(a.Body), &page); err != nil || len(page.Sessions) != 1 || page.NextCursor == nil {
		t.Fatalf("first page: %v %s", err, a.Body)
	}
	first := page.Sessions[0].SessionID
	a = sidecartest.Send(t, "GET", s.URL+"/sessions?limit=1&cursor="+*page.NextCursor, "")
	if err := json.Unmarshal([]byte(a.Body), &page); err != nil || len(page.Sessions) != 1 || page.Sessions[0].SessionID == first {
		t.Errorf("second page: %v %s", err, a.Body)
	}
	a = sidecartest.Send(t, "GET", s.URL+"/usage?by=day,model", "")
	if !strings.Contains(a.Body, `"request_count":4`) || !strings.Contains(a.Body, `"model":"gpt-4o"`) {
		t.Errorf("usage: %s", a.Body)
	}
	if a := sidecartest.Send(t, "DELETE", s.URL+"/sessions/s-1", ""); a.StatusCode != 204 {
		t.Errorf("delete: %d %s", a.StatusCode, a.Body)
	}
	if _, there := s.Status()["s-1"]; there {
		t.Error("a deleted session is still there")
	}
	a = sidecartest.Send(t, "GET", s.URL+"/metrics", "")
	for _, series := range []string{"llm_queue_proxy_requests_total{", "llm_queue_proxy_client_429_total 0", "llm_queue_proxy_queue_depth 0", `llm_queue_proxy_tokens_total{model="gpt-4o",type="output"} 20`} {
		if !strings.Contains(a.Body, series) {
			t.Errorf("no %s in the metrics", series)
		}
	}
	if strings.Contains(a.Body, "s-1") {
		t.Error("a session is in the metrics")
	}
	a = sidecartest.Send(t, "GET", s.URL+"/queue/status", "")
	if !strings.Contains(a.Body, `"waiting":0`) {
		t.Errorf("queue: %s", a.Body)
	}
}

func TestProxy_LedgerOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	_, base := sidecartest.Simulated(t, provider.Config{})
	file := sidecartest.SQLite(t)
	s := start(t, base, file...)
	sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.Chat)
	before := s.Status()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if after := start(t, base, file...).Status(); after["s"] != before["s"] || after["s"].RequestCount != 1 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func TestProxy_QueuedClientThatLeavesSendsNothing(t *testing.T) {
	sim, base := sidecartest.Simulated(t, provider.Config{TTFT: time.Hour})
	s := start(t, base, "MAX_CONCURRENT_REQUESTS", "1", "DISCONNECT_POLICY", "cancel")
	first, leaveFirst := context.WithCancel(t.Context())
	second, leaveSecond := context.WithCancel(t.Context())
	defer leaveSecond()
	done := make(chan error, 2)
	go func() {
		_, err := sidecartest.Try(first, "POST", s.URL+"/v1/session/a/chat/completions", sidecartest.Chat)
		done <- err
	}()
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 1 })
	go func() {
		_, err := sidecartest.Try(second, "POST", s.URL+"/v1/session/b/chat/completions", sidecartest.Chat)
		done <- err
	}()
	s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 1 })
	leaveSecond()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 0 && q.InFlight == 1 })
	leaveFirst()
	<-done
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 0 })
	if n := len(sim.Ledger()); n != 1 {
		t.Errorf("%d requests reached the upstream, want 1", n)
	}
	if _, there := s.Status()["b"]; there {
		t.Error("a request that was never sent is booked")
	}
}
