package examples_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/client"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

// The sidecar and package client describe the same JSON in types of their own.
// Each real answer must survive a trip through the client's type: a member that
// the type lacks fails to decode, one that it has too many or spells differently
// shows when encoded again.
func TestClient_TypesEqualTheSidecars(t *testing.T) {
	file := filepath.Join(t.TempDir(), "prices.yaml")
	if err := os.WriteFile(file, []byte(`prices: [{model: "gpt-4o", input: "2.50", output: "10.00"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, provider.Config{}, "MAX_CONCURRENT_REQUESTS=1", "TOKEN_LIMIT_PER_MIN=1000000", "CONFIG_FILE="+file)
	ctx := context.Background()

	// One request of known usage, one of unknown, and one that is not metered.
	chat(t, s, "a", "cached 3 tokens, think 2 tokens, say 5 words")
	s.provider.Script(provider.NoUsage())
	chat(t, s, "a", "say 5 words")
	chat(t, s, "b", "say 5 words")
	do(t, s, "a", http.MethodGet, "/models", "")

	sameJSON[map[string]client.SessionStatus](t, s, "/sessions/status", `a.total_tokens`, `b.request_count`)
	sameJSON[client.SessionStatus](t, s, "/sessions/a/status", `session_id`)
	sameJSON[client.SessionPage](t, s, "/sessions", `sessions.1.session_id`, `sessions.0.last_at`, `next_cursor`)
	sameJSON[client.SessionPage](t, s, "/sessions?limit=1", `next_cursor`)
	sameJSON[client.RequestPage](t, s, "/sessions/a/requests", `requests.1.usage_source`, `requests.0.total_ms`, `requests.*.cost`)
	sameJSON[client.RequestPage](t, s, "/sessions/a/requests?limit=1", `next_cursor`)
	sameJSON[client.Usage](t, s, "/usage", `rows.0.prompt_tokens`, `rows.0.cost`, `rows.0.unpriced_tokens`, `currency`)
	sameJSON[client.Usage](t, s, "/usage?by=hour,model,client", `rows.0.time`, `rows.0.model`, `rows.0.client`, `by.2`)
	sameJSON[client.Usage](t, s, "/usage?session=a&by=model", `rows.0.cost`)
	sameJSON[client.Queue](t, s, "/queue/status", `groups.0.limits.0.level`, `groups.*.limits.*.source`, `sessions`)

	t.Run("while requests wait", func(t *testing.T) {
		// A provider that asks for patience: the group pauses, and both wait.
		s.provider.Script(provider.Throttle(50*time.Second), provider.Throttle(50*time.Second))
		waiting, leave := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for _, session := range []string{"c", "d"} {
			wg.Go(func() {
				req := newRequest(t, waiting, s, session, http.MethodPost, "/chat/completions", chatBody("say 5 words"))
				if resp, err := http.DefaultClient.Do(req); err == nil {
					resp.Body.Close()
				}
			})
		}
		defer wg.Wait()
		defer leave()
		until(t, func() bool {
			queue, err := s.client.Queue(ctx)
			return err == nil && len(queue.Sessions) == 2 &&
				slices.ContainsFunc(queue.Groups, func(g client.QueueGroup) bool { return g.PausedUntil != nil })
		})
		sameJSON[client.Queue](t, s, "/queue/status", `sessions.1.position`, `groups.*.paused_until`)
	})
	t.Run("errors", func(t *testing.T) {
		_, err := s.client.Session(ctx, "nobody")
		assertError(t, err, http.StatusNotFound)
		_, err = s.client.Session(ctx, "a/b")
		assertError(t, err, http.StatusBadRequest)
		for _, err := range s.client.Requests(ctx, "a/b") {
			assertError(t, err, http.StatusBadRequest)
		}
	})
	t.Run("iteration, totals and deletion", func(t *testing.T) {
		small, err := client.New(s.sidecar, client.WithPageSize(1))
		if err != nil {
			t.Fatal(err)
		}
		sessions := map[string]client.Session{}
		for session, err := range small.Sessions(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			sessions[session.ID] = session
		}
		// The session that was sent once and then left may have a row, of no usage.
		delete(sessions, "c")
		delete(sessions, "d")
		if ids := slices.Sorted(maps.Keys(sessions)); !slices.Equal(ids, []string{"a", "b"}) {
			t.Errorf("sessions = %q", ids)
		}
		if a := sessions["a"]; a.RequestCount != 2 || a.UnknownUsageCount != 1 || a.CachedTokens != 3 || a.ReasoningTokens != 2 {
			t.Errorf("session a = %+v", a)
		}
		metered := 0
		for request, err := range small.Requests(ctx, "a") {
			if err != nil {
				t.Fatal(err)
			}
			if request.Metered {
				metered++
			}
		}
		if metered != 2 {
			t.Errorf("%d metered requests, want 2", metered)
		}
		now := time.Now()
		totals, err := s.client.Totals(ctx, now.Add(-time.Hour), now.Add(time.Hour))
		if want := sessions["a"].TotalPromptTokens + sessions["b"].TotalPromptTokens; err != nil || totals.PromptTokens != want {
			t.Errorf("totals = %+v, %v, want %d prompt tokens", totals, err, want)
		}
		if err := s.client.DeleteSession(ctx, "a"); err != nil {
			t.Error(err)
		}
		_, err = s.client.Session(ctx, "a")
		assertError(t, err, http.StatusNotFound)
	})
}

// sameJSON holds an answer equal to its decoding into T, encoded again. The
// answer has to have members (patterns of path.Match, as no name holds a slash), so
// that an empty list proves nothing by accident.
func sameJSON[T any](t *testing.T, s *stack, route string, members ...string) {
	t.Helper()
	resp, err := http.Get(strings.TrimSuffix(s.sidecar, "/v1") + route) //nolint:noctx // local
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %v %s", route, resp.StatusCode, err, raw)
	}
	var typed T
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&typed); err != nil {
		t.Errorf("%s: %v in %s", route, err, raw)
		return
	}
	again, err := json.Marshal(typed)
	if err != nil {
		t.Fatal(err)
	}
	have, want := flatten(t, again), flatten(t, raw)
	for member := range maps.Keys(want) {
		if have[member] != want[member] {
			t.Errorf("%s: %s is %s, the client's type makes it %s", route, member, want[member], have[member])
		}
	}
	for member := range maps.Keys(have) {
		if _, ok := want[member]; !ok {
			t.Errorf("%s: only the client's type has %s", route, member)
		}
	}
	for _, member := range members {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(have string) bool {
			ok, _ := path.Match(member, have)
			return ok && (want[have] != "null" || mayBeNull[have])
		}) {
			t.Errorf("%s: the answer has no %s: %s", route, member, raw)
		}
	}
}

// mayBeNull names members whose being null is an answer.
var mayBeNull = map[string]bool{"next_cursor": true}

// flatten maps the path of each value of a JSON document, containers included,
// to its text. Times are put into one spelling.
func flatten(t *testing.T, doc []byte) map[string]string {
	t.Helper()
	flat := map[string]string{}
	var walk func(path string, value any)
	walk = func(path string, value any) {
		switch value := value.(type) {
		case map[string]any:
			flat[path] = "an object"
			for name, member := range value {
				walk(strings.TrimPrefix(path+"."+name, "."), member)
			}
		case []any:
			flat[path] = "a list"
			for i, member := range value {
				walk(strings.TrimPrefix(fmt.Sprint(path, ".", i), "."), member)
			}
		case nil:
			flat[path] = "null"
		case string:
			flat[path] = fmt.Sprintf("%q", value)
			if at, err := time.Parse(time.RFC3339, value); err == nil {
				flat[path] = at.UTC().Format(time.RFC3339Nano)
			}
		default:
			flat[path] = fmt.Sprint(value)
		}
	}
	var value any
	decoder := json.NewDecoder(bytes.NewReader(doc))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	walk("", value)
	return flat
}

func chatBody(prompt string) string {
	return fmt.Sprintf(`{"model":"gpt-4o","messages":[{"role":"user","content":%q}]}`, prompt)
}

func chat(t *testing.T, s *stack, session, prompt string) {
	t.Helper()
	do(t, s, session, http.MethodPost, "/chat/completions", chatBody(prompt))
}

func newRequest(t *testing.T, ctx context.Context, s *stack, session, method, path, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(middleware.WithSession(ctx, session), method, s.sidecar+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Session-Id", session)
	return req
}

func do(t *testing.T, s *stack, session, method, path, body string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(newRequest(t, context.Background(), s, session, method, path, body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %v %s", path, resp.StatusCode, err, answer)
	}
}

func assertError(t *testing.T, err error, status int) {
	t.Helper()
	answer, ok := asError[*client.Error](err)
	if !ok || answer.StatusCode != status || answer.Code == "" || answer.Message == "" {
		t.Errorf("error = %v, want a %d with a code and a message", err, status)
	}
}

// until asks again and again, for at most half a minute.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatal("it did not come to that in 30 s")
		case <-ticker.C:
		}
	}
}

// Two clients have a session of one id. Each sees its own, and an admin says whose it means.
func TestClient_AdminsAndClients(t *testing.T) {
	s := start(t, provider.Config{}, "CLIENT_API_KEYS=alice=a-key,bob=b-key", "ADMIN_API_KEYS=root=r-key")
	ctx := context.Background()
	by := func(key string) *client.Client {
		c, err := client.New(s.sidecar, client.WithKey(key), client.WithPageSize(1))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, key := range []string{"a-key", "b-key", "b-key"} {
		req := newRequest(t, ctx, s, "same", http.MethodPost, "/chat/completions", chatBody("say 5 words"))
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp.StatusCode, err)
		}
		resp.Body.Close()
	}
	root := by("r-key")
	for name, c := range map[string]struct {
		client *client.Client
		want   string // sessions with their clients, and the rows of the id
	}{
		"alice": {by("a-key"), "alice/1 of 1"}, "bob": {by("b-key"), "bob/2 of 2"}, "root": {root, "alice/1 bob/2 of 3"},
		"root of alice": {root.Of("alice"), "alice/1 of 1"}, "root of bob": {root.Of("bob"), "bob/2 of 2"}, "alice of alice": {by("a-key").Of("alice"), "alice/1 of 1"},
	} {
		var lines []string
		for session, err := range c.client.Sessions(ctx) {
			if err != nil || session.Client == nil {
				t.Fatalf("%s: %+v, %v", name, session, err)
			}
			lines = append(lines, fmt.Sprint(*session.Client, "/", session.RequestCount))
		}
		slices.Sort(lines)
		rows := int64(0)
		for _, err := range c.client.Requests(ctx, "same") {
			if rows++; err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		status, err := c.client.Session(ctx, "same")
		totals, err2 := c.client.Totals(ctx, time.Time{}, time.Time{})
		if got := fmt.Sprint(strings.Join(lines, " "), " of ", rows); got != c.want || err != nil || err2 != nil || status.RequestCount != rows || totals.RequestCount != rows {
			t.Errorf("%s: %s, %+v %v, %+v %v; want %s", name, got, status, err, totals, err2, c.want)
		}
	}
	_, err := by("a-key").Of("bob").Session(ctx, "same")
	assertError(t, err, http.StatusNotFound)
	_, err = by("wrong").Session(ctx, "same")
	assertError(t, err, http.StatusUnauthorized)
	assertError(t, root.DeleteSession(ctx, "same"), http.StatusConflict)
	if err := root.Of("alice").DeleteSession(ctx, "same"); err != nil {
		t.Error(err)
	}
	if status, err := by("b-key").Session(ctx, "same"); err != nil || status.RequestCount != 2 {
		t.Errorf("bob's is %+v, %v", status, err)
	}
}
