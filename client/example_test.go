package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/client"
)

// answers stands in for a sidecar: a table of routes and what they answer.
func answers(routes map[string]string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := routes[r.Method+" "+r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			body = `{"error":{"message":"no request of this session has been answered","type":"invalid_request_error","param":null,"code":"unknown_session"}}`
		}
		io.WriteString(w, body)
	}))
}

// connect is New for examples, where the URL is known to be good.
func connect(sidecar *httptest.Server, opts ...client.Option) *client.Client {
	c, err := client.New(sidecar.URL, opts...)
	if err != nil {
		panic(err)
	}
	return c
}

const agent1 = `{"session_id":"agent-1","total_prompt_tokens":90,"total_completion_tokens":10,"total_tokens":100,"request_count":2}`

func ExampleNew() {
	// The base URL of an SDK will do.
	_, err := client.New("http://127.0.0.1:8080/v1")
	fmt.Println(err)
	_, err = client.New("127.0.0.1:8080")
	fmt.Println(err)
	// Output:
	// <nil>
	// client: base URL: want one like "http://127.0.0.1:8080"
}

func ExampleWithKey() {
	sidecar := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Header.Get("Authorization"))
	}))
	defer sidecar.Close()

	c := connect(sidecar, client.WithKey("sesame")) // from a file or the environment, rather
	fmt.Println(c.Health(context.Background()))
	// Output:
	// Bearer sesame
	// <nil>
}

func ExampleWithHTTPClient() {
	sidecar := answers(map[string]string{"GET /readyz": "ok"})
	defer sidecar.Close()

	c := connect(sidecar, client.WithHTTPClient(&http.Client{Timeout: 10 * time.Second}))
	fmt.Println(c.Health(context.Background()))
	// Output: <nil>
}

func ExampleWithPageSize() {
	sidecar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("fetch", r.URL)
		io.WriteString(w, `{"sessions":[],"next_cursor":null}`)
	}))
	defer sidecar.Close()

	for range connect(sidecar, client.WithPageSize(500)).Sessions(context.Background()) {
	}
	// Output: fetch /sessions?limit=500
}

func ExampleClient_Sessions() {
	sidecar := answers(map[string]string{
		"GET /sessions": `{"sessions":[
			{"session_id":"agent-2","total_tokens":250,"request_count":5,"unknown_usage_count":1},
			{"session_id":"agent-1","total_tokens":100,"request_count":2}
		],"next_cursor":null}`,
	})
	defer sidecar.Close()

	for session, err := range connect(sidecar).Sessions(context.Background()) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %d tokens, %d requests of unknown usage\n", session.ID, session.TotalTokens, session.UnknownUsageCount)
	}
	// Output:
	// agent-2: 250 tokens, 1 requests of unknown usage
	// agent-1: 100 tokens, 0 requests of unknown usage
}

func ExampleClient_Requests() {
	sidecar := answers(map[string]string{
		"GET /sessions/agent-1/requests": `{"requests":[
			{"request_id":"r2","model":"gpt-4o","usage_source":"none","prompt_tokens":null,"completion_tokens":null},
			{"request_id":"r1","model":"gpt-4o","usage_source":"exact","prompt_tokens":90,"completion_tokens":10}
		],"next_cursor":null}`,
	})
	defer sidecar.Close()

	for request, err := range connect(sidecar).Requests(context.Background(), "agent-1") {
		switch {
		case err != nil:
			fmt.Println(err)
		case request.PromptTokens == nil:
			fmt.Println(request.ID, "usage unknown")
		default:
			fmt.Println(request.ID, *request.PromptTokens, *request.CompletionTokens)
		}
	}
	// Output:
	// r2 usage unknown
	// r1 90 10
}

func ExampleClient_Session() {
	sidecar := answers(map[string]string{"GET /sessions/agent-1/status": agent1})
	defer sidecar.Close()

	status, err := connect(sidecar).Session(context.Background(), "agent-1")
	fmt.Println(status.TotalTokens, err)
	// Output: 100 <nil>
}

func ExampleClient_Statuses() {
	sidecar := answers(map[string]string{"GET /sessions/status": `{"agent-1":` + agent1 + `}`})
	defer sidecar.Close()

	all, err := connect(sidecar).Statuses(context.Background())
	fmt.Println(all["agent-1"].RequestCount, err)
	// Output: 2 <nil>
}

