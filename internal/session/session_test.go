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
		{"path", "/v1/session/agent-1/chat/completions", nil, Identity{Session: "agent-1", Rest: "chat/completions"}},
		{"path wins over header", "/v1/session/a/models", []string{"X-Session-Id", "b"}, Identity{Session: "a", Rest: "models"}},
		{"header", "/v1/models", []string{"X-Session-Id", "b"}, Identity{Session: "b", Rest: "models"}},
		{"neither", "/v1/models", nil, Identity{Rest: "models"}},
		{"encoded id", "/v1/session/a%3Ab%40c/models", nil, Identity{Session: "a:b@c", Rest: "models"}},
		{"encoded slash stays", "/v1/models/org%2Fname", nil, Identity{Rest: "models/org%2Fname"}},
		{"no rest", "/v1/session/a", nil, Identity{Session: "a"}},
		{"parent", "/v1/models", []string{"X-Parent-Session-Id", "p"}, Identity{Rest: "models", Parent: "p"}},
		{
			"hints", "/v1/models",
			[]string{"X-Queue-Timeout", "1m30s", "X-Queue-Priority", "low", "X-Queue-Weight", "1000"},
			Identity{Rest: "models", MaxWait: 90 * time.Second, Priority: "low", Weight: 100},
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
		{"space in id", "/v1/session/a%20b/models", nil, ErrInvalidID},
		{"NUL in id", "/v1/session/a%00/models", nil, ErrInvalidID},
		{"unicode id", "/v1/session/%C3%A9/models", nil, ErrInvalidID},
		{"long id", "/v1/session/" + strings.Repeat("a", 129) + "/models", nil, ErrInvalidID},
		{"dot segment", "/v1/models/../keys", nil, ErrInvalidPath},
		{"encoded dot segment", "/v1/models/%2e%2e/keys", nil, ErrInvalidPath},
		{"dot segment behind an encoded slash", "/v1/models/a%2F..%2Fb", nil, ErrInvalidPath},
		{"backslash", "/v1/models/a%5Cb", nil, ErrInvalidPath},
		{"header id", "/v1/models", []string{"X-Session-Id", "a b"}, ErrInvalidID},
		{"empty header id", "/v1/models", []string{"X-Session-Id", ""}, ErrInvalidID},
		{"header twice", "/v1/models", []string{"X-Session-Id", "a", "X-Session-Id", "b"}, ErrInvalidID},
		{"parent", "/v1/models", []string{"X-Parent-Session-Id", "'"}, ErrInvalidID},
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

func FuzzFrom(f *testing.F) {
	f.Add("/v1/session/a/models", "b", "", "", "", "")
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
		if parent == "" { // an empty header would be refused, and nothing behind it read
			r.Header.Del(parentHeader)
		}
		if header == "" {
			r.Header.Del("X-Session-Id")
		}
		id, err := From(r, "X-Session-Id")
		if err != nil {
			return
		}
		for _, name := range []string{id.Session, id.Parent} {
			if name != "" && CheckID(name) != nil {
				t.Fatalf("accepted session %q", name)
			}
		}
		if id.Parent != parent || id.Priority != priority {
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
