package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

// echo stands in for a sidecar: it answers with the headers addressed to it.
func echo() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{
			"X-Session-Id", "X-Tenant", "X-Parent-Session-Id",
			"X-Queue-Timeout", "X-Queue-Priority", "X-Queue-Weight", "Traceparent",
		} {
			if value := r.Header.Get(name); value != "" {
				fmt.Fprintf(w, "%s: %s\n", name, value)
			}
		}
	}))
}

// call stands in for an SDK: one request to a base URL.
func call(ctx context.Context, client *http.Client, baseURL string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, baseURL+"/chat/completions", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	fmt.Print(string(answer))
	return err
}

func Example() {
	sidecar := echo()
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"

	client := middleware.Client(baseURL, nil)
	for _, agent := range []string{"planner", "writer"} {
		ctx := middleware.WithSession(context.Background(), agent)
		if err := call(ctx, client, baseURL); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// X-Session-Id: planner
	// X-Session-Id: writer
}

func ExampleNew() {
	sidecar := echo()
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"

	// With openai-go, of any major version:
	//
	//	openai.NewClient(option.WithBaseURL(baseURL), option.WithMiddleware(session))
	session := middleware.New(baseURL)

	// What the SDK does with it on each attempt:
	ctx := middleware.WithSession(context.Background(), "agent-1")
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, baseURL+"/models", nil)
	resp, err := session(req, http.DefaultClient.Do)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	fmt.Print(string(answer))
	// Output: X-Session-Id: agent-1
}

func ExampleTransport() {
	sidecar := echo()
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"

	client := &http.Client{Transport: middleware.Transport(baseURL, http.DefaultTransport)}
	ctx := middleware.WithSession(context.Background(), "agent-1")
	if err := call(ctx, client, baseURL); err != nil {
		fmt.Println(err)
	}
	// Output: X-Session-Id: agent-1
}

func ExampleClient() {
	sidecar := echo()
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"

	// With go-openai:
	//
	//	config := openai.DefaultConfig(key)
	//	config.BaseURL, config.HTTPClient = baseURL, middleware.Client(baseURL, nil)
	client := middleware.Client(baseURL, &http.Client{Timeout: 5 * time.Minute})
	ctx := middleware.WithSession(context.Background(), "agent-1")
	if err := call(ctx, client, baseURL); err != nil {
		fmt.Println(err)
	}
	// Output: X-Session-Id: agent-1
}

func ExampleClient_notStarted() {
	const baseURL = "http://127.0.0.1:1/v1" // nothing listens there

	err := call(context.Background(), middleware.Client(baseURL, nil), baseURL)
	fmt.Println(errors.Is(err, middleware.ErrUnreachable))
	// Output: true
}

func ExampleCheck() {
	fmt.Println(middleware.Check("http://127.0.0.1:8080/v1/v1"))
	fmt.Println(middleware.Check("http://127.0.0.1:8080/v1", middleware.QueuePriority("urgent")))
	fmt.Println(middleware.Check("http://127.0.0.1:8080/v1"))
	// Output:
	// middleware: wrong base URL: it holds "/v1" twice: use "http://127.0.0.1:8080/v1"
	// middleware: X-Queue-Priority "urgent": want "high", "normal" or "low"
	// <nil>
}

func ExampleWithSession() {
	ctx := middleware.WithSession(context.Background(), "agent-1")
	id, ok := middleware.SessionFrom(ctx)
	fmt.Println(id, ok)
	// Output: agent-1 true
}

func ExampleWithSession_invalid() {
	const baseURL = "http://127.0.0.1:1/v1"
	ctx := middleware.WithSession(context.Background(), "agent/1")

	err := call(ctx, middleware.Client(baseURL, nil), baseURL)
	fmt.Println(errors.Is(err, middleware.ErrInvalidSession))
	// Output: true
}

