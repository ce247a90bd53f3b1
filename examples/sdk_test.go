package examples_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
	"github.com/openai/openai-go/packages/ssestream"
	"github.com/openai/openai-go/responses"
	goopenai "github.com/sashabaranov/go-openai"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

func asError[E error](err error) (E, bool) {
	var e E
	return e, errors.As(err, &e)
}

// sdks are both Go SDKs, attached to one base URL as the examples show it.
type sdks struct {
	official  openai.Client
	community *goopenai.Client
}

func connect(baseURL string) sdks {
	config := goopenai.DefaultConfig("k")
	config.BaseURL, config.HTTPClient = baseURL, middleware.Client(baseURL, nil)
	return sdks{
		official: openai.NewClient(option.WithBaseURL(baseURL), option.WithMiddleware(middleware.New(baseURL)),
			option.WithAPIKey("k"), option.WithMaxRetries(0)),
		community: goopenai.NewClientWithConfig(config),
	}
}

// A call makes one call of an SDK and tells everything its user gets to see,
// the parts that differ from call to call left out.
type call struct {
	name string
	make func(ctx context.Context, s sdks) (transcript string, err error)
}

const question = "Please say 9 words about queues, think 4 tokens, cached 3 tokens."

var calls = []call{
	{"openai-go chat", func(ctx context.Context, s sdks) (string, error) {
		return outcome(s.official.Chat.Completions.New(ctx, chatParams()))
	}},
	{"openai-go chat stream", func(ctx context.Context, s sdks) (string, error) {
		return events(s.official.Chat.Completions.NewStreaming(ctx, chatParams()))
	}},
	{"openai-go chat stream with usage", func(ctx context.Context, s sdks) (string, error) {
		params := chatParams()
		params.StreamOptions.IncludeUsage = openai.Bool(true)
		return events(s.official.Chat.Completions.NewStreaming(ctx, params))
	}},
	{"openai-go completion", func(ctx context.Context, s sdks) (string, error) {
		return outcome(s.official.Completions.New(ctx, openai.CompletionNewParams{
			Model: "gpt-3.5-turbo-instruct", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String(question)},
		}))
	}},
	{"openai-go response", func(ctx context.Context, s sdks) (string, error) {
		return outcome(s.official.Responses.New(ctx, responseParams()))
	}},
	{"openai-go response stream", func(ctx context.Context, s sdks) (string, error) {
		return events(s.official.Responses.NewStreaming(ctx, responseParams()))
	}},
	{"openai-go embedding", func(ctx context.Context, s sdks) (string, error) {
		return outcome(s.official.Embeddings.New(ctx, openai.EmbeddingNewParams{
			Model: "text-embedding-3-small", Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String(question)},
		}))
	}},
	{"go-openai chat", func(ctx context.Context, s sdks) (string, error) {
		return outcome(s.community.CreateChatCompletion(ctx, communityChat()))
	}},
	{"go-openai chat stream", func(ctx context.Context, s sdks) (string, error) {
		return received(s.community.CreateChatCompletionStream(ctx, communityChat()))
	}},
	{"go-openai chat stream with usage", func(ctx context.Context, s sdks) (string, error) {
		request := communityChat()
		request.StreamOptions = &goopenai.StreamOptions{IncludeUsage: true}
		return received(s.community.CreateChatCompletionStream(ctx, request))
	}},
	{"go-openai embedding", func(ctx context.Context, s sdks) (string, error) {
		return outcome(s.community.CreateEmbeddings(ctx, goopenai.EmbeddingRequest{Model: goopenai.SmallEmbedding3, Input: question}))
	}},
}

func chatParams() openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:    "gpt-4o",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
	}
}

func responseParams() responses.ResponseNewParams {
	return responses.ResponseNewParams{
		Model: "gpt-4o", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(question)},
	}
}

func communityChat() goopenai.ChatCompletionRequest {
	return goopenai.ChatCompletionRequest{
		Model:    "gpt-4o",
		Messages: []goopenai.ChatCompletionMessage{{Role: goopenai.ChatMessageRoleUser, Content: question}},
	}
}

func outcome(answer any, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return tell(answer), nil
}

// tell encodes what an SDK decoded. openai-go keeps the raw JSON as well, so
// there even members that its types do not know are compared.
func tell(v any) string {
	var value any
	raw, err := json.Marshal(v)
	if keeper, ok := v.(interface{ RawJSON() string }); ok {
		raw = []byte(keeper.RawJSON())
	}
	if err != nil || json.Unmarshal(raw, &value) != nil {
		return string(raw)
	}
	settle(value)
	settled, _ := json.Marshal(value)
	return string(settled)
}