func ExampleClient_Of() {
	sidecar := answers(map[string]string{"GET /sessions/agent-1/status": agent1})
	defer sidecar.Close()

	status, err := connect(sidecar).Of("web").Session(context.Background(), "agent-1") // with an admin's key
	fmt.Println(status.TotalTokens, err)
	// Output: 100 <nil>
}

func ExampleClient_DeleteSession() {
	sidecar := answers(map[string]string{"DELETE /sessions/agent-1": ""})
	defer sidecar.Close()

	fmt.Println(connect(sidecar).DeleteSession(context.Background(), "agent-1"))
	// Output: <nil>
}

func ExampleClient_Usage() {
	sidecar := answers(map[string]string{
		"GET /usage": `{"from":"2026-01-01T00:00:00Z","to":"2026-01-02T00:00:00Z","by":["model"],"currency":"USD","rows":[
			{"model":"gpt-4o","request_count":7,"prompt_tokens":300,"completion_tokens":50,"cost":"0.00125"},
			{"model":"local","request_count":1,"prompt_tokens":20,"completion_tokens":5,"cost":null,"unpriced_tokens":25}
		]}`,
	})
	defer sidecar.Close()

	usage, err := connect(sidecar).Usage(context.Background(), client.UsageQuery{
		From: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		To:   time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC),
		By:   []string{"model"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, row := range usage.Rows {
		cost := "no price known"
		if row.Cost != nil {
			cost = *row.Cost + " " + *usage.Currency
		}
		fmt.Printf("%s: %d+%d tokens, %s\n", row.Model, row.PromptTokens, row.CompletionTokens, cost)
	}
	// Output:
	// gpt-4o: 300+50 tokens, 0.00125 USD
	// local: 20+5 tokens, no price known
}

func ExampleClient_Totals() {
	sidecar := answers(map[string]string{
		"GET /usage": `{"rows":[{"model":"a","prompt_tokens":300},{"model":"b","prompt_tokens":20}]}`,
	})
	defer sidecar.Close()

	now := time.Now()
	totals, err := connect(sidecar).Totals(context.Background(), now.Add(-24*time.Hour), now)
	fmt.Println(totals.PromptTokens, err)
	// Output: 320 <nil>
}

func ExampleTotals_Add() {
	sum := client.Totals{PromptTokens: 300}.Add(client.Totals{PromptTokens: 20})
	fmt.Println(sum.PromptTokens)
	// Output: 320
}

func ExampleClient_Queue() {
	sidecar := answers(map[string]string{
		"GET /queue/status": `{"waiting":3,"in_flight":2,"groups":[{"name":"gpt-4o","waiting":3,"in_flight":2,
			"limits":[{"name":"tokens_per_minute","limit":30000,"level":1250,"source":"learned"}]}],
			"sessions":[{"client":"web","session_id":"agent-1","group":"gpt-4o","waiting":3,"position":1,"weight":1}]}`,
	})
	defer sidecar.Close()

	queue, err := connect(sidecar).Queue(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, group := range queue.Groups {
		for _, limit := range group.Limits {
			fmt.Printf("%s: %g of %d %s left, %d waiting\n", group.Name, limit.Level, limit.Limit, limit.Name, group.Waiting)
		}
	}
	// Output: gpt-4o: 1250 of 30000 tokens_per_minute left, 3 waiting
}

func ExampleClient_Health() {
	sidecar := answers(map[string]string{"GET /readyz": "ok"})
	defer sidecar.Close()

	fmt.Println(connect(sidecar).Health(context.Background()))
	// Output: <nil>
}

func ExampleClient_WaitReady() {
	sidecar := answers(map[string]string{"GET /readyz": "ok"})
	defer sidecar.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	fmt.Println(connect(sidecar).WaitReady(ctx))
	// Output: <nil>
}

func ExampleError() {
	sidecar := answers(nil)
	defer sidecar.Close()

	_, err := connect(sidecar).Session(context.Background(), "nobody")
	var answer *client.Error
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		fmt.Println(answer.Code)
	}
	fmt.Println(err)
	// Output:
	// unknown_session
	// client: get /sessions/nobody/status: 404 unknown_session: no request of this session has been answered
}

func ExampleError_Error() {
	err := &client.Error{StatusCode: 503, Code: "queue_full", Message: "the queue is full", RetryAfter: time.Second}
	fmt.Println(err)
	// Output: 503 queue_full: the queue is full
}
