package session

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func request(t *testing.T, path string, headers ...string) *http.Request {
	t.Helper()
	u, err := url.ParseRequestURI(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{Method: http.MethodPost, URL: u, Header: http.Header{}}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func TestFrom_TakesSessionFromPathThenHeader(t *testing.T) {
	for _, c := range []struct {
		name, path string
		headers    []string
		want       Identity
	}{
		{"path", "/v1/session/agent-1/chat/completions", nil, Identity{Session: "agent-1", Target: Target{Rest: "chat/completions"}}},
		{"path wins over header", "/v1/session/a/models", []string{"X-Session-Id", "b"}, Identity{Session: "a", Target: Target{Rest: "models"}}},
		{"header", "/v1/models", []string{"X-Session-Id", "b"}, Identity{Session: "b", Target: Target{Rest: "models"}}},
		{"neither", "/v1/models", nil, Identity{Target: Target{Rest: "models"}}},
		{"encoded id", "/v1/session/a%3Ab%40c/models", nil, Identity{Session: "a:b@c", Target: Target{Rest: "models"}}},
		{"space in id", "/v1/session/a%20b/models", nil, Identity{Session: "a b", Target: Target{Rest: "models"}}},
		{"another script", "/v1/session/%D0%B0%D0%B3%D0%B5%D0%BD%D1%82/models", nil, Identity{Session: "агент", Target: Target{Rest: "models"}}},
		{"session before the path", "/session/a/v1/messages", nil, Identity{Session: "a", Target: Target{Rest: "messages"}}},
		{"session before a path without a version", "/session/a/chat/completions", nil, Identity{Session: "a", Target: Target{Rest: "chat/completions"}}},
		{"version twice around the session", "/v1/session/a/v1/messages", nil, Identity{Session: "a", Target: Target{Rest: "messages"}}},
		{"Azure", "/openai/deployments/prod%2D4o/chat/completions", nil, Identity{Target: Target{Rest: "chat/completions", Origin: "openai/deployments/prod%2D4o/chat/completions", Deployment: "prod-4o"}}},
		{"Azure with a session", "/session/a/openai/deployments/d/embeddings", nil, Identity{Session: "a", Target: Target{Rest: "embeddings", Origin: "openai/deployments/d/embeddings", Deployment: "d"}}},
		{"Azure's later paths", "/session/a/openai/v1/responses", nil, Identity{Session: "a", Target: Target{Rest: "responses", Origin: "openai/v1/responses"}}},
		{"Azure's other paths", "/openai/files", nil, Identity{Target: Target{Rest: "files", Origin: "openai/files"}}},
		{"encoded slash stays", "/v1/models/org%2Fname", nil, Identity{Target: Target{Rest: "models/org%2Fname"}}},
		{"no rest", "/v1/session/a", nil, Identity{Session: "a"}},
		{"parent", "/v1/models", []string{"X-Parent-Session-Id", "p"}, Identity{Target: Target{Rest: "models"}, Parent: "p"}},
		{
			"hints", "/v1/models",
			[]string{"X-Queue-Timeout", "1m30s", "X-Queue-Priority", "low", "X-Queue-Weight", "1000"},
			Identity{Target: Target{Rest: "models"}, MaxWait: 90 * time.Second, Priority: "low", Weight: 100},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := From(request(t, c.path, c.headers...), "X-Session-Id")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFrom_Refuses(t *testing.T) {
	for _, c := range []struct {
		name, path string
		headers    []string
		want       error
	}{
		{"empty id", "/v1/session//chat/completions", nil, ErrInvalidPath},
		{"dot id", "/v1/session/%2E/models", nil, ErrInvalidPath},
		{"dot-dot id", "/v1/session/%2e%2E/models", nil, ErrInvalidPath},
		{"slash in id", "/v1/session/a%2Fb/models", nil, ErrInvalidID},
		{"NUL in id", "/v1/session/a%00/models", nil, ErrInvalidID},
		{"question mark in id", "/v1/session/a%3Fb/models", nil, ErrInvalidID},
		{"hash in id", "/v1/session/a%23b/models", nil, ErrInvalidID},
		{"unseen character in id", "/v1/session/a%E2%80%AEb/models", nil, ErrInvalidID},
		{"not UTF-8", "/v1/session/%ff/models", nil, ErrInvalidID},
		{"id before the path", "/session/a%2Fb/v1/models", nil, ErrInvalidID},
		{"long id", "/v1/session/" + strings.Repeat("a", 129) + "/models", nil, ErrInvalidID},
		{"dot segment", "/v1/models/../keys", nil, ErrInvalidPath},
		{"encoded dot segment", "/v1/models/%2e%2e/keys", nil, ErrInvalidPath},
		{"dot segment behind an encoded slash", "/v1/models/a%2F..%2Fb", nil, ErrInvalidPath},
		{"backslash", "/v1/models/a%5Cb", nil, ErrInvalidPath},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := From(request(t, c.path, c.headers...), "X-Session-Id"); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	for header, value := range map[string]string{
		"X-Queue-Timeout": "-1s", "X-Queue-Priority": "urgent", "X-Queue-Weight": "NaN",
	} {
		t.Run(header, func(t *testing.T) {
			_, err := From(request(t, "/v1/models", header, value), "X-Session-Id")
			if hint := (*HintError)(nil); !errors.As(err, &hint) || hint.Header != header {
				t.Errorf("got %v, want a HintError of %s", err, header)
			}
		})
	}
}

// Chat programs fill the header with what they have. None of it may break a request.
func TestFrom_AHeaderThatIsNoIDIsNoSession(t *testing.T) {
	for value, reason := range map[string]string{
		"": isEmpty, "   ": isEmpty, "%20": isEmpty,
		"{{user}}": placeholder, "{{ user.name }}": placeholder, "chat-{{id}}": placeholder, "${id}": placeholder, "a${id}": placeholder,
		"{user_id}": placeholder, "<user>": placeholder, "<no value>": placeholder, "%USER%": placeholder, "$USER": placeholder, "$(whoami)": placeholder,
		"{% user %}": placeholder, "%7B%7Buser%7D%7D": placeholder, "undefined": placeholder, "null": placeholder, "[object Object]": placeholder,
		"a/b": notAnID, "a%2Fb": notAnID, "..": notAnID, "\xff": notAnID, "a?b": notAnID, strings.Repeat("é", 65): notAnID,
	} {
		for _, header := range []string{"X-Session-Id", parentHeader} {
			got, err := From(request(t, "/v1/models", header, value), "X-Session-Id")
			want := Identity{Target: Target{Rest: "models"}, Ignored: Ignored{header, reason}}
			if err != nil || got != want {
				t.Errorf("%s %q: %+v, %v, want %+v", header, value, got, err, want)
			}
		}
	}
	got, err := From(request(t, "/v1/models", "X-Session-Id", "a", "X-Session-Id", "b"), "X-Session-Id")
	if want := (Identity{Target: Target{Rest: "models"}, Ignored: Ignored{"X-Session-Id", sentTwice}}); err != nil || got != want {
		t.Errorf("sent twice: %+v, %v", got, err)
	}
	for value, want := range map[string]string{
		"me+you@example.org": "me+you@example.org", "J%C3%BCrgen": "Jürgen", "Jürgen": "Jürgen", "a b": "a b", "a%20b": "a b", "50%": "50%", "日本": "日本", "$5": "$5", "it's": "it's",
	} {
		got, err := From(request(t, "/v1/models", "X-Session-Id", value), "X-Session-Id")
		if err != nil || got.Session != want || got.Ignored != (Ignored{}) {
			t.Errorf("%q: %+v, %v, want the session %q", value, got, err, want)
		}
	}
	// The path names the session: what the header says does not matter.
	if got, err := From(request(t, "/v1/session/a/models", "X-Session-Id", "{{user}}"), "X-Session-Id"); err != nil || got.Session != "a" || got.Ignored != (Ignored{}) {
		t.Errorf("beside a path: %+v, %v", got, err)
	}
}

func FuzzFrom(f *testing.F) {
	f.Add("/v1/session/a/models", "b", "", "", "", "")
	f.Add("/session/%D0%B0/openai/deployments/d%2Fe/chat/completions", "{{id}}", "%20", "", "", "")
	f.Add("/v1/session/%2e%2e/models", "a\nb", "parent", "30s", "high", "2.5")
	f.Add("/v1/a%2F..%2Fb", "", "", "1h2m", "low", "NaN")
	f.Fuzz(func(t *testing.T, path, header, parent, timeout, priority, weight string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		r := &http.Request{URL: u, Header: http.Header{
			"X-Session-Id": {header}, parentHeader: {parent},
			timeoutHeader: {timeout}, priorityHeader: {priority}, weightHeader: {weight},
		}}
		id, err := From(r, "X-Session-Id")
		if err != nil {
			return
		}
		for _, name := range []string{id.Session, id.Parent} {
			if name != "" && CheckID(name) != nil {
				t.Fatalf("accepted session %q", name)
			}
		}
		if plain, err := url.PathUnescape(parent); err == nil && id.Parent != plain && id.Parent != "" || id.Priority != priority {
			t.Fatalf("parent %q read as %q, priority %q as %q", parent, id.Parent, priority, id.Priority)
		}
		if id.MaxWait < 0 || (id.MaxWait > 0) != (timeout != "") {
			t.Fatalf("may wait %v, from %q", id.MaxWait, timeout)
		}
		if weight != "" && !(id.Weight >= 0.1 && id.Weight <= 100) || weight == "" && id.Weight != 0 {
			t.Fatalf("weight %v, from %q", id.Weight, weight)
		}
		if plain, err := url.PathUnescape(id.Rest); err == nil {
			for part := range strings.SplitSeq(plain, "/") {
				if part == ".." {
					t.Fatalf("accepted a path that climbs: %q", id.Rest)
				}
			}
		}
	})
}

func TestParseOrigin(t *testing.T) {
	for text, want := range map[string]string{
		"*": "*", "null": "null", "https://Chat.Example": "https://chat.example", "https://chat.example/": "https://chat.example",
		"https://chat.example:443": "https://chat.example", "http://chat.example:80": "http://chat.example", "http://chat.example:443": "http://chat.example:443",
		"app://obsidian.md": "app://obsidian.md", "http://[::1]:3000": "http://[::1]:3000", "http://a:": "http://a", "chrome-extension://abc": "chrome-extension://abc",
	} {
		if got, err := ParseOrigin(text); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", "chat.example", "https://", "https://:443", "https://*.example", "https://a/b", "https://a?b", "https://u@a", "https://a#b", "https://a b", "//a", "https://a, https://b", "https://%80", "https://bücher.example", "https://[fe80::1%25eth0]"} {
		if got, err := ParseOrigin(text); err == nil {
			t.Errorf("%q is taken as %q", text, got)
		}
	}
}

func FuzzOrigin(f *testing.F) {
	for _, seed := range []string{"https://a", "null", "*", "http://[::1]:80", "https://u:p@a", "https://a:443/", "x://%41", "https://[::1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		origin, err := ParseOrigin(text)
		if err != nil {
			return
		}
		if again, err := ParseOrigin(origin); err != nil || again != origin {
			t.Fatalf("%q is %q, and that %q, %v", text, origin, again, err)
		}
		if strings.ContainsAny(origin, " \r\n\t,?#@") || origin != AnyOrigin && strings.Contains(origin, "*") {
			t.Fatalf("%q is %q", text, origin)
		}
	})
}
