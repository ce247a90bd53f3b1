package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger/pgtest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// withFile is the setting of a configuration file of the test's own.
func withFile(t *testing.T, text string) []string {
	return []string{"CONFIG_FILE", sidecartest.WriteFile(t, "config.yaml", text)}
}

// wantUsedUp demands the refusal of a used-up budget, and returns the time to its reset.
func wantUsedUp(t *testing.T, a sidecartest.Answer) time.Duration {
	t.Helper()
	if a.StatusCode != http.StatusPaymentRequired || sidecartest.ErrorOf(t, a) != "budget_exceeded" || a.Header.Get("X-Should-Retry") != "false" {
		t.Fatalf("%d %v %s; want a 402", a.StatusCode, a.Header, a.Body)
	}
	ms, _ := strconv.ParseInt(a.Header.Get("Retry-After-Ms"), 10, 64)
	return time.Duration(ms) * time.Millisecond
}

func wantAnswered(t *testing.T, a sidecartest.Answer) {
	t.Helper()
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
}

// Two users, each with sixty requests at once from as many sessions: neither gets more than the budget and one
// request beyond, and each gets a budget of its own.
func TestBudget_ParallelRequestsDoNotOverspend(t *testing.T) {
	const limit, each = 200, 60
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, append(withFile(t, fmt.Sprintf("sessions: [{match: 'agent-*', budget: {tokens: %d, per: ever}}]", limit)), "CLIENT_API_KEYS", "alice=a,bob=b")...)
	body := strings.Replace(sidecartest.Chat, `{"model"`, `{"max_tokens":5,"model"`, 1)
	var answered, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 2 * each {
		key := [...]string{"a", "b"}[i%2]
		wg.Go(func() {
			a, err := sidecartest.Try(t.Context(), "POST", fmt.Sprintf("%s/v1/session/agent-%d/chat/completions", s.URL, i), body, "Authorization", "Bearer "+key)
			switch {
			case err != nil:
				t.Error(err)
			case a.StatusCode == 200:
				answered.Add(1)
			case a.StatusCode == 402:
				refused.Add(1)
			default:
				t.Errorf("%d %s", a.StatusCode, a.Body)
			}
		})
	}
	wg.Wait()
	if answered.Load()+refused.Load() != 2*each || refused.Load() == 0 {
		t.Errorf("%d answered, %d refused", answered.Load(), refused.Load())
	}
	rows := append(s.Usage("by=client", "Authorization", "Bearer a").Rows, s.Usage("by=client", "Authorization", "Bearer b").Rows...)
	if len(rows) != 2 || *rows[0].Client == *rows[1].Client {
		t.Fatalf("%d clients", len(rows))
	}
	for _, row := range rows {
		used := row.PromptTokens + row.CompletionTokens
		one := used / row.RequestCount // all cost the same
		if used < limit || used > limit+one {
			t.Errorf("%s used %d tokens of %d, %d each", *row.Client, used, limit, one)
		}
		t.Logf("%s used %d tokens of %d, %d each", *row.Client, used, limit, one)
	}
}

func TestBudget_ResetsWithThePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // from midnight on
		file := sidecartest.WriteFile(t, "c.yaml", `sessions: [{match: "*", budget: {tokens: 20, per: hour}}]`)
		b := newBubble(t, provider.Config{}, "CONFIG_FILE", file, "RATE_LIMIT_PER_MIN", "0")
		defer b.Stop()
		ask := func() (int, string) {
			t.Helper()
			status, _, text, err := b.Ask(t.Context(), "s", sidecartest.Chat)
			if err != nil {
				t.Fatal(err)
			}
			return status, text
		}
		spend := func() (text string) {
			t.Helper()
			for range 10 {
				status, text := ask()
				if status == 402 {
					return text
				}
				if status != 200 {
					t.Fatalf("%d %s", status, text)
				}
			}
			t.Fatal("the budget is not kept")
			return ""
		}
		time.Sleep(10 * time.Minute)
		start := time.Now().Truncate(time.Hour)
		if text := spend(); !strings.Contains(text, "until "+start.Add(time.Hour).UTC().Format(time.RFC3339)) {
			t.Errorf("the refusal does not name the end: %s", text)
		}
		time.Sleep(50*time.Minute - time.Second)
		if status, _ := ask(); status != 402 {
			t.Errorf("%d a second before the end", status)
		}
		time.Sleep(time.Second)
		spend()
	})
}

