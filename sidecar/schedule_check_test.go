package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// reconcile compares what every side saw: clients, provider, ledger, limiter.
func (s *stage) reconcile() {
	t := s.t
	attempts := map[int][]provider.Entry{}
	for _, e := range s.sim.Ledger() {
		id, _ := strconv.Atoi(e.Header.Get("X-Call"))
		if id == 0 {
			t.Errorf("the provider got a request of nobody: %s %s", e.Method, e.Path)
			continue
		}
		attempts[id] = append(attempts[id], e)
		for name, values := range e.Header {
			if strings.Contains(strings.Join(values, " "), clientCanary) {
				t.Errorf("call %d: the client's key went up in %s", id, name)
			}
		}
	}
	var totals map[string]admin.SessionStatus
	s.admin("/sessions/status", &totals)
	for _, c := range s.plan.calls {
		var page struct{ Requests []admin.RequestRow }
		s.admin("/sessions/"+c.session()+"/requests", &page)
		s.checkCall(c, &s.outcomes[c.id], attempts[c.id], page.Requests, totals[c.session()])
	}
	s.checkAtRest()
}

// checkCall is the reconciliation of one call.
func (s *stage) checkCall(c call, o *outcome, attempts []provider.Entry, rows []admin.RequestRow, total admin.SessionStatus) {
	fail := func(format string, args ...any) {
		s.t.Helper()
		var faults []string
		for _, f := range c.faults {
			faults = append(faults, f.String())
		}
		s.t.Errorf("call %d (kind %d, deed %d, faults %v): %s\n  saw %d, %v, left %v, %d bytes\n  rows %+v\n  attempts %s",
			c.id, c.kind, c.deed, faults, fmt.Sprintf(format, args...), o.status, o.err, o.left, len(o.body), rows, attemptsText(attempts))
	}
	fault := ""
	if len(attempts) > 0 {
		fault = attempts[len(attempts)-1].Fault
	}
	// One terminal row for what was sent, none for what was not.
	switch {
	case len(attempts) > 0 && len(rows) != 1:
		fail("%d rows of a request that was sent, want 1", len(rows))
		return
	case len(rows) > 1:
		fail("%d rows, want at most 1", len(rows))
		return
	case len(rows) == 1 && rows[0].Attempts < max(1, len(attempts)):
		fail("the row knows of %d attempts, the provider saw %d", rows[0].Attempts, len(attempts))
	}
	// Nothing is billed twice, and only what promise 2 allows is sent twice.
	billed := 0
	for i, e := range attempts {
		if e.Accepted {
			billed++
		}
		resent := i < len(attempts)-1
		if again := e.Status == 429 || e.Status == 503 || e.Status == 529; resent && !again {
			fail("sent again after %d (%s)", e.Status, e.Fault)
		}
	}
	if billed > 1 {
		fail("billed %d times", billed)
	}
	// No curable 429 reaches a client.
	if o.status == http.StatusTooManyRequests && fault != "quota" && fault != "too large" && c.kind != upload {
		fail("a client got a 429 after %q", fault)
	}
	s.checkAnswer(c, o, fault, fail)
	if len(rows) == 0 {
		if o.complete(c) && o.sent {
			fail("an answer without a row")
		}
		return
	}
	row := rows[0]
	// A complete answer is booked, exactly; and whatever is booked is what the provider billed.
	exact := row.UsageSource == "exact"
	silent := slices.Contains([]string{"no usage", "garbage", "gzip"}, fault)
	if o.complete(c) && o.sent && c.kind.metered() && !silent && !exact {
		fail("a complete answer whose usage is not booked")
	}
	if exact && len(attempts) > 0 {
		e := attempts[len(attempts)-1]
		prompt, completion := e.PromptTokens, e.CompletionTokens
		if fault == "zero usage" {
			prompt, completion = 0, 0
		}
		if *row.PromptTokens != prompt || *row.CompletionTokens != completion {
			fail("booked %d+%d, the provider billed %d+%d", *row.PromptTokens, *row.CompletionTokens, prompt, completion)
		}
	}
	if !exact && (row.PromptTokens != nil || row.CompletionTokens != nil) {
		fail("unknown usage has numbers")
	}
	// The session's totals are its row's.
	want := admin.SessionStatus{SessionID: c.session()}
	if exact {
		want.PromptTokens, want.CompletionTokens = *row.PromptTokens, *row.CompletionTokens
		want.TotalTokens = want.PromptTokens + want.CompletionTokens
	}
	if row.Metered && row.Status >= 200 && row.Status < 300 {
		want.RequestCount = 1
	}
	if total != want && (total != admin.SessionStatus{} || want.RequestCount > 0) {
		fail("the session's totals are %+v, its row says %+v", total, want)
	}
}

