package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// bearer is the header of a key; "" for none.
func bearer(key string) []string {
	if key == "" {
		return nil
	}
	return []string{"Authorization", "Bearer " + key}
}

// A probe asks one route, and says in words what its answer shows; a status other than 200 is what it shows.
type probe struct {
	path string // with a query
	show func(body string) string
}

// listed shows a list in JSON as sorted words, each made of the fields of a line.
func listed(list string, fields ...string) func(string) string {
	return func(body string) string {
		var doc map[string]json.RawMessage
		var lines []map[string]any
		if json.Unmarshal([]byte(body), &doc) != nil || json.Unmarshal(doc[list], &lines) != nil {
			return "unreadable: " + body
		}
		words := []string{}
		for _, line := range lines {
			word := ""
			for _, field := range fields {
				if value, ok := line[field]; ok {
					word += fmt.Sprint("/", value)
				}
			}
			words = append(words, word[1:])
		}
		slices.Sort(words)
		return strings.Join(words, " ")
	}
}

func byID(body string) string {
	var all map[string]admin.SessionStatus
	if json.Unmarshal([]byte(body), &all) != nil {
		return "unreadable: " + body
	}
	words := []string{}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		words = append(words, fmt.Sprint(id, "/", all[id].RequestCount))
	}
	return strings.Join(words, " ")
}

func count(body string) string {
	var one admin.SessionStatus
	if json.Unmarshal([]byte(body), &one) != nil {
		return "unreadable: " + body
	}
	return fmt.Sprint(one.RequestCount)
}

// probes are the questions to each route that shows something of clients.
var probes = map[string][]probe{
	"GET /sessions/status":        {{"/sessions/status", byID}},
	"GET /sessions/{id}/status":   {{"/sessions/same/status", count}, {"/sessions/hers/status", count}, {"/sessions/none/status", count}},
	"GET /v1/session/{id}/status": {{"/v1/session/same/status", count}, {"/v1/session/hers/status", count}},
	"GET /sessions/{id}/requests": {{"/sessions/same/requests", listed("requests", "session_id", "client")}, {"/sessions/hers/requests", listed("requests", "session_id", "client")}},
	"GET /sessions":               {{"/sessions", listed("sessions", "client", "session_id", "request_count")}},
	"GET /usage":                  {{"/usage", listed("rows", "request_count")}, {"/usage?by=client", listed("rows", "client", "request_count")}, {"/usage?session=same&by=client", listed("rows", "client", "request_count")}},
	"GET /queue/status":           {{"/queue/status", listed("sessions", "client", "session_id", "position")}},
	"GET /metrics":                {{"/metrics", func(body string) string { return namesIn(body, "alice", "bob", "same", "hers") }}},
	"DELETE /sessions/{id}":       nil, // see TestClients_EndTheirOwn
	"GET /livez":                  {{"/livez", func(string) string { return "ok" }}},
	"GET /readyz":                 {{"/readyz", func(string) string { return "ok" }}},
	"GET /healthz":                {{"/healthz", func(string) string { return "ok" }}},
}

func namesIn(body string, names ...string) string {
	found := []string{}
	for _, name := range names {
		if strings.Contains(body, `"`+name+`"`) {
			found = append(found, name)
		}
	}
	return fmt.Sprint(len(body) > 1000, found)
}