// settle removes what no two answers share: ids, times and padding, and the
// "usage":null that the sidecar's question for usage leaves in the other chunks.
func settle(value any) {
	switch value := value.(type) {
	case map[string]any:
		for _, name := range []string{"id", "item_id", "created", "created_at", "obfuscation"} {
			delete(value, name)
		}
		if usage, ok := value["usage"]; ok && usage == nil {
			delete(value, "usage")
		}
		for _, member := range value {
			settle(member)
		}
	case []any:
		for _, member := range value {
			settle(member)
		}
	}
}

func events[T any](stream *ssestream.Stream[T]) (string, error) {
	defer stream.Close()
	var all strings.Builder
	for stream.Next() {
		event := stream.Current()
		fmt.Fprintln(&all, tell(event))
	}
	return all.String(), stream.Err()
}

func received(stream *goopenai.ChatCompletionStream, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer stream.Close()
	var all strings.Builder
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all.String(), nil
		}
		if err != nil {
			return all.String(), err
		}
		fmt.Fprintln(&all, tell(chunk))
	}
}

func TestSDKs_SeeNoDifference(t *testing.T) {
	s := start(t, provider.Config{})
	direct, through := connect(s.direct), connect(s.sidecar)
	for i, call := range calls {
		t.Run(call.name, func(t *testing.T) {
			want, err := call.make(context.Background(), direct)
			if err != nil {
				t.Fatal(err)
			}
			session := fmt.Sprint("call:", i)
			got, err := call.make(middleware.WithSession(context.Background(), session), through)
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("through the sidecar:\n%s\ndirect:\n%s", got, want)
			}
			entries := s.provider.Ledger()
			last := entries[len(entries)-1]
			if booked := s.status(t, session); booked.RequestCount != 1 ||
				booked.TotalPromptTokens != last.PromptTokens || booked.TotalCompletionTokens != last.CompletionTokens {
				t.Errorf("booked %+v, the provider billed %d and %d", booked, last.PromptTokens, last.CompletionTokens)
			}
			for _, name := range []string{"X-Session-Id", "X-Queue-Priority", "X-Parent-Session-Id"} {
				if value := last.Header.Get(name); value != "" {
					t.Errorf("the provider was told %s: %s", name, value)
				}
			}
		})
	}
}

func TestSDKs_SeeTheSameErrors(t *testing.T) {
	s := start(t, provider.Config{})
	direct, through := connect(s.direct), connect(s.sidecar)
	refusal := func(status int, code string) provider.Fault {
		return provider.Status(status, http.Header{"X-Request-Id": {"req_1"}},
			fmt.Sprintf(`{"error":{"message":"because of %s","type":"some_error","param":"model","code":"%s"}}`, code, code))
	}
	faults := []struct {
		name  string
		fault provider.Fault
	}{
		{"a bad request", refusal(http.StatusBadRequest, "context_length_exceeded")},
		{"a wrong key", refusal(http.StatusUnauthorized, "invalid_api_key")},
		{"a forbidden region", refusal(http.StatusForbidden, "unsupported_country_region_territory")},
		{"an unknown model", refusal(http.StatusNotFound, "model_not_found")},
		{"a conflict", refusal(http.StatusConflict, "conflict")},
		{"an unprocessable entity", refusal(http.StatusUnprocessableEntity, "unprocessable")},
		{"an exhausted quota", provider.Quota()},
		{"a request too large", provider.TooLarge()},
		{"a server error", provider.ServerError(http.StatusInternalServerError)},
		{"a server that is down", provider.ServerError(http.StatusServiceUnavailable)},
		{"a bad gateway's page", provider.Status(http.StatusBadGateway, nil, "<html>bad gateway</html>")},
		{"a stream cut off", provider.CutAfterBytes(900)},
	}
	for _, call := range calls {
		if strings.Contains(call.name, "with usage") {
			continue // ends as the stream without does
		}
		for _, tt := range faults {
			if tt.name == "a stream cut off" && !strings.Contains(call.name, "stream") {
				continue
			}
			t.Run(call.name+" meets "+tt.name, func(t *testing.T) {
				s.provider.Script(tt.fault)
				_, err := call.make(context.Background(), direct)
				want := describe(err)
				s.provider.Script(tt.fault)
				_, err = call.make(middleware.WithSession(context.Background(), "errors"), through)
				if got := describe(err); got != want {
					t.Errorf("through the sidecar:\n%s\ndirect:\n%s", got, want)
				}
				if want == "success" {
					t.Error("the fault did not show")
				}
			})
		}
	}
}

