package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/client"
)

// start serves routes, in http.ServeMux's patterns, and returns a client of them.
func start(t *testing.T, routes map[string]http.HandlerFunc, opts ...client.Option) *client.Client {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, handler := range routes {
		mux.HandleFunc(pattern, handler)
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return newClient(t, server.URL, opts...)
}

func newClient(t *testing.T, url string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
}

func refuse(status int, header http.Header, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestNew_AcceptsBaseURLsOfSDKs(t *testing.T) {
	for _, path := range []string{"", "/", "/v1", "/v1/", "/v1/session/agent-1", "/llm", "/llm/", "/llm/v1"} {
		prefix := ""
		if strings.HasPrefix(path, "/llm") {
			prefix = "/llm"
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if want := prefix + "/readyz"; r.URL.Path != want {
				t.Errorf("base %q: asked for %s, want %s", path, r.URL.Path, want)
			}
		}))
		if err := newClient(t, server.URL+path).Health(context.Background()); err != nil {
			t.Error(err)
		}
		server.Close()
	}
}

func TestNew_RefusesWhatIsNoBaseURL(t *testing.T) {
	for _, url := range []string{
		"", "127.0.0.1:8080", "localhost:8080", "/v1", "ftp://h", "http://", "http://h/?a=b", "http://h/#f",
		"http://u:hunter2@h", "http://u:hunter2@h h",
	} {
		_, err := client.New(url)
		if err == nil {
			t.Errorf("New(%q) accepted it", url)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("New(%q) repeats the password: %v", url, err)
		}
	}
}

func TestClient_Sessions(t *testing.T) {
	const row = `{"session_id":"s%d","client":"alice","total_prompt_tokens":1,"total_completion_tokens":2,"total_tokens":3,"request_count":4,
		"cached_tokens":5,"reasoning_tokens":6,"unknown_usage_count":7,
		"first_at":"2026-01-02T03:04:05.678Z","last_at":"2026-01-03T03:04:05.678Z"}`
	var asked []string
	serve := func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery)
		switch r.URL.Query().Get("cursor") {
		case "":
			fmt.Fprintf(w, `{"sessions":[`+row+`,`+row+`],"next_cursor":"a+/="}`, 1, 2)
		case "a+/=": // cursors are opaque: escaped on the way back
			fmt.Fprintf(w, `{"sessions":[`+row+`],"next_cursor":null}`, 3)
		default:
			t.Errorf("unexpected query %q", r.URL.RawQuery)
		}
	}
	c := start(t, map[string]http.HandlerFunc{"GET /sessions": serve}, client.WithPageSize(2))

	t.Run("walks all pages", func(t *testing.T) {
		asked = nil
		var got []client.Session
		for session, err := range c.Sessions(context.Background()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, session)
		}
		if len(got) != 3 || got[0].ID != "s1" || got[2].ID != "s3" {
			t.Fatalf("sessions = %+v", got)
		}
		alice := "alice"
		want := client.Session{
			SessionStatus: client.SessionStatus{
				ID: "s1", TotalPromptTokens: 1, TotalCompletionTokens: 2, TotalTokens: 3, RequestCount: 4,
			},
			Client: &alice, CachedTokens: 5, ReasoningTokens: 6, UnknownUsageCount: 7,
			FirstAt: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC),
			LastAt:  time.Date(2026, 1, 3, 3, 4, 5, 678e6, time.UTC),
		}
		if !reflect.DeepEqual(got[0], want) {
			t.Errorf("session = %+v, want %+v", got[0], want)
		}
		if want := []string{"limit=2", "cursor=a%2B%2F%3D&limit=2"}; !reflect.DeepEqual(asked, want) {
			t.Errorf("queries = %q, want %q", asked, want)
		}
	})
	t.Run("breaking out of the loop fetches no more", func(t *testing.T) {
		asked = nil
		for range c.Sessions(context.Background()) {
			break
		}
		if len(asked) != 1 {
			t.Errorf("fetched %d pages, want 1", len(asked))
		}
	})
	t.Run("can be looped over again", func(t *testing.T) {
		all := c.Sessions(context.Background())
		for range 2 {
			n := 0
			for range all {
				n++
			}
			if n != 3 {
				t.Errorf("%d sessions, want 3", n)
			}
		}
	})
}