func TestBudget_TellsTheHonestReset(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, withFile(t, `
sessions:
  - {match: "ever-*", budget: {tokens: 1, per: ever}}
  - {match: "day-*", budget: {tokens: 1}}
`)...)
	wantAnswered(t, s.Ask("day-1"))
	got := wantUsedUp(t, s.Ask("day-2"))
	now := time.Now().UTC()
	want := now.Truncate(24*time.Hour).AddDate(0, 0, 1).Sub(now)
	if off := got - want; off < -time.Second || off > time.Minute {
		t.Errorf("reset in %v, want %v", got, want)
	}
	wantAnswered(t, s.Ask("ever-1"))
	a := s.Ask("ever-1")
	if got := wantUsedUp(t, a); got != 0 || a.Header.Get("Retry-After") != "" {
		t.Errorf("a budget for ever is said to come back in %v", got)
	}
	wantAnswered(t, s.Ask("other"))                                                   // no rule
	wantAnswered(t, sidecartest.Send(t, "GET", s.URL+"/v1/session/day-1/models", "")) // not metered
}

func TestBudget_SurvivesRestartAndDeletion(t *testing.T) {
	t.Parallel()
	_, base := sidecartest.Simulated(t, provider.Config{})
	settings := append(sidecartest.SQLite(t), withFile(t, `sessions: [{match: "*", budget: {tokens: 30, per: month}}]`)...)
	s := start(t, base, settings...)
	for range 2 {
		wantAnswered(t, s.Ask("a"))
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, base, settings...)
	refused := 0
	for refused == 0 {
		a := s.Ask("a")
		if a.StatusCode != 200 {
			wantUsedUp(t, a)
			refused++
		}
	}
	used := s.Status()["a"].TotalTokens
	if used < 30 || used > 45 {
		t.Errorf("%d tokens of 30 used", used)
	}
	if a := sidecartest.Send(t, "DELETE", s.URL+"/sessions/a", ""); a.StatusCode != http.StatusNoContent {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	wantUsedUp(t, s.Ask("a"))
	wantUsedUp(t, s.Ask("another-session"))
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, base, settings...)
	wantUsedUp(t, s.Ask("a"))
}

func TestBudget_BelongsToTheClientOrTheSession(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, append(withFile(t, `
sessions:
  - {match: "own-*", budget: {tokens: 1, each: session}}
  - {match: "*", budget: {tokens: 1}}
`), "CLIENT_API_KEYS", "alice=a,bob=b")...)
	alice, bob := []string{"Authorization", "Bearer a"}, []string{"Authorization", "Bearer b"}
	wantAnswered(t, s.Ask("x", alice...))
	wantUsedUp(t, s.Ask("y", alice...))
	wantUsedUp(t, sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat, alice...)) // no session
	wantAnswered(t, s.Ask("x", bob...))
	for _, session := range []string{"own-1", "own-2"} {
		wantAnswered(t, s.Ask(session, alice...))
		wantUsedUp(t, s.Ask(session, alice...))
		wantAnswered(t, s.Ask(session, bob...))
	}
}

func TestBudget_ChildrenDrawOnTheirParent(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, withFile(t, `
sessions:
  - {match: "root-*", budget: {tokens: 1, each: session}}
  - {match: "small-*", budget: {tokens: 1, each: session}}
`)...)
	const parent = "X-Parent-Session-Id"
	wantAnswered(t, s.Ask("child", parent, "root-1"))
	wantUsedUp(t, s.Ask("root-1"))
	wantUsedUp(t, s.Ask("child", parent, "root-1"))
	wantUsedUp(t, s.Ask("child"))                          // it is still that parent's child
	wantUsedUp(t, s.Ask("grandchild", parent, "child"))    // and its children are grandchildren
	wantAnswered(t, s.Ask("stranger", parent, "nobody-1")) // a parent that is not known
	wantAnswered(t, s.Ask("loop-a", parent, "loop-b"))
	wantAnswered(t, s.Ask("loop-b", parent, "loop-a"))
	wantAnswered(t, s.Ask("loop-b", parent, "loop-b"))
	wantAnswered(t, s.Ask("small-1"))
	wantUsedUp(t, s.Ask("small-1", parent, "rich-1")) // no parent frees from one's own
	wantUsedUp(t, s.Ask("child", parent, "a/b"))      // no id is no parent, and frees from none
}