func ExampleSessionFrom() {
	id, ok := middleware.SessionFrom(context.Background())
	fmt.Printf("%q %t\n", id, ok)
	// Output: "" false
}

func ExampleWithParent() {
	sidecar := echo()
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"

	task := middleware.WithParent(context.Background(), "task-7")
	agent := middleware.WithSession(task, "task-7:writer")
	if err := call(agent, middleware.Client(baseURL, nil), baseURL); err != nil {
		fmt.Println(err)
	}
	// Output:
	// X-Session-Id: task-7:writer
	// X-Parent-Session-Id: task-7
}

func ExampleHeader() {
	sidecar := echo() // started with SESSION_HEADER=X-Tenant
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"

	client := middleware.Client(baseURL, nil, middleware.Header("X-Tenant"))
	if err := call(middleware.WithSession(context.Background(), "acme"), client, baseURL); err != nil {
		fmt.Println(err)
	}
	// Output: X-Tenant: acme
}

func ExampleDefaultSession() {
	sidecar := echo()
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"

	client := middleware.Client(baseURL, nil, middleware.DefaultSession("nightly-report"))
	if err := call(context.Background(), client, baseURL); err != nil {
		fmt.Println(err)
	}
	// Output: X-Session-Id: nightly-report
}

func ExampleQueueTimeout() {
	sidecar := echo()
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"

	client := middleware.Client(baseURL, nil, middleware.QueueTimeout(30*time.Second))
	if err := call(context.Background(), client, baseURL); err != nil {
		fmt.Println(err)
	}
	// Output: X-Queue-Timeout: 30s
}

func ExampleQueuePriority() {
	sidecar := echo()
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"

	client := middleware.Client(baseURL, nil, middleware.QueuePriority("low"))
	if err := call(context.Background(), client, baseURL); err != nil {
		fmt.Println(err)
	}
	// Output: X-Queue-Priority: low
}

func ExampleQueueWeight() {
	sidecar := echo()
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"

	client := middleware.Client(baseURL, nil, middleware.QueueWeight(2.5))
	if err := call(context.Background(), client, baseURL); err != nil {
		fmt.Println(err)
	}
	// Output: X-Queue-Weight: 2.5
}

func ExampleTrace() {
	sidecar := echo()
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"

	// With OpenTelemetry the function's body is
	//
	//	otel.GetTextMapPropagator().Inject(ctx, propagation.HeaderCarrier(h))
	client := middleware.Client(baseURL, nil, middleware.Trace(func(_ context.Context, h http.Header) {
		h.Set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	}))
	if err := call(context.Background(), client, baseURL); err != nil {
		fmt.Println(err)
	}
	// Output: Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
}

func ExampleHandler() {
	sidecar := echo()
	defer sidecar.Close()
	baseURL := sidecar.URL + "/v1"
	llm := middleware.Client(baseURL, nil)

	// The application: nothing in it knows of sessions.
	mux := http.NewServeMux()
	mux.HandleFunc("POST /ask", func(w http.ResponseWriter, r *http.Request) {
		if err := call(r.Context(), llm, baseURL); err != nil {
			http.Error(w, "no answer", http.StatusBadGateway)
		}
	})
	app := middleware.Handler(mux)

	req := httptest.NewRequest(http.MethodPost, "/ask", nil)
	req.Header.Set("X-Session-Id", "visitor-42")
	app.ServeHTTP(httptest.NewRecorder(), req)
	// Output: X-Session-Id: visitor-42
}

func ExampleFromHeader() {
	source := middleware.FromHeader("X-User")
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.Header.Set("X-User", "u-17")
	fmt.Println(source(req))
	// Output: u-17
}

func ExampleFromCookie() {
	source := middleware.FromCookie("sid")
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.AddCookie(&http.Cookie{Name: "sid", Value: "abc"})
	fmt.Println(source(req))
	// Output: cookie-ba7816bf8f01cfea414140de5dae2223
}