// Whose sessions are meant goes along with every question, and with every page.
func TestClient_Of(t *testing.T) {
	asked := map[string]string{}
	note := func(answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			asked[r.Method+" "+r.URL.Path+" "+r.URL.Query().Get("cursor")] = fmt.Sprint(r.URL.Query()["client"])
			if r.URL.Query().Get("cursor") == "" {
				io.WriteString(w, answer)
			} else { // the last page
				io.WriteString(w, strings.Replace(answer, `"x"`, "null", 1))
			}
		}
	}
	all := start(t, map[string]http.HandlerFunc{
		"GET /sessions": note(`{"sessions":[{"session_id":"a","client":null}],"next_cursor":"x"}`), "GET /sessions/status": note(`{}`),
		"GET /sessions/{id}/status": note(`{}`), "GET /sessions/{id}/requests": note(`{"requests":[],"next_cursor":"x"}`),
		"DELETE /sessions/{id}": note(``), "GET /usage": note(`{}`),
	})
	ctx := context.Background()
	for _, c := range []struct {
		client *client.Client
		want   string
	}{{all, "[]"}, {all.Of("alice"), "[alice]"}, {all.Of("a&b"), "[a&b]"}, {all.Of(""), "[]"}, {all.Of("alice").Of("bob"), "[bob]"}, {all, "[]"}} {
		clear(asked)
		for session, err := range c.client.Sessions(ctx) {
			if err != nil || session.Client != nil {
				t.Errorf("%+v, %v", session, err)
			}
		}
		for range c.client.Requests(ctx, "a") {
		}
		_, err1 := c.client.Statuses(ctx)
		_, err2 := c.client.Session(ctx, "a")
		_, err3 := c.client.Usage(ctx, client.UsageQuery{})
		if err := errors.Join(err1, err2, err3, c.client.DeleteSession(ctx, "a")); err != nil {
			t.Error(err)
		}
		if len(asked) != 8 {
			t.Errorf("asked %v", asked)
		}
		for question, got := range asked {
			if got != c.want {
				t.Errorf("%s asks for %s, want %s", question, got, c.want)
			}
		}
	}
}

func TestClient_SessionsStopsAtAnError(t *testing.T) {
	tests := []struct {
		name   string
		second http.HandlerFunc
		want   string
	}{
		{"of the sidecar", refuse(http.StatusServiceUnavailable, nil, ""), "503"},
		{"of the body", text(`{"sessions":[`), "unexpected EOF"},
		{"of a cursor that leads nowhere", text(`{"sessions":[],"next_cursor":"x"}`), "same page"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, map[string]http.HandlerFunc{"GET /sessions": func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("cursor") == "" {
					text(`{"sessions":[{"session_id":"a"}],"next_cursor":"x"}`)(w, r)
					return
				}
				tt.second(w, r)
			}})
			var ids []string
			var errs []error
			for session, err := range c.Sessions(context.Background()) {
				ids = append(ids, session.ID)
				if err != nil {
					errs = append(errs, err)
				}
			}
			if !reflect.DeepEqual(ids, []string{"a", ""}) || len(errs) != 1 || !strings.Contains(errs[0].Error(), tt.want) {
				t.Errorf("ids = %q, errors = %v; want one row and one error saying %q", ids, errs, tt.want)
			}
		})
	}
}