// Parent and child of one rule draw on one budget, and once.
func TestBudget_OfOneRuleIsDrawnOnOnce(t *testing.T) {
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":8,"completion_tokens":2,"total_tokens":10}}`)
	})
	settings := sidecartest.SQLite(t)
	s := start(t, base, append(settings, withFile(t, `sessions: [{match: "agent-*", budget: {tokens: 30, per: ever}}]`)...)...)
	began := time.Now()
	for range 3 {
		wantAnswered(t, s.Ask("agent-2", "X-Parent-Session-Id", "agent-1"))
	}
	wantUsedUp(t, s.Ask("agent-2"))
	db, err := sql.Open("sqlite", "file:"+settings[3])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var start, sum int64 // kept by the day, whatever the period: prices change between days
	if err := db.QueryRowContext(t.Context(), "SELECT max(start), sum(prompt_tokens + completion_tokens) FROM budget_usage").Scan(&start, &sum); err != nil {
		t.Fatal(err)
	}
	if day := time.UnixMilli(start); sum != 30 || day.Before(began.Truncate(24*time.Hour)) || day.After(time.Now()) {
		t.Errorf("%d tokens on %v", sum, day)
	}
}

// What is reserved is what the client allows, not what is expected.
func TestBudget_ReservesWhatTheAnswerMayHave(t *testing.T) {
	arrived, answers := make(chan struct{}, 1), make(chan struct{})
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), "slow") {
			arrived <- struct{}{}
			<-answers
		}
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":8,"completion_tokens":2,"total_tokens":10}}`)
	})
	s := start(t, base, withFile(t, `sessions: [{match: "*", budget: {tokens: 100000}}]`)...)
	big := strings.Replace(sidecartest.Chat, "{", `{"max_tokens":90000,`, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", strings.Replace(big, "{", `{"user":"slow",`, 1))
	})
	<-arrived
	if a := sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", big, "X-Queue-Timeout", "50ms"); a.StatusCode != 503 || sidecartest.ErrorOf(t, a) != "queue_timeout" {
		t.Errorf("%d %s; want that it waited in vain", a.StatusCode, a.Body)
	}
	if lines := s.Log.Lines("request"); len(lines) != 1 || lines[0]["queue_ms"].(float64) < 50 {
		t.Errorf("the log does not say how long it waited: %v", lines)
	}
	close(answers)
	wg.Wait()
}

func TestBudget_WarnLetsPass(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, withFile(t, `sessions: [{match: "*", budget: {tokens: 1, action: warn}}]`)...)
	for range 3 {
		wantAnswered(t, s.Ask("a"))
	}
	if n := len(s.Log.Lines("budget used up")); n != 1 {
		t.Errorf("said %d times", n)
	}
	if a := sidecartest.Send(t, "GET", s.URL+"/metrics", ""); !strings.Contains(a.Body, `llm_queue_proxy_budget_passed_total{rule="*"} 2`) {
		t.Error("the metric does not say that two passed")
	}
}

// What the provider refused costs nothing; what it may have done without saying
// counts with the estimate.
func TestBudget_CountsWhatMayHaveCost(t *testing.T) {
	sim, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, withFile(t, `sessions: [{match: "*", budget: {tokens: 1, each: session}}]`)...)
	for range 3 {
		sim.Script(provider.Status(400, nil, `{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"x"}}`))
		if a := s.Ask("refused"); a.StatusCode != 400 {
			t.Fatalf("%d %s", a.StatusCode, a.Body)
		}
	}
	wantAnswered(t, s.Ask("refused"))
	sim.Script(provider.NoUsage())
	wantAnswered(t, s.Ask("silent"))
	wantUsedUp(t, s.Ask("silent"))
	if got := s.Status()["silent"]; got.TotalTokens != 0 {
		t.Errorf("the estimate is booked as exact: %+v", got)
	}
}

