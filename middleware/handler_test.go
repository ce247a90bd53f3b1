package middleware_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

func TestHandler_TakesTheSessionIntoTheContext(t *testing.T) {
	user := func(r *http.Request) string { return strings.TrimPrefix(r.URL.Path, "/user/") }
	tests := []struct {
		name    string
		sources []middleware.Source
		header  http.Header
		want    string // "-" when the context has no session
	}{
		{"from the default header", nil, http.Header{"X-Session-Id": {"web-1"}}, "web-1"},
		{"from a header of another name", []middleware.Source{middleware.FromHeader("X-User")}, http.Header{"X-User": {"u1"}}, "u1"},
		{"from a function", []middleware.Source{user}, nil, "7"},
		{
			"from the first source that has one",
			[]middleware.Source{middleware.FromHeader("X-User"), middleware.FromCookie("sid"), user},
			nil, "7",
		},
		{
			"from no later source then",
			[]middleware.Source{middleware.FromHeader("X-User"), user},
			http.Header{"X-User": {"u1"}},
			"u1",
		},
		{
			"as a digest of a cookie",
			[]middleware.Source{middleware.FromCookie("sid")},
			http.Header{"Cookie": {"sid=abc"}},
			"cookie-ba7816bf8f01cfea414140de5dae2223", // FIPS 180-2, appendix B.1
		},
		{"not from an empty cookie", []middleware.Source{middleware.FromCookie("sid")}, http.Header{"Cookie": {"sid="}}, "-"},
		{"not when no source has one", nil, nil, "-"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := "not called"
			handler := middleware.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				id, ok := middleware.SessionFrom(r.Context())
				got = id
				if !ok {
					got = "-"
				}
			}), tt.sources...)
			req := httptest.NewRequest(http.MethodGet, "/user/7", nil)
			for name, values := range tt.header {
				req.Header[name] = values
			}
			handler.ServeHTTP(httptest.NewRecorder(), req)
			if got != tt.want {
				t.Errorf("session = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestHandler_AnswersInvalidSessionsItself(t *testing.T) {
	handler := middleware.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the application saw the request")
	}), func(*http.Request) string { return "a/b" })
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, req)
	if answer.Code != http.StatusBadRequest || !strings.Contains(answer.Body.String(), "1 to 128 bytes") {
		t.Errorf("answer = %d %q, want 400 with the rule", answer.Code, answer.Body)
	}
	if strings.Contains(answer.Body.String(), "a/b") {
		t.Error("the answer repeats what an outsider sent")
	}
}

func TestHandler_AHeaderThatIsNoSessionBreaksNoRequest(t *testing.T) {
	for sent, want := range map[string]string{
		"": "", " ": "", "{{user}}": "", "${id}": "", "a/b": "", "undefined": "", strings.Repeat("x", 129): "",
		"a%20b": "a b", "J%C3%BCrgen": "Jürgen", "me+you@example.org": "me+you@example.org", "50%": "50%",
	} {
		got := "never called"
		handler := middleware.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			got, _ = middleware.SessionFrom(r.Context())
		}))
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.Header.Set("X-Session-Id", sent)
		handler.ServeHTTP(httptest.NewRecorder(), req)
		if got != want {
			t.Errorf("header %q: session %q, want %q", sent, got, want)
		}
	}
}

func TestHandler_PropagatesToTheSidecar(t *testing.T) {
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	tests := []struct {
		name          string
		header        http.Header
		opts          []middleware.Option
		parent, state string
	}{
		{
			name:   "the incoming trace context travels on",
			header: http.Header{"Traceparent": {parent}, "Tracestate": {"a=1", "b=2"}},
			parent: parent, state: "a=1,b=2",
		},
		{
			name:   "the application's own trace comes first",
			header: http.Header{"Traceparent": {parent}, "Tracestate": {"a=1"}},
			opts: []middleware.Option{middleware.Trace(func(ctx context.Context, h http.Header) {
				id, _ := middleware.SessionFrom(ctx)
				h.Set("traceparent", "of-"+id)
			})},
			parent: "of-web-1",
		},
		{name: "a later version may be longer", header: trace("cc" + parent[2:] + "-x"), parent: "cc" + parent[2:] + "-x"},
		{name: "two parents are none", header: http.Header{"Traceparent": {parent, parent}}},
		{name: "a state without a parent is none", header: http.Header{"Tracestate": {"a=1"}}},
		{name: "version ff is none", header: trace("ff" + parent[2:])},
		{name: "version 00 has one length", header: trace(parent + "-x")},
		{name: "upper case is none", header: trace(strings.ToUpper(parent))},
		{name: "a trace of zeros is none", header: trace("00-" + strings.Repeat("0", 32) + parent[35:])},
		{name: "a parent of zeros is none", header: trace(parent[:36] + strings.Repeat("0", 16) + parent[52:])},
		{name: "short is none", header: trace(parent[:54])},
		{name: "shifted dashes are none", header: trace(strings.ReplaceAll(parent, "-", "0"))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sidecar := newRecorder(t, nil)
			llm := middleware.Client(sidecar.URL, nil, tt.opts...)
			app := httptest.NewServer(middleware.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				resp, err := llm.Do(post(t, r.Context(), sidecar.URL+"/v1/chat/completions"))
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
			})))
			defer app.Close()
			req := post(t, context.Background(), app.URL)
			for name, values := range tt.header {
				req.Header[name] = values
			}
			req.Header.Set("X-Session-Id", "web-1")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			got := sidecar.only(t).Header
			want := fmt.Sprint("web-1", tt.parent, tt.state)
			if have := fmt.Sprint(got.Get("X-Session-Id"), got.Get("Traceparent"), got.Get("Tracestate")); have != want {
				t.Errorf("sidecar saw %q, want %q", have, want)
			}
		})
	}
}

func trace(parent string) http.Header { return http.Header{"Traceparent": {parent}} }