func TestClient_Requests(t *testing.T) {
	c := start(t, map[string]http.HandlerFunc{"GET /sessions/{id}/requests": func(w http.ResponseWriter, r *http.Request) {
		if id := r.PathValue("id"); id != "a:b@c" {
			t.Errorf("session = %q", id)
		}
		io.WriteString(w, `{"requests":[
			{"request_id":"r1","started_at":"2026-01-02T03:04:05.678Z","session_id":"a:b@c","client":"web","route":"chat/completions",
			 "model":"gpt-4o","answered_model":"gpt-4o-2024-08-06","stream":true,"metered":true,"status":200,"outcome":"complete",
			 "usage_source":"exact","prompt_tokens":10,"completion_tokens":0,"cached_tokens":3,"reasoning_tokens":0,
			 "estimated_prompt_tokens":11,"estimated_completion_tokens":40,"attempts":2,"queue_ms":1500,"first_byte_ms":300,"total_ms":2500,"cost":"0.000035"},
			{"request_id":"r2","usage_source":"none","prompt_tokens":null,"completion_tokens":null,"cached_tokens":null,"reasoning_tokens":null}
		],"next_cursor":null}`)
	}})
	var got []client.Request
	for request, err := range c.Requests(context.Background(), "a:b@c") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, request)
	}
	count, cost := func(n int64) *int64 { return &n }, "0.000035"
	want := []client.Request{
		{
			ID: "r1", StartedAt: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC), SessionID: "a:b@c", Client: "web",
			Route: "chat/completions", Model: "gpt-4o", AnsweredModel: "gpt-4o-2024-08-06", Stream: true, Metered: true,
			Status: 200, Outcome: "complete", UsageSource: "exact",
			PromptTokens: count(10), CompletionTokens: count(0), CachedTokens: count(3), ReasoningTokens: count(0),
			EstimatedPromptTokens: 11, EstimatedCompletionTokens: 40, Attempts: 2, QueueMs: 1500, FirstByteMs: 300, TotalMs: 2500, Cost: &cost,
		},
		{ID: "r2", UsageSource: "none"}, // unknown usage is nil, not zero
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("requests = %+v, want %+v", got, want)
	}
}

func TestClient_InvalidSessionIDsAskForNothing(t *testing.T) {
	c := newClient(t, "http://127.0.0.1:1")
	ctx := context.Background()
	for _, id := range []string{"", ".", ".."} {
		_, session := c.Session(ctx, id)
		var requests error
		for _, requests = range c.Requests(ctx, id) {
		}
		for _, err := range []error{session, requests, c.DeleteSession(ctx, id)} {
			if err == nil || !strings.Contains(err.Error(), "invalid session id") {
				t.Errorf("id %q: error = %v", id, err)
			}
		}
	}
}

func TestClient_Session(t *testing.T) {
	const status = `{"session_id":"a/b","total_prompt_tokens":1,"total_completion_tokens":2,"total_tokens":3,"request_count":4}`
	want := client.SessionStatus{ID: "a/b", TotalPromptTokens: 1, TotalCompletionTokens: 2, TotalTokens: 3, RequestCount: 4}
	var deleted string
	c := start(t, map[string]http.HandlerFunc{
		"GET /sessions/{id}/status": text(status),
		"GET /sessions/status":      text(`{"a/b":` + status + `}`),
		"DELETE /sessions/{id}": func(w http.ResponseWriter, r *http.Request) {
			deleted = r.PathValue("id")
			w.WriteHeader(http.StatusNoContent)
		},
	})
	ctx := context.Background()
	if got, err := c.Session(ctx, "a/b"); err != nil || got != want {
		t.Errorf("Session = %+v, %v, want %+v", got, err, want)
	}
	all, err := c.Statuses(ctx)
	if err != nil || len(all) != 1 || all["a/b"] != want {
		t.Errorf("Statuses = %+v, %v", all, err)
	}
	if err := c.DeleteSession(ctx, "a/b"); err != nil || deleted != "a/b" {
		t.Errorf("DeleteSession: error %v, deleted %q", err, deleted)
	}
}