// What never reached the provider is given back.
func TestBudget_IsGivenBackUnsent(t *testing.T) {
	answers := make(chan struct{})
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) {
		<-answers
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
	})
	s := start(t, base, append(withFile(t, `sessions: [{match: "held", budget: {tokens: 100}}]`), "MAX_CONCURRENT_REQUESTS", "1")...)
	big := strings.Replace(sidecartest.Chat, "{", `{"max_tokens":90,`, 1)
	var wg sync.WaitGroup
	wg.Go(func() { s.Ask("other") })
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 1 })
	ctx, leave := context.WithCancel(t.Context())
	wg.Go(func() { _, _ = sidecartest.Try(ctx, "POST", s.URL+"/v1/session/held/chat/completions", big) })
	s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 1 })
	leave()
	s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 0 })
	close(answers)
	wg.Wait()
	a := sidecartest.Send(t, "POST", s.URL+"/v1/session/held/chat/completions", big, "X-Queue-Timeout", "2s")
	wantAnswered(t, a)
}

func TestBudget_InMoney(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, withFile(t, `
currency: EUR
sessions:
  - {match: "hard", budget: {money: "0.000020 EUR", per: ever}}
  - {match: "soft", budget: {money: "0.000001 EUR", per: ever, action: warn}}
prices:
  - {model: "gpt-4o", input: "1", output: "2"}
`)...)
	n := 0
	for ; n < 20; n++ {
		a := s.Ask("hard")
		if a.StatusCode != 200 {
			wantUsedUp(t, a)
			break
		}
	}
	rows := s.Usage("by=model").Rows
	cost := rows[0].PromptTokens + 2*rows[0].CompletionTokens // in millionths
	one := cost / int64(n)
	if cost < 20 || cost >= 20+one {
		t.Errorf("%d requests cost %d millionths of 20, %d each", n, cost, one)
	}
	if want := fmt.Sprintf("0.%06d", cost); strings.TrimRight(*rows[0].Cost, "0") != strings.TrimRight(want, "0") {
		t.Errorf("cost %s, want %s", *rows[0].Cost, want)
	}
	other := strings.Replace(sidecartest.Chat, "gpt-4o", "unlisted", 1)
	if a := sidecartest.Send(t, "POST", s.URL+"/v1/session/hard/chat/completions", other); a.StatusCode != 402 {
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
	s = start(t, base, withFile(t, `
sessions:
  - {match: "hard", budget: {money: "1.00 USD"}}
  - {match: "soft", budget: {money: "1.00 USD", action: warn}}
prices: [{model: "gpt-4o", input: "1", output: "2"}]
`)...)
	if a := sidecartest.Send(t, "POST", s.URL+"/v1/session/hard/chat/completions", other); a.StatusCode != 402 || sidecartest.ErrorOf(t, a) != "price_unknown" {
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
	wantAnswered(t, sidecartest.Send(t, "POST", s.URL+"/v1/session/soft/chat/completions", other))
}

// Requests that wait for what others have reserved end with their patience, or the process.
// What costs nothing passes a budget in money, used up or held by others. What may cost a little does not.
func TestBudget_InMoneyLetsPassWhatIsFree(t *testing.T) {
	free := strings.Replace(sidecartest.Chat, "gpt-4o", "local", 1)
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, withFile(t, `
prices:
  - {model: "local", input: "0", output: "0"}
  - {model: "gpt-4o", input: "2.50", output: "10.00"}
sessions:
  - {match: "both-*", budget: {money: "0.00001 USD", tokens: 40}}
  - {match: "*", budget: {money: "0.00001 USD"}}`)...)
	ask := func(session, body string) sidecartest.Answer {
		return sidecartest.Send(t, "POST", s.URL+"/v1/session/"+session+"/chat/completions", body)
	}
	wantAnswered(t, ask("a", sidecartest.Chat))
	wantUsedUp(t, ask("a", sidecartest.Chat))
	for range 3 {
		wantAnswered(t, ask("a", free))
	}
	wantUsedUp(t, ask("a", sidecartest.Chat))

	wantAnswered(t, ask("both-b", sidecartest.Chat))
	wantUsedUp(t, ask("both-b", sidecartest.Chat))
	for range 2 {
		wantAnswered(t, ask("both-b", free))
	}
	wantUsedUp(t, ask("both-b", free)) // its tokens
}