// checkAnswer looks at an answer as an SDK would.
func (s *stage) checkAnswer(c call, o *outcome, fault string, fail func(string, ...any)) {
	for name, values := range o.header {
		if strings.Contains(strings.Join(values, " "), "canary") {
			fail("a canary is in the header %s", name)
		}
	}
	if bytes.Contains(o.body, []byte(upstreamCanary)) || bytes.Contains(o.body, []byte(clientCanary)) {
		fail("a key is in the body")
	}
	if o.status >= 400 && o.err == nil && !o.left && o.sent && o.header.Get("X-Queue-Wait-Ms") == "" {
		var shape struct {
			Error struct{ Message, Code string }
		}
		if err := json.Unmarshal(o.body, &shape); err != nil || shape.Error.Message == "" || shape.Error.Code == "" {
			fail("our own %d is not OpenAI-shaped: %s", o.status, o.body)
		}
		if o.status != 401 && strings.Contains(string(o.body), "provider/v1") {
			fail("an error names the upstream: %s", o.body)
		}
	}
	// A stream that ends cleanly without its terminal event was so sent by the provider.
	endless := slices.Contains([]string{"end", "no done", "garbage", "gzip"}, fault)
	if c.kind.stream() && o.status == 200 && o.err == nil && !o.left && !o.complete(c) && !endless {
		fail("a truncated stream ends cleanly: …%q", o.body[max(0, len(o.body)-200):])
	}
	if fault == "no done" && c.kind.stream() && o.complete(c) {
		fail("a terminal event was made up: …%q", o.body[max(0, len(o.body)-200):])
	}
}

// checkAtRest compares the sidecar with one that has done nothing yet.
func (s *stage) checkAtRest() {
	t := s.t
	snap := s.srv.limits.Snapshot()
	if snap.InFlight != 0 || snap.Waiting != 0 || snap.WaitingBytes != 0 || snap.WaitingTokens != 0 {
		t.Errorf("the limiter is not at rest: %+v", snap)
	}
	meters := snap.Global
	for _, g := range snap.Groups {
		if g.InFlight != 0 || g.Waiting != 0 || len(g.Sessions) != 0 {
			t.Errorf("group %s is not at rest: %+v", g.Name, g)
		}
		meters = append(meters, g.Meters...)
	}
	for _, m := range meters {
		if m.Level > float64(m.Limit)+1e-6 || math.IsNaN(m.Level) {
			t.Errorf("meter %s has level %v of %d", m.Name, m.Level, m.Limit)
		}
	}
	for _, m := range snap.Global {
		// A place comes back with its request; of what comes back with time at
		// least one must be there (a limit judged by the second holds no more).
		least := 1.0
		if m.Name == "concurrent" {
			least = float64(m.Limit)
		}
		if m.Level < least {
			t.Errorf("after three idle minutes %s has %v of %d: permits are lost", m.Name, m.Level, m.Limit)
		}
	}
	if n := s.srv.proxy.Load().Memory.All; n != 0 {
		t.Errorf("%d bytes of bodies are still held", n)
	}
	if n := s.srv.proxy.Load().Drains; n != 0 {
		t.Errorf("%d drains are still counted", n)
	}
	if n := s.srv.proxy.Load().Answers; n != 0 {
		t.Errorf("%d answers are still counted", n)
	}
	if st := s.srv.ledger.Stats(); st.Pending != 0 || st.InFlight != 0 || st.Journaled != 0 || st.Failed != 0 {
		t.Errorf("the ledger is not at rest: %+v", st)
	}
	text := s.admin("/metrics", nil)
	for _, word := range []string{"canary", "call-"} {
		if strings.Contains(text, word) {
			t.Errorf("%q is in the metrics", word)
		}
	}
}

// admin reads one of the sidecar's own routes; a session that is unknown to it
// leaves into as it is.
func (s *stage) admin(path string, into any) string {
	s.t.Helper()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return s.dial(ctx, network, address)
		}, DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(s.t.Context(), "GET", "http://127.0.0.1"+path, nil)
	if err != nil {
		s.t.Error(err)
		return ""
	}
	req.Header.Set("Authorization", "Bearer "+clientCanary)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		s.t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case resp.StatusCode == http.StatusNotFound:
	case err != nil || resp.StatusCode != 200:
		s.t.Errorf("%s: %d %v %s", path, resp.StatusCode, err, body)
	case into != nil:
		if err := json.Unmarshal(body, into); err != nil {
			s.t.Errorf("%s: %v in %s", path, err, body)
		}
	}
	return string(body)
}

// checkLog wants no canary in the log, and one line for each request.
func (s *stage) checkLog() {
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "canary") {
			s.t.Errorf("a canary is in the log: %s", line)
		}
		if !json.Valid([]byte(line)) {
			s.t.Errorf("a line of the log is no JSON: %q", line)
		}
		locked := s.outages > 0 && strings.Contains(line, "ledger store not writable")
		if strings.Contains(line, `"level":"ERROR"`) && !locked || strings.Contains(line, "panic") {
			s.t.Errorf("the log has an error: %s", line)
		}
	}
	if s.t.Failed() && testing.Verbose() {
		s.t.Log(s.log.String())
	}
}

// checkFiles wants no canary in what the sidecar left on disk, and only private files.
func checkFiles(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("canary")) {
			t.Errorf("a canary is in %s", filepath.Base(file))
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", filepath.Base(file), info.Mode(), err)
		}
	}
}

func attemptsText(all []provider.Entry) string {
	var b strings.Builder
	for _, e := range all {
		fmt.Fprintf(&b, "[%d %q accepted %v delivered %v left %v done %v %d+%d]", e.Status, e.Fault, e.Accepted, e.Delivered, e.Left, e.Done, e.PromptTokens, e.CompletionTokens)
	}
	return b.String()
}