func TestClient_Usage(t *testing.T) {
	var query string
	c := start(t, map[string]http.HandlerFunc{"GET /usage": func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		io.WriteString(w, `{"from":"2026-01-01T00:00:00.000Z","to":"2026-01-02T00:00:00.000Z","by":["day","model"],"currency":"EUR","rows":[
			{"time":"2026-01-01T00:00:00.000Z","model":"m","request_count":1,"unknown_usage_count":2,"prompt_tokens":3,
			 "completion_tokens":4,"cached_tokens":5,"reasoning_tokens":6,"cost":null,"unpriced_tokens":7},
			{"model":"n","request_count":10,"unknown_usage_count":20,"prompt_tokens":30,
			 "completion_tokens":40,"cached_tokens":50,"reasoning_tokens":60,"cost":"0.0125"}]}`)
	}})
	ctx := context.Background()
	from := time.Date(2026, 1, 1, 1, 0, 0, 0, time.FixedZone("CET", 3600))
	to := from.AddDate(0, 0, 1)

	t.Run("rows come as the query groups them", func(t *testing.T) {
		usage, err := c.Usage(ctx, client.UsageQuery{From: from, To: to, By: []string{"day", "model"}})
		if err != nil {
			t.Fatal(err)
		}
		if want := "by=day%2Cmodel&from=2026-01-01T00%3A00%3A00Z&to=2026-01-02T00%3A00%3A00Z"; query != want {
			t.Errorf("query = %s, want %s", query, want)
		}
		start, cost, currency := from.UTC(), "0.0125", "EUR"
		want := client.Usage{From: from.UTC(), To: to.UTC(), By: []string{"day", "model"}, Currency: &currency, Rows: []client.UsageRow{
			{Time: &start, Model: "m", Totals: client.Totals{RequestCount: 1, UnknownUsageCount: 2, PromptTokens: 3, CompletionTokens: 4, CachedTokens: 5, ReasoningTokens: 6}, UnpricedTokens: 7},
			{Model: "n", Totals: client.Totals{RequestCount: 10, UnknownUsageCount: 20, PromptTokens: 30, CompletionTokens: 40, CachedTokens: 50, ReasoningTokens: 60}, Cost: &cost},
		}}
		if !reflect.DeepEqual(usage, want) {
			t.Errorf("usage = %+v, want %+v", usage, want)
		}
	})
	t.Run("one session's", func(t *testing.T) {
		if _, err := c.Usage(ctx, client.UsageQuery{Session: "a:b@c"}); err != nil || query != "session=a%3Ab%40c" {
			t.Errorf("query = %q, error %v", query, err)
		}
	})
	t.Run("the zero query asks for nothing in particular", func(t *testing.T) {
		if _, err := c.Usage(ctx, client.UsageQuery{}); err != nil || query != "" {
			t.Errorf("query = %q, error %v", query, err)
		}
	})
	t.Run("totals are the rows' sum", func(t *testing.T) {
		got, err := c.Totals(ctx, from, to)
		want := client.Totals{RequestCount: 11, UnknownUsageCount: 22, PromptTokens: 33, CompletionTokens: 44, CachedTokens: 55, ReasoningTokens: 66}
		if err != nil || got != want {
			t.Errorf("Totals = %+v, %v, want %+v", got, err, want)
		}
	})
}