func TestBudget_WaitingEnds(t *testing.T) {
	t.Parallel()
	_, base := sidecartest.Simulated(t, provider.Config{TTFT: time.Hour})
	s := start(t, base, append(withFile(t, `sessions: [{match: "*", budget: {tokens: 100}}]`), "DISCONNECT_POLICY", "cancel", "SHUTDOWN_GRACE", "1s")...)
	big := strings.Replace(sidecartest.Chat, "{", `{"max_tokens":90,`, 1)
	ctx, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer leave()
	wg.Go(func() { _, _ = sidecartest.Try(ctx, "POST", s.URL+"/v1/session/a/chat/completions", big) })
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 1 })
	a := sidecartest.Send(t, "POST", s.URL+"/v1/session/b/chat/completions", big, "X-Queue-Timeout", "20ms")
	if a.StatusCode != 503 || sidecartest.ErrorOf(t, a) != "queue_timeout" || a.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
	wg.Go(func() {
		a, err := sidecartest.Try(t.Context(), "POST", s.URL+"/v1/session/b/chat/completions", big)
		if err != nil || a.StatusCode != 503 || sidecartest.ErrorOf(t, a) != "shutting_down" {
			t.Errorf("%v %d %s", err, a.StatusCode, a.Body)
		}
	})
	for !strings.Contains(sidecartest.Send(t, "GET", s.URL+"/metrics", "").Body, "llm_queue_proxy_budget_waiting 1") {
		runtime.Gosched()
	}
	_ = s.Stop() // with a request under way, which is cut at the end of the grace
}

// The wait for a budget and that in the queue are one.
func TestBudget_HasOnePatienceWithTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := sidecartest.WriteFile(t, "c.yaml", `sessions: [{match: "held", budget: {tokens: 100}}]`)
		b := newBubble(t, provider.Config{TTFT: 3 * time.Second}, "CONFIG_FILE", file, "RATE_LIMIT_PER_MIN", "0", "MAX_CONCURRENT_REQUESTS", "1")
		defer b.Stop()
		ask := func(session, timeout string) (status int, after time.Duration, queued string) {
			body := strings.Replace(sidecartest.Chat, "{", `{"max_tokens":80,`, 1)
			req, err := http.NewRequestWithContext(t.Context(), "POST", "http://127.0.0.1/v1/session/"+session+"/chat/completions", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Queue-Timeout", timeout)
			started := time.Now()
			resp, err := b.Client.Do(req)
			if err != nil {
				t.Error(err)
				return 0, 0, ""
			}
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
			return resp.StatusCode, time.Since(started), resp.Header.Get("X-Queue-Wait-Ms")
		}
		var wg sync.WaitGroup
		wg.Go(func() { ask("held", "60s") }) // has the budget and the place for 3 s
		synctest.Wait()
		wg.Go(func() { ask("other", "60s") }) // has the place for the 3 s after
		synctest.Wait()
		status, after, _ := ask("held", "4s")
		if status != 503 || after > 5*time.Second {
			t.Errorf("%d after %v; want a refusal within the 4 s", status, after)
		}
		wg.Wait()
		wg.Go(func() { ask("held", "60s") })
		synctest.Wait()
		if status, after, queued := ask("held", "60s"); status != 200 || after != 6*time.Second || queued != "3000" {
			t.Errorf("%d after %v, %s ms of them in the queue; want half of 6 s", status, after, queued)
		}
		wg.Wait()
	})
}

// A store that cannot be read when a budget is first drawn on: LEDGER_ON_FAILURE decides.
func TestBudget_OfABrokenStore(t *testing.T) {
	for policy, want := range map[string]int{"serve": 200, "refuse": 503} {
		t.Run(policy, func(t *testing.T) {
			_, base := sidecartest.Simulated(t, provider.Config{})
			settings := sidecartest.SQLite(t)
			s := start(t, base, append(append(settings, withFile(t, `sessions: [{match: "*", budget: {tokens: 1}}]`)...), "LEDGER_ON_FAILURE", policy)...)
			db, err := sql.Open("sqlite", "file:"+settings[3]+"?_pragma=busy_timeout(10000)")
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.ExecContext(t.Context(), "ALTER TABLE budget_usage RENAME TO away"); err != nil {
				t.Fatal(err)
			}
			if a := s.Ask("a"); a.StatusCode != want || want == 503 && sidecartest.ErrorOf(t, a) != "ledger_unavailable" {
				t.Errorf("%d %s", a.StatusCode, a.Body)
			}
			if _, err := db.ExecContext(t.Context(), "ALTER TABLE away RENAME TO budget_usage"); err != nil {
				t.Fatal(err)
			}
			for n := 0; want == 200; n++ { // what passed meanwhile counts
				a := s.Ask("a")
				if a.StatusCode != 200 {
					wantUsedUp(t, a)
					break
				}
				if n == 2 {
					t.Fatal("what passed is forgotten")
				}
			}
		})
	}
}