// The whole of docs/access.md: every operators' route, by every kind of caller, on every kind of listener, under every
// combination of keys. alice and bob have a session of the same id, and so had nobody before there were keys.
func TestClients_WhoSeesWhat(t *testing.T) {
	const clients, admins = "alice=a-key,bob=b-key", "root=r-key"
	all := map[string]string{
		"/sessions/status": "hers/1 old/1 same/4", "/sessions/same/status": "4", "/sessions/hers/status": "1", "/sessions/none/status": "404",
		"/v1/session/same/status": "4", "/v1/session/hers/status": "1",
		"/sessions/same/requests": "same/127.0.0.1 same/alice same/alice same/bob", "/sessions/hers/requests": "hers/alice",
		"/sessions": "<nil>/old/1 <nil>/same/1 alice/hers/1 alice/same/2 bob/same/1",
		"/usage":    "6", "/usage?by=client": "127.0.0.1/2 alice/3 bob/1", "/usage?session=same&by=client": "127.0.0.1/1 alice/2 bob/1",
		"/queue/status": "alice/queued/1 bob/queued/2", "/metrics": "true []",
	}
	alices := map[string]string{
		"/sessions/status": "hers/1 same/2", "/sessions/same/status": "2", "/sessions/hers/status": "1", "/sessions/none/status": "404",
		"/v1/session/same/status": "2", "/v1/session/hers/status": "1",
		"/sessions/same/requests": "same/alice same/alice", "/sessions/hers/requests": "hers/alice", "/sessions": "alice/hers/1 alice/same/2",
		"/usage": "3", "/usage?by=client": "alice/3", "/usage?session=same&by=client": "alice/2",
		"/queue/status": "alice/queued/1", "/metrics": "true []",
	}
	bobs := map[string]string{
		"/sessions/status": "same/1", "/sessions/same/status": "1", "/sessions/hers/status": "404", "/sessions/none/status": "404",
		"/v1/session/same/status": "1", "/v1/session/hers/status": "404",
		"/sessions/same/requests": "same/bob", "/sessions/hers/requests": "404", "/sessions": "bob/same/1",
		"/usage": "1", "/usage?by=client": "bob/1", "/usage?session=same&by=client": "bob/1",
		"/queue/status": "bob/queued/2", "/metrics": "true []",
	}
	but := func(view map[string]string, path, want string) map[string]string {
		view = maps.Clone(view)
		view[path] = want
		return view
	}
	none := func(status string) map[string]string {
		view := map[string]string{}
		for path := range all {
			view[path] = status
		}
		return view
	}
	for _, c := range []struct {
		name     string
		settings []string
		main     map[string]map[string]string // what callers see, by key
		own      map[string]map[string]string // the same on ADMIN_ADDR
		local    bool                         // which is on loopback
	}{
		{
			"client keys",
			[]string{"CLIENT_API_KEYS", clients},
			map[string]map[string]string{"": none("401"), "x": none("401"), "a-key": alices, "b-key": bobs},
			nil, false,
		},
		{
			"client keys, ADMIN_ADDR on loopback",
			[]string{"CLIENT_API_KEYS", clients},
			map[string]map[string]string{"": none("401"), "a-key": alices},
			map[string]map[string]string{"": all, "a-key": all, "x": all},
			true,
		},
		{
			"client keys, ADMIN_ADDR for all",
			[]string{"CLIENT_API_KEYS", clients},
			map[string]map[string]string{"": none("401"), "b-key": bobs},
			map[string]map[string]string{"": none("401"), "x": none("401"), "a-key": but(alices, "/usage", "6"), "b-key": but(bobs, "/usage", "6")},
			false,
		},
		{
			"client and admin keys",
			[]string{"CLIENT_API_KEYS", clients, "ADMIN_API_KEYS", admins},
			map[string]map[string]string{"": none("401"), "x": none("401"), "a-key": but(alices, "/metrics", "403"), "b-key": but(bobs, "/metrics", "403"), "r-key": all},
			nil, false,
		},
		{
			"client and admin keys, ADMIN_ADDR on loopback",
			[]string{"CLIENT_API_KEYS", clients, "ADMIN_API_KEYS", admins},
			map[string]map[string]string{"": none("401"), "r-key": all},
			map[string]map[string]string{"": none("401"), "x": none("401"), "a-key": but(alices, "/metrics", "403"), "r-key": all},
			true,
		},
		{
			"client and admin keys, ADMIN_ADDR for all",
			[]string{"CLIENT_API_KEYS", clients, "ADMIN_API_KEYS", admins},
			map[string]map[string]string{"a-key": but(alices, "/metrics", "403")},
			map[string]map[string]string{"": none("401"), "b-key": but(bobs, "/metrics", "403"), "r-key": all},
			false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			hold := make(chan struct{})
			defer close(hold)
			upstream := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
				if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), "hold") {
					select {
					case <-hold:
					case <-r.Context().Done():
					}
				}
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, `{"id":"1","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
			})
			store := sidecartest.SQLite(t)
			before := start(t, upstream, store...)
			wantAnswered(t, before.Ask("same"))
			wantAnswered(t, before.Ask("old"))
			if err := before.Stop(); err != nil {
				t.Fatal(err)
			}

			settings := slices.Concat(store, c.settings, []string{"MAX_CONCURRENT_REQUESTS", "1"})
			if c.own != nil {
				address := freeAddress(t)
				if !c.local {
					address = strings.Replace(address, "127.0.0.1", "0.0.0.0", 1)
				}
				settings = append(settings, "ADMIN_ADDR", address)
			}
			s := start(t, upstream, settings...)
			for session, key := range map[string]string{"hers": "a-key", "same": "b-key"} {
				wantAnswered(t, s.Ask(session, bearer(key)...))
			}
			for range 2 {
				wantAnswered(t, s.Ask("same", bearer("a-key")...))
			}
			adminURL := ""
			if c.own != nil {
				adminURL = "http://" + strings.Replace(settings[len(settings)-1], "0.0.0.0", "127.0.0.1", 1)
			}
			queued(t, s, adminURL)
			below := func(pattern string) bool { return strings.Contains(pattern, "/v1/") }
			for key, want := range c.main {
				seeAll(t, s.URL, key, want, func(pattern string) bool { return c.own == nil || below(pattern) })
			}
			for key, want := range c.own {
				seeAll(t, adminURL, key, want, func(pattern string) bool { return !below(pattern) })
			}
		})
	}

	for _, route := range configured(&config.Config{}).routes() {
		if _, probed := probes[route.Pattern]; !probed && route.Pattern != "/" && route.To != httpapi.ToClients {
			t.Errorf("nobody asked who sees %s", route.Pattern)
		}
	}
}

// queued has a request of alice's at the provider, and one of hers and one of bob's wait behind it, in this order.
func queued(t *testing.T, s *sidecartest.Sidecar, adminURL string) {
	t.Helper()
	body := strings.Replace(sidecartest.Chat, "gpt-4o", "gpt-hold", 1)
	state := func(name string) string {
		url := s.URL
		if adminURL != "" {
			url = adminURL
		}
		var status map[string]any
		a := sidecartest.Send(t, "GET", url+"/queue/status", "", bearer("a-key")...)
		if err := json.Unmarshal([]byte(a.Body), &status); err != nil {
			t.Fatal(err, a.Body)
		}
		return fmt.Sprint(status[name])
	}
	for i, ask := range []struct{ session, key string }{{"first", "a-key"}, {"queued", "a-key"}, {"queued", "b-key"}} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = sidecartest.Try(t.Context(), "POST", s.URL+"/v1/session/"+ask.session+"/chat/completions", body, bearer(ask.key)...)
		}()
		t.Cleanup(func() { <-done })
		name, want := "waiting", fmt.Sprint(i)
		if i == 0 {
			name, want = "in_flight", "1"
		}
		sidecartest.Eventually(t, name, func() bool { return state(name) == want })
	}
}

// seeAll asks every route on one listener by a key. Routes of another listener are unknown to those who may ask.
func seeAll(t *testing.T, url, key string, want map[string]string, served func(pattern string) bool) {
	t.Helper()
	for pattern, questions := range probes {
		for _, q := range questions {
			a := sidecartest.Send(t, "GET", url+q.path, "", bearer(key)...)
			got := fmt.Sprint(a.StatusCode)
			if a.StatusCode == 200 {
				got = q.show(a.Body)
			}
			expected, shown := want[q.path]
			if !shown {
				expected = "ok" // health
			} else if !served(pattern) && expected != "401" {
				expected = "404"
			}
			if got != expected {
				t.Errorf("%s%s by %q: %s, want %s", url, q.path, key, got, expected)
			}
		}
	}
}

// A client ends its own sessions; an admin says whose, where several clients have one of the id.
func TestClients_EndTheirOwn(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "CLIENT_API_KEYS", "alice=a-key,bob=b-key", "ADMIN_API_KEYS", "root=r-key")
	for _, ask := range []struct{ session, key string }{{"same", "a-key"}, {"same", "b-key"}, {"hers", "a-key"}} {
		wantAnswered(t, s.Ask(ask.session, bearer(ask.key)...))
	}
	send := func(method, path, key string) string {
		a := sidecartest.Send(t, method, s.URL+path, "", bearer(key)...)
		if a.StatusCode < 300 {
			return fmt.Sprint(a.StatusCode)
		}
		return fmt.Sprint(a.StatusCode, " ", sidecartest.ErrorOf(t, a))
	}
	for _, step := range []struct{ method, path, key, want string }{
		{"DELETE", "/sessions/hers", "b-key", "404 unknown_session"},
		{"DELETE", "/sessions/none", "b-key", "404 unknown_session"},
		{"DELETE", "/sessions/hers?client=alice", "b-key", "404 unknown_session"},
		{"DELETE", "/sessions/same?client=alice", "b-key", "404 unknown_session"}, // and not bob's own
		{"DELETE", "/sessions/same?client=", "b-key", "404 unknown_session"},
		{"GET", "/sessions/same/status", "b-key", "200"},
		{"GET", "/sessions/same/requests?client=alice", "b-key", "404 unknown_session"},
		{"GET", "/sessions/same/status?client=alice", "b-key", "404 unknown_session"},
		{"GET", "/sessions/none/status?client=alice", "b-key", "404 unknown_session"},
		{"GET", "/sessions/same/status?client=bob", "b-key", "200"},
		{"GET", "/sessions?client=alice", "b-key", "403 admin_key_needed"},
		{"GET", "/sessions?client=nobody-known", "b-key", "403 admin_key_needed"},
		{"GET", "/sessions/status?client=alice", "b-key", "403 admin_key_needed"},
		{"GET", "/usage?client=alice", "b-key", "403 admin_key_needed"},
		{"GET", "/usage?client=alice&session=same", "b-key", "403 admin_key_needed"},
		{"GET", "/usage?session=hers", "b-key", "404 unknown_session"},
		{"GET", "/usage?session=none", "b-key", "404 unknown_session"},
		{"GET", "/usage?client=", "r-key", "400 invalid_query"},

		{"GET", "/sessions/same/status?client=alice", "r-key", "200"},
		{"GET", "/sessions/same/status?client=", "r-key", "404 unknown_session"}, // nobody has none
		{"GET", "/sessions/hers/requests?client=bob", "r-key", "404 unknown_session"},
		{"DELETE", "/sessions/same", "r-key", "409 ambiguous_session"},
		{"DELETE", "/sessions/same?client=carol", "r-key", "404 unknown_session"},
		{"DELETE", "/sessions/same?client=alice", "r-key", "204"},
		{"GET", "/sessions/same/status", "a-key", "404 unknown_session"},
		{"GET", "/sessions/same/status", "b-key", "200"},
		{"GET", "/sessions/hers/status", "a-key", "200"},
		{"DELETE", "/sessions/same", "r-key", "204"}, // there is one left
		{"GET", "/sessions/same/status", "b-key", "404 unknown_session"},
		{"DELETE", "/sessions/hers", "a-key", "204"},
		{"GET", "/sessions/hers/status", "r-key", "404 unknown_session"},

		// An admin spends nothing, and is no client.
		{"GET", "/v1/models", "r-key", "401 invalid_api_key"},
		{"GET", "/none", "r-key", "404 unknown_route"},
	} {
		if got := send(step.method, step.path, step.key); got != step.want {
			t.Errorf("%s %s by %s: %s, want %s", step.method, step.path, step.key, got, step.want)
		}
	}
}

// A cursor turns the pages of the client that it was given to.
func TestClients_CursorsAreTheirs(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "CLIENT_API_KEYS", "alice=a-key,bob=b-key", "ADMIN_API_KEYS", "root=r-key")
	for _, key := range []string{"a-key", "b-key"} {
		for _, session := range []string{"same", "same", "other"} {
			wantAnswered(t, s.Ask(session, bearer(key)...))
		}
	}
	for _, path := range []string{"/sessions", "/sessions/same/requests"} {
		page := func(cursor, key string) (status int, next string) {
			a := sidecartest.Send(t, "GET", s.URL+path+"?limit=1&cursor="+cursor, "", bearer(key)...)
			var doc struct {
				Next string `json:"next_cursor"`
			}
			if err := json.Unmarshal([]byte(a.Body), &doc); err != nil {
				t.Fatal(err, a.Body)
			}
			return a.StatusCode, doc.Next
		}
		_, cursor := page("", "a-key")
		if status, next := page(cursor, "a-key"); status != 200 || next != "" {
			t.Errorf("%s: alice's second page: %d, and %q follows", path, status, next)
		}
		for _, forged := range []string{cursor[:len(cursor)-2], cursor + "AA", "MTc2NDMzNzQ5OTAwMC4x", "x", "01a22266-e84b-7c72-bd47-1c02d41829be"} {
			if status, _ := page(forged, "a-key"); status != 400 {
				t.Errorf("%s: the cursor %q gets %d", path, forged, status)
			}
		}
		for _, key := range []string{"b-key", "r-key"} {
			if status, _ := page(cursor, key); status != 400 {
				t.Errorf("%s: %s turns alice's page: %d", path, key, status)
			}
		}
	}
}

// Keys come and go: a client is its name, and what was nobody's stays so.
func TestClients_KeysChange(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	store := sidecartest.SQLite(t)
	clients, admins := sidecartest.WriteFile(t, "clients", "alice=a-1\nk-1\n"), sidecartest.WriteFile(t, "admins", "r-1\n")
	s := start(t, base, append(store, "CLIENT_API_KEYS_FILE", clients, "ADMIN_API_KEYS_FILE", admins)...)
	see := func(key string) string {
		a := sidecartest.Send(t, "GET", s.URL+"/sessions", "", bearer(key)...)
		if a.StatusCode != 200 {
			return fmt.Sprint(a.StatusCode)
		}
		return listed("sessions", "client", "session_id", "request_count")(a.Body)
	}
	expect := func(when string, want map[string]string) {
		t.Helper()
		for key, want := range want {
			if got := see(key); got != want {
				t.Errorf("%s: %q sees %s, want %s", when, key, got, want)
			}
		}
	}
	wantAnswered(t, s.Ask("s", bearer("a-1")...))
	wantAnswered(t, s.Ask("s", bearer("k-1")...))
	expect("at the start", map[string]string{"a-1": "alice/s/1", "k-1": "key-2/s/1", "r-1": "alice/s/1 key-2/s/1", "r-2": "401"})

	rewrite(t, clients, "alice=a-1,alice=a-2,bob=k-1")
	rewrite(t, admins, "root=r-2")
	s.Hangup(true)
	wantAnswered(t, s.Ask("s", bearer("a-2")...))
	expect("with a second key of alice's, and a name for the other client", map[string]string{
		"a-1": "alice/s/2", "a-2": "alice/s/2", "k-1": "", "r-1": "401", "r-2": "alice/s/2 key-2/s/1",
	})

	const said = "client keys without a name have another place, and with it other sessions: name them"
	for i, step := range []struct{ keys, want string }{
		{"alice=a-1\nbob=k-1", ""}, {"k-1\nalice=a-1", "[bob, now key-1]"}, {"k-1\nbob=b-1", ""}, {"k-0\nk-1", "[key-1, now key-2]"},
	} {
		before := len(s.Log.Lines(said))
		rewrite(t, clients, step.keys)
		s.Hangup(true)
		got := ""
		for _, line := range s.Log.Lines(said)[before:] {
			got += fmt.Sprint(line["clients"])
		}
		if got != step.want {
			t.Errorf("step %d: the log names %q, want %q", i, got, step.want)
		}
	}

	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, base, store...)
	wantAnswered(t, s.Ask("s"))
	expect("without keys", map[string]string{"": "<nil>/s/1 alice/s/2 key-2/s/1", "a-1": "<nil>/s/1 alice/s/2 key-2/s/1"})
	if got := byID(sidecartest.Send(t, "GET", s.URL+"/sessions/status", "").Body); got != "s/4" {
		t.Errorf("without keys the sum is %s", got)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, base, append(store, "CLIENT_API_KEYS", "alice=a-3")...)
	wantAnswered(t, s.Ask("s", bearer("a-3")...))
	expect("with keys again", map[string]string{"a-3": "alice/s/3", "": "401"})
}

// Budgets are each client's own, though sessions and parents have the same ids.
func TestClients_BudgetsAreTheirOwn(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	settings := slices.Concat(sidecartest.SQLite(t), withFile(t, "sessions: [{match: '*', budget: {tokens: 14, per: ever, each: session}}]"),
		[]string{"CLIENT_API_KEYS", "alice=a-key,bob=b-key"})
	for range 2 { // the second time they are read from the ledger
		s := start(t, base, settings...)
		if first := s.Ask("child", append(bearer("a-key"), "X-Parent-Session-Id", "root")...); first.StatusCode != 200 && first.StatusCode != 402 {
			t.Errorf("%d %s", first.StatusCode, first.Body)
		}
		for _, session := range []string{"child", "root"} {
			if a := s.Ask(session, bearer("a-key")...); a.StatusCode != 402 {
				t.Errorf("alice's %s passes its budget: %d", session, a.StatusCode)
			}
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, base, settings...)
	for _, session := range []string{"child", "root"} { // bob named no parent
		if a := s.Ask(session, bearer("b-key")...); a.StatusCode != 200 {
			t.Errorf("bob's %s: %d %s", session, a.StatusCode, a.Body)
		}
	}
}

// The commands ask by the admin's key, if there is one.
func TestClients_CommandsOfAdmins(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	keys := []string{"CLIENT_API_KEYS", "alice=a-key,bob=b-key"}
	admins := append(slices.Clone(keys), "ADMIN_API_KEYS", "r-key")
	s := start(t, base, admins...)
	for _, key := range []string{"a-key", "b-key"} {
		wantAnswered(t, s.Ask("same", bearer(key)...))
	}
	at := []string{"OPENAI_API_KEY", "sk-1", "LISTEN_ADDR", strings.TrimPrefix(s.URL, "http://")}
	for name, c := range map[string]struct {
		env  []string
		want string
	}{
		"with an admin's key": {append(at, admins...), "alice bob"},
		"with a client's":     {append(at, keys...), "alice"},
	} {
		out, _, err := command(t, c.env, "usage", "--by=client", "--format=json")
		if got := listed("rows", "client")(out); err != nil || got != c.want {
			t.Errorf("%s: %v, %s", name, err, got)
		}
		for _, args := range [][]string{{"queue"}, {"healthcheck"}} {
			if _, _, err := command(t, c.env, args...); err != nil {
				t.Errorf("%s: %v: %v", name, args, err)
			}
		}
	}
	table, _, err := command(t, append(at, admins...), "usage")
	if err != nil || strings.Count(table, "same") != 2 || !strings.Contains(table, "CLIENT") || !strings.Contains(table, "bob") {
		t.Errorf("%v\n%s", err, table)
	}
}