// The retries and the timeouts of openai-go go on working behind the sidecar.
func TestSDKs_RetryAndTimeOutAsEver(t *testing.T) {
	s := start(t, provider.Config{})
	for name, base := range map[string]string{"direct": s.direct, "through the sidecar": s.sidecar} {
		llm := connect(base).official
		t.Run(name+" a server error is retried", func(t *testing.T) {
			before := s.provider.Totals().Requests
			s.provider.Script(provider.ServerError(http.StatusInternalServerError), provider.Sound())
			// The SDK leaves the answer open that it retries, until its context ends.
			_, err := llm.Chat.Completions.New(t.Context(), chatParams(), option.WithMaxRetries(1))
			if n := s.provider.Totals().Requests - before; err != nil || n != 2 {
				t.Errorf("%v after %d requests, want success after 2", err, n)
			}
		})
		t.Run(name+" a timeout ends the call", func(t *testing.T) {
			// Nothing answers, so however slow the machine is, the time runs out.
			s.provider.Script(provider.NoHeaders())
			_, err := llm.Chat.Completions.New(context.Background(), chatParams(), option.WithRequestTimeout(time.Second))
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error = %v, want context.DeadlineExceeded", err)
			}
		})
	}
}

// describe tells what a program can find out about an error, URLs left out.
func describe(err error) string {
	if err == nil {
		return "success"
	}
	if e, ok := asError[*openai.Error](err); ok {
		return fmt.Sprintf("openai.Error %d code %q type %q param %q: %s", e.StatusCode, e.Code, e.Type, e.Param, e.Message)
	}
	if e, ok := asError[*goopenai.APIError](err); ok {
		return fmt.Sprintf("APIError %d code %v type %q: %s", e.HTTPStatusCode, e.Code, e.Type, e.Message)
	}
	if e, ok := asError[*goopenai.RequestError](err); ok {
		return fmt.Sprintf("RequestError %d: %s", e.HTTPStatusCode, e.Body)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return "unexpected EOF"
	}
	return fmt.Sprintf("%T: %v", err, err)
}

func TestSDKs_NeverSeeACurable429(t *testing.T) {
	// 600 a minute with room for 5: one request each 100 ms after those.
	s := start(t, provider.Config{Account: provider.AccountConfig{RPM: 600, Burst: 500_000_000}}, "RATE_LIMIT_PER_MIN=600")
	through := connect(s.sidecar)
	t.Run("many callers at once", func(t *testing.T) {
		for i := range 20 {
			call := calls[i%len(calls)]
			t.Run(fmt.Sprint(i, " ", call.name), func(t *testing.T) {
				t.Parallel()
				ctx := middleware.WithSession(context.Background(), fmt.Sprint("agent-", i))
				if _, err := call.make(ctx, through); err != nil {
					t.Error(err)
				}
			})
		}
	})
	if totals := s.provider.Totals(); totals.Accepted != 20 {
		t.Errorf("the provider admitted %d requests, want 20", totals.Accepted)
	}
}

func TestMiddleware_RefusalIsNotRetriedByOpenAIGo(t *testing.T) {
	const sidecar = "http://127.0.0.1:1/v1"
	attempts := 0
	count := func(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		attempts++
		return next(req)
	}
	llm := openai.NewClient(option.WithBaseURL(sidecar), option.WithAPIKey("k"), option.WithMiddleware(count, middleware.New(sidecar)))
	_, err := llm.Chat.Completions.New(middleware.WithSession(context.Background(), "a/b"), chatParams())
	if !errors.Is(err, middleware.ErrInvalidSession) {
		t.Errorf("error = %v, want ErrInvalidSession", err)
	}
	if attempts != 1 {
		t.Errorf("%d attempts, want 1", attempts)
	}
}

// Where an upstream redirects to third parties, the client keeps the session from
// them, below openai-go as well.
func TestMiddleware_ClientBelowOpenAIGoTellsNobodyElse(t *testing.T) {
	var told http.Header
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told = r.Header.Clone()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"object":"list","data":[]}`)
	}))
	defer other.Close()
	var session string
	sidecar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session = r.Header.Get("X-Session-Id")
		http.Redirect(w, r, other.URL+"/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer sidecar.Close()
	base := sidecar.URL + "/v1"
	llm := openai.NewClient(option.WithBaseURL(base), option.WithAPIKey("k"),
		option.WithMiddleware(middleware.New(base)), option.WithHTTPClient(middleware.Client(base, nil)))
	if _, err := llm.Models.List(middleware.WithSession(context.Background(), "secret")); err != nil {
		t.Fatal(err)
	}
	if session != "secret" || told == nil || told.Get("X-Session-Id") != "" {
		t.Errorf("the sidecar was told %q, the other host %q", session, told.Get("X-Session-Id"))
	}
}