func TestUsage_CarriesMoney(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	yesterday := time.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly)
	s := start(t, base, withFile(t, fmt.Sprintf(`
prices:
  - {model: "gpt-4o", from: 2020-01-01, input: "999", output: "999"}
  - {model: "gpt-4o", from: %s, input: "2.50", cached_input: "1.25", output: "10.00"}
`, yesterday))...)
	body := `{"model":"%s","messages":[{"role":"user","content":"cached 4 tokens, say 7 words"}]}`
	wantAnswered(t, sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", fmt.Sprintf(body, "gpt-4o")))
	wantAnswered(t, sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", fmt.Sprintf(body, "gpt-4o-2024-08-06")))
	wantAnswered(t, sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", fmt.Sprintf(body, "unlisted")))

	byModel := s.Usage("by=model")
	if byModel.Currency == nil || *byModel.Currency != "USD" || len(byModel.Rows) != 3 {
		t.Fatalf("%+v", byModel)
	}
	first := byModel.Rows[0]
	nano := (first.PromptTokens-first.CachedTokens)*2500 + first.CachedTokens*1250 + first.CompletionTokens*10000
	one := fmt.Sprintf("0.%09d", nano)
	if *first.Model != "gpt-4o" || first.CachedTokens != 4 || strings.TrimRight(*first.Cost, "0") != strings.TrimRight(one, "0") || first.UnpricedTokens != 0 {
		t.Errorf("%+v costs %s, want %s", first, *first.Cost, one)
	}
	if row := byModel.Rows[1]; *row.Cost != *first.Cost {
		t.Errorf("the snapshot costs %s", *row.Cost)
	}
	if row := byModel.Rows[2]; row.Cost != nil || row.UnpricedTokens != row.PromptTokens+row.CompletionTokens {
		t.Errorf("%+v has no price", row)
	}
	for _, query := range []string{"", "by=client", "by=day", "by=hour,client", "session=a", "session=a&by=day"} {
		rows := s.Usage(query).Rows
		both := fmt.Sprintf("0.%09d", 2*nano)
		if len(rows) != 1 || rows[0].RequestCount != 3 || strings.TrimRight(*rows[0].Cost, "0") != strings.TrimRight(both, "0") || rows[0].UnpricedTokens != byModel.Rows[2].UnpricedTokens {
			t.Errorf("%q: %+v, want one row of %s", query, rows, both)
		}
	}
	wantAnswered(t, s.Ask("b"))
	if rows := s.Usage("session=b&by=model").Rows; len(rows) != 1 || rows[0].RequestCount != 1 || rows[0].Cost == nil {
		t.Errorf("session b: %+v", rows)
	}
	for query, want := range map[string]int{"session=nobody": 404, "session=a%2Fb": 400} {
		if a := sidecartest.Send(t, "GET", s.URL+"/usage?"+query, ""); a.StatusCode != want {
			t.Errorf("%s: %d %s", query, a.StatusCode, a.Body)
		}
	}
	rows := s.Rows("a")
	if rows[0].Cost != nil || rows[2].Cost == nil || *rows[2].Cost != *first.Cost {
		t.Errorf("costs of requests: %v %v", rows[0].Cost, rows[2].Cost)
	}
	a := sidecartest.Send(t, "GET", s.URL+"/sessions/a/status", "")
	var exact map[string]any
	if err := json.Unmarshal([]byte(a.Body), &exact); err != nil || len(exact) != 5 {
		t.Errorf("the status has not its five members: %s", a.Body)
	}
}

func TestUsage_WithoutPricesHasNone(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base)
	wantAnswered(t, s.Ask("a"))
	u := s.Usage("")
	if u.Currency != nil || u.Rows[0].Cost != nil || u.Rows[0].UnpricedTokens == 0 {
		t.Errorf("%+v", u)
	}
}

// A second sidecar on the same database finds what the first has used.
func TestBudget_IsSharedOnPostgres(t *testing.T) {
	dsn := pgtest.DSN(t)
	_, base := sidecartest.Simulated(t, provider.Config{})
	settings := append(withFile(t, `sessions: [{match: "*", budget: {tokens: 30, per: month}}]`), "REPOSITORY_TYPE", "postgres", "POSTGRES_DSN", dsn)
	first := start(t, base, settings...)
	for range 3 {
		wantAnswered(t, first.Ask("a"))
	}
	wantUsedUp(t, first.Ask("a"))
	second := start(t, base, settings...)
	wantUsedUp(t, second.Ask("b"))
	out, _, err := command(t, append(settings, "OPENAI_API_KEY", "x"), "usage", "--store", "--format=csv")
	if err != nil || !strings.Contains(out, "\na,3,0,") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A reload takes up budgets and prices, and what was used so far counts by the
// new ones.
func TestBudget_IsReloaded(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	const file = `
sessions: [{match: "*", budget: {money: "1.00 USD", per: ever}}]
prices: [{model: "gpt-4o", input: "%[1]s", output: "%[1]s"}]
`
	settings := withFile(t, fmt.Sprintf(file, "1"))
	s := start(t, base, settings...)
	for range 3 {
		wantAnswered(t, s.Ask("a"))
	}
	rewrite(t, settings[1], fmt.Sprintf(file, "30000")) // three requests are more than 1.00, two are less
	s.Hangup(true)
	for n := 0; ; n++ { // the first has the sum read again, and does not wait for that
		a := s.Ask("a")
		if a.StatusCode != 200 {
			wantUsedUp(t, a)
			break
		}
		if n == 2 {
			t.Fatalf("%s of 1.00 were used", *s.Usage("").Rows[0].Cost)
		}
	}
}

// What was under way at a change of prices counts by the new ones too.
func TestBudget_IsReloadedUnderARequest(t *testing.T) {
	arrived, answers := make(chan struct{}, 1), make(chan struct{})
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), "slow") {
			arrived <- struct{}{}
			<-answers
		}
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":100000,"completion_tokens":0,"total_tokens":100000}}`)
	})
	const file = `
sessions: [{match: "*", budget: {money: "1.00 USD", per: ever}}]
prices: [{model: "gpt-4o", input: "%[1]s", output: "%[1]s"}]
`
	settings := withFile(t, fmt.Sprintf(file, "10")) // a request is 1.00
	s := start(t, base, settings...)
	var wg sync.WaitGroup
	wg.Go(func() {
		sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", strings.Replace(sidecartest.Chat, "{", `{"user":"slow",`, 1))
	})
	<-arrived
	rewrite(t, settings[1], fmt.Sprintf(file, "1"))
	s.Hangup(true)
	wantAnswered(t, s.Ask("a"))
	close(answers)
	wg.Wait()
	wantAnswered(t, s.Ask("a"))
}