func TestClient_Queue(t *testing.T) {
	const body = `{"waiting":3,"in_flight":2,"groups":[{"name":"gpt-4o","profile":"openai","waiting":3,"in_flight":2,
		"paused_until":"2026-01-02T03:04:05.678Z","half_open":true,"limits":[{"name":"tokens_per_minute","limit":30000,"level":-12.5,"source":"learned"}]}],
		"sessions":[{"client":"web","session_id":"a","group":"gpt-4o","waiting":3,"position":1,"weight":2.5}],
		"memory":{"limit":64,"held":6,"peak":9,"requests":3,"answers":2,"views":1,"overhead":4,"overhead_limit":8}}`
	c := start(t, map[string]http.HandlerFunc{"GET /queue/status": text(body)})
	got, err := c.Queue(context.Background())
	until := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	want := client.Queue{
		Waiting: 3, InFlight: 2, Groups: []client.QueueGroup{{
			Name: "gpt-4o", Profile: "openai", Waiting: 3, InFlight: 2, PausedUntil: &until, HalfOpen: true,
			Limits: []client.QueueLimit{{Name: "tokens_per_minute", Limit: 30000, Level: -12.5, Source: "learned"}},
		}}, Sessions: []client.QueueSession{{Client: "web", SessionID: "a", Group: "gpt-4o", Waiting: 3, Position: 1, Weight: 2.5}},
		Memory: client.QueueMemory{Limit: 64, Held: 6, Peak: 9, Requests: 3, Answers: 2, Views: 1, Overhead: 4, OverheadLimit: 8},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Queue = %+v, %v, want %+v", got, err, want)
	}
}

func TestClient_Errors(t *testing.T) {
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   client.Error
		says   string
	}{
		{
			"as the sidecar words them",
			refuse(404, nil, `{"error":{"message":"no such session","type":"invalid_request_error","param":null,"code":"unknown_session"}}`),
			client.Error{StatusCode: 404, Code: "unknown_session", Type: "invalid_request_error", Message: "no such session"},
			"client: get /sessions/a/status: 404 unknown_session: no such session",
		},
		{
			"with a wait in milliseconds before one in seconds",
			refuse(503, http.Header{"Retry-After": {"2"}, "Retry-After-Ms": {"1500"}}, `{"error":{"message":"full","code":"queue_full"}}`),
			client.Error{StatusCode: 503, Code: "queue_full", Message: "full", RetryAfter: 1500 * time.Millisecond},
			"503 queue_full: full",
		},
		{"with a wait in seconds", refuse(503, http.Header{"Retry-After": {"2"}}, ``), client.Error{StatusCode: 503, Message: "Service Unavailable", RetryAfter: 2 * time.Second}, "503: Service"},
		{"with a wait in the past", refuse(503, http.Header{"Retry-After": {"Thu, 01 Jan 1970 00:00:00 GMT"}}, ``), client.Error{StatusCode: 503, Message: "Service Unavailable"}, "503"},
		{"with a wait that is none", refuse(503, http.Header{"Retry-After": {"soon"}}, ``), client.Error{StatusCode: 503, Message: "Service Unavailable"}, "503"},
		{"with a negative wait", refuse(503, http.Header{"Retry-After": {"-2"}}, ``), client.Error{StatusCode: 503, Message: "Service Unavailable"}, "503"},
		{"with a wait out of range", refuse(503, http.Header{"Retry-After": {"1e300"}}, ``), client.Error{StatusCode: 503, Message: "Service Unavailable"}, "503"},
		{"with a wait that is not a number", refuse(503, http.Header{"Retry-After-Ms": {"NaN"}}, ``), client.Error{StatusCode: 503, Message: "Service Unavailable"}, "503"},
		{"with a number for a code", refuse(400, nil, `{"error":{"message":"m","code":17}}`), client.Error{StatusCode: 400, Code: "17", Message: "m"}, "400 17: m"},
		{"of something else in between", refuse(502, nil, `<html>Bad gateway`), client.Error{StatusCode: 502, Message: "Bad Gateway"}, "502: Bad Gateway"},
		{"of an empty object", refuse(500, nil, `{}`), client.Error{StatusCode: 500, Message: "Internal Server Error"}, "500"},
		{"of an unknown status", refuse(599, nil, ``), client.Error{StatusCode: 599}, "/status: 599"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, map[string]http.HandlerFunc{"GET /sessions/a/status": tt.answer})
			_, err := c.Session(context.Background(), "a")
			var got *client.Error
			if !errors.As(err, &got) || *got != tt.want {
				t.Fatalf("error = %+v, want %+v", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error says %q, want %q", err, tt.says)
			}
		})
	}
	t.Run("a date in the future is a wait", func(t *testing.T) {
		at := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
		c := start(t, map[string]http.HandlerFunc{"GET /readyz": refuse(503, http.Header{"Retry-After": {at}}, "")})
		var got *client.Error
		if err := c.Health(context.Background()); !errors.As(err, &got) || got.RetryAfter < 50*time.Minute || got.RetryAfter > time.Hour {
			t.Errorf("error = %+v, want a wait of about an hour", err)
		}
	})
	t.Run("something that is not a sidecar", func(t *testing.T) {
		c := start(t, map[string]http.HandlerFunc{"GET /queue/status": text("<html>")})
		var syntax *json.SyntaxError
		if _, err := c.Queue(context.Background()); !errors.As(err, &syntax) || !strings.Contains(err.Error(), "get /queue/status: read answer") {
			t.Errorf("error = %v", err)
		}
	})
}

