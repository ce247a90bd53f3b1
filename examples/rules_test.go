package examples_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

// sent returns the request as middleware lets it go to a sidecar, or its refusal.
func sent(t *testing.T, ctx context.Context, path string, opts ...middleware.Option) (*http.Request, error) {
	t.Helper()
	const sidecar = "http://127.0.0.1:8080"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, sidecar+path, nil)
	if err != nil {
		t.Skip(err) // nothing that Go would send
	}
	var out *http.Request
	_, err = middleware.New(sidecar, opts...)(req, func(r *http.Request) (*http.Response, error) {
		out = r
		return httptest.NewRecorder().Result(), nil
	})
	return out, err
}

// sameRule asks middleware and sidecar for their judgement of a session id, in
// each of the three places where one can be. In a header, the sidecar takes what a
// template left behind as no session.
func sameRule(t *testing.T, id string) {
	t.Helper()
	header := http.Header{middleware.DefaultHeader: {url.PathEscape(id)}}
	asked, err := session.From(&http.Request{URL: &url.URL{Path: "/v1/models"}, Header: header}, middleware.DefaultHeader)
	if err != nil {
		t.Fatal(err)
	}
	want := asked.Session == id && id != ""
	for place, carry := range map[string]func(context.Context, string) context.Context{
		"session": middleware.WithSession, "parent": middleware.WithParent,
	} {
		out, err := sent(t, carry(context.Background(), id), "/v1/chat/completions")
		if (err == nil) != want || err != nil && !errors.Is(err, middleware.ErrInvalidSession) {
			t.Errorf("%s %q: the middleware says %v, the sidecar takes it: %t", place, id, err, want)
		}
		if err != nil {
			continue
		}
		who, err := session.From(out, middleware.DefaultHeader)
		if got := map[string]string{"session": who.Session, "parent": who.Parent}[place]; err != nil || got != id {
			t.Errorf("%s %q reaches the sidecar as %q, %v", place, id, got, err)
		}
	}

	if id == "" {
		return // no segment of a path
	}
	path, want := "/v1/session/"+url.PathEscape(id)+"/chat/completions", session.CheckID(id) == nil
	if _, err := sent(t, context.Background(), path); (err == nil) != want {
		t.Errorf("%s: the middleware says %v, the sidecar takes it: %t", path, err, want)
	}
}

func TestMiddleware_JudgesSessionsAsTheSidecarDoes(t *testing.T) {
	for c := range 256 {
		sameRule(t, string([]byte{byte(c)}))
		sameRule(t, "a"+string([]byte{byte(c)})+"z")
	}
	for _, id := range []string{
		"", ".", "..", "...", ".a", "é", "агент", "日本", "agent-1", "A.b_c:d@e-9", "a b", " a ", "50%", "a%20b", "me+you@example.org", "a\u200bb", "a\u00a0b", "\u2028",
		"{{user}}", "x{{id}}y", "${id}", "{id}", "{a}{b}", "<user>", "%user%", "$USER", "$1", "$(id)", "{% id %}", "[object Object]", "undefined", "null", "nullable",
	} {
		sameRule(t, id)
	}
	for _, n := range []int{session.MaxIDLength - 1, session.MaxIDLength, session.MaxIDLength + 1} {
		sameRule(t, strings.Repeat("x", n))
	}
	if got, want := middleware.ErrInvalidSession.Error(), session.ErrInvalidID.Error(); got != want {
		t.Errorf("the middleware's rule reads %q, the sidecar's %q", got, want)
	}
}

func FuzzMiddleware_JudgesSessionsAsTheSidecarDoes(f *testing.F) {
	for _, id := range []string{"agent-1", "a b", "%2e", "..", "a/b", "\x00", "\u212a"} { // a Kelvin sign folds to k
		f.Add(id)
	}
	f.Fuzz(sameRule)
}

// What the options accept, the sidecar reads, under the names that it knows.
func TestMiddleware_HintsAreReadByTheSidecar(t *testing.T) {
	for _, timeout := range []time.Duration{1, time.Millisecond, 90 * time.Second, 1<<63 - 1} {
		for _, weight := range []float64{0.1, 1, 2.5, 1.0 / 3, 100} {
			for _, priority := range []string{"high", "normal", "low"} {
				ctx := middleware.WithParent(middleware.WithSession(context.Background(), "s"), "p")
				out, err := sent(t, ctx, "/v1/chat/completions",
					middleware.QueueTimeout(timeout), middleware.QueueWeight(weight), middleware.QueuePriority(priority))
				if err != nil {
					t.Fatal(err)
				}
				got, err := session.From(out, middleware.DefaultHeader)
				want := session.Identity{Session: "s", Parent: "p", Target: session.Target{Rest: "chat/completions"}, MaxWait: timeout, Priority: priority, Weight: weight}
				if err != nil || got != want {
					t.Errorf("read %+v, %v, want %+v", got, err, want)
				}
				names := slices.Sorted(maps.Keys(out.Header))
				if want := slices.Sorted(slices.Values(append(session.Headers(), middleware.DefaultHeader))); fmt.Sprint(names) != fmt.Sprint(want) {
					t.Errorf("sent the headers %q, the sidecar knows %q", names, want)
				}
			}
		}
	}
}