// A request that passed while its budget could not be read counts once it has ended, though the budget was read in between.
func TestBudget_CountsWhatPassedUnread(t *testing.T) {
	arrived, answers := make(chan struct{}, 1), make(chan struct{})
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), "slow") {
			arrived <- struct{}{}
			<-answers
		}
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":40,"completion_tokens":0,"total_tokens":40}}`)
	})
	settings := sidecartest.SQLite(t)
	s := start(t, base, append(settings, withFile(t, `sessions: [{match: "*", budget: {tokens: 100, per: ever}}]`)...)...)
	db, err := sql.Open("sqlite", "file:"+settings[3]+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(query string) {
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	exec("ALTER TABLE budget_usage RENAME TO away")
	var wg sync.WaitGroup
	wg.Go(func() {
		sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", strings.Replace(sidecartest.Chat, "{", `{"user":"slow",`, 1))
	})
	<-arrived
	exec("ALTER TABLE away RENAME TO budget_usage")
	wantAnswered(t, s.Ask("a")) // 40 are read and settled
	close(answers)
	wg.Wait()
	for n := 0; ; n++ { // 80; the first of these has the sum read again
		a := s.Ask("a")
		if a.StatusCode != 200 {
			wantUsedUp(t, a)
			break
		}
		if n == 1 {
			t.Fatal("160 of 100 tokens were used")
		}
	}
}