func TestClient_Key(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect was followed, key and all")
	}))
	defer other.Close()
	c := start(t, map[string]http.HandlerFunc{
		"GET /readyz": func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get("Authorization"); got != "Bearer sesame" {
				t.Errorf("Authorization = %q", got)
			}
		},
		"GET /queue/status": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusFound)
		},
		"GET /usage": refuse(401, nil, ""),
	}, client.WithKey("sesame"), client.WithHTTPClient(nil))
	ctx := context.Background()
	if err := c.Health(ctx); err != nil {
		t.Error(err)
	}
	var answer *client.Error
	if _, err := c.Queue(ctx); !errors.As(err, &answer) || answer.StatusCode != http.StatusFound {
		t.Errorf("error = %v, want the 302", err)
	}
	if _, err := c.Usage(ctx, client.UsageQuery{}); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("error = %v", err)
	}
}

func TestClient_ContextBoundsTheCall(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	c := start(t, map[string]http.HandlerFunc{"GET /queue/status": func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		cancel() // between the header and the body
		<-r.Context().Done()
	}})
	if _, err := c.Queue(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
}

func TestClient_WaitReady(t *testing.T) {
	t.Run("waits for a sidecar that starts", func(t *testing.T) {
		var asked atomic.Int32
		c := start(t, map[string]http.HandlerFunc{"GET /readyz": func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) < 4 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}})
		if err := c.WaitReady(context.Background()); err != nil || asked.Load() != 4 {
			t.Errorf("error = %v after %d probes, want nil after 4", err, asked.Load())
		}
	})
	t.Run("waits for a listener", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := listener.Addr().String()
		listener.Close()
		var refused atomic.Int32
		server := &http.Server{Handler: text("ok")}
		defer server.Close()
		transport := roundTrip(func(req *http.Request) (*http.Response, error) {
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil && refused.Add(1) == 2 {
				if listener, err := net.Listen("tcp", address); err == nil {
					go server.Serve(listener)
				}
			}
			return resp, err
		})
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		c := newClient(t, "http://"+address, client.WithHTTPClient(&http.Client{Transport: transport}))
		if err := c.WaitReady(ctx); err != nil || refused.Load() < 2 {
			t.Errorf("error = %v after %d refusals", err, refused.Load())
		}
	})
	t.Run("says at the end what was in the way", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		enough := errors.New("enough")
		var asked atomic.Int32
		c := start(t, map[string]http.HandlerFunc{"GET /readyz": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			if asked.Add(1) == 3 {
				cancel(enough)
			}
		}})
		err := c.WaitReady(ctx)
		var answer *client.Error
		if !errors.Is(err, enough) || !errors.As(err, &answer) || answer.StatusCode != 503 {
			t.Errorf("error = %v, want the cause and the last answer", err)
		}
	})
	t.Run("does not probe for a context that has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := newClient(t, "http://127.0.0.1:1").WaitReady(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want context.Canceled", err)
		}
	})
	t.Run("gives up on something else", func(t *testing.T) {
		c := start(t, nil)
		var answer *client.Error
		if err := c.WaitReady(context.Background()); !errors.As(err, &answer) || answer.StatusCode != 404 {
			t.Errorf("error = %v, want the 404", err)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func FuzzClient_AnyAnswer(f *testing.F) {
	f.Add(200, "", `{"sessions":[{"session_id":"a"}],"next_cursor":"x"}`)
	f.Add(503, "1500", `{"error":{"message":"full","code":"queue_full"}}`)
	f.Add(302, "NaN", `{"error":{"code":{"a":[1e400]}}}`)
	f.Fuzz(func(t *testing.T, status int, retryAfter, body string) {
		transport := roundTrip(func(req *http.Request) (*http.Response, error) {
			return &http.Response{
				StatusCode: status, Request: req, Body: io.NopCloser(strings.NewReader(body)),
				Header: http.Header{"Retry-After": {retryAfter}, "Retry-After-Ms": {retryAfter}},
			}, nil
		})
		c := newClient(t, "http://sidecar", client.WithHTTPClient(&http.Client{Transport: transport}))
		n := 0
		for _, err := range c.Sessions(context.Background()) {
			if n++; n > 1000 {
				break // some body of so many rows, or a loop
			}
			var answer *client.Error
			if errors.As(err, &answer) && (answer.StatusCode != status || answer.RetryAfter < 0 || answer.RetryAfter > 367*24*time.Hour) {
				t.Errorf("status %d, Retry-After %q: %+v", status, retryAfter, answer)
			}
		}
	})
}

// TestClient_ClosesEveryAnswer: the package starts no goroutine of its own, so an
// answer left open is all that it could leak.
func TestClient_ClosesEveryAnswer(t *testing.T) {
	long := `{"data":[` + strings.TrimSuffix(strings.Repeat(`{"session_id":"a"},`, 1000), ",") + `],"has_more":false}`
	for name, handler := range map[string]http.HandlerFunc{
		"whole":      text(long),
		"cut":        text(long[:5000]),
		"no JSON":    text("<html>" + long),
		"an error":   refuse(503, nil, `{"error":{"message":"later","code":"shutting_down"}}`),
		"more of it": refuse(502, nil, strings.Repeat("x", 1<<20)),
		"redirected": refuse(302, http.Header{"Location": {"http://127.0.0.1:1/"}}, "elsewhere"),
	} {
		t.Run(name, func(t *testing.T) {
			base := http.DefaultTransport.(*http.Transport).Clone()
			defer base.CloseIdleConnections()
			answers := &answerCounter{base: base}
			c := start(t, map[string]http.HandlerFunc{"GET /": handler}, client.WithHTTPClient(&http.Client{Transport: answers}))
			for range 3 {
				_, _ = c.Queue(context.Background())
				_ = c.Health(context.Background())
			}
			if open := answers.open.Load(); open != 0 || answers.opened.Load() == 0 {
				t.Errorf("%d of %d answers were not closed", open, answers.opened.Load())
			}
		})
	}
}

type answerCounter struct {
	base         http.RoundTripper
	opened, open atomic.Int64
}

func (a *answerCounter) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := a.base.RoundTrip(req)
	if err == nil {
		a.opened.Add(1)
		a.open.Add(1)
		resp.Body = &countedBody{ReadCloser: resp.Body, open: &a.open}
	}
	return resp, err
}

type countedBody struct {
	io.ReadCloser
	once sync.Once
	open *atomic.Int64
}

func (b *countedBody) Close() error {
	b.once.Do(func() { b.open.Add(-1) })
	return b.ReadCloser.Close()
}
