package main

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
	"github.com/openai/openai-go/responses"
	goopenai "github.com/sashabaranov/go-openai"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// seen is what an SDK's user gets to see of one call.
type seen struct {
	text   string
	events int
	tokens int64
	failed string
}

// official makes one call of each metered kind with openai-go.
func official(t *testing.T, baseURL string) map[string]seen {
	ctx := t.Context()
	c := openai.NewClient(option.WithBaseURL(baseURL), option.WithAPIKey("sk-upstream-canary"), option.WithMaxRetries(0))
	all := map[string]seen{}
	messages := []openai.ChatCompletionMessageParamUnion{openai.SystemMessage("be brief"), openai.UserMessage("say 7 words")}
	chat, err := c.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{Model: "gpt-4o", Messages: messages})
	all["chat"] = seen{failed: failure(err)}
	if err == nil {
		all["chat"] = seen{text: chat.Choices[0].Message.Content, tokens: chat.Usage.TotalTokens}
	}
	for name, usage := range map[string]bool{"chat stream": false, "chat stream with usage": true} {
		params := openai.ChatCompletionNewParams{Model: "gpt-4o", Messages: messages}
		if usage {
			params.StreamOptions.IncludeUsage = openai.Bool(true)
		}
		stream := c.Chat.Completions.NewStreaming(ctx, params)
		acc, events := openai.ChatCompletionAccumulator{}, 0
		for stream.Next() {
			events++
			acc.AddChunk(stream.Current())
		}
		all[name] = seen{events: events, tokens: acc.Usage.TotalTokens, failed: failure(stream.Err())}
		if len(acc.Choices) > 0 {
			all[name] = seen{acc.Choices[0].Message.Content, events, acc.Usage.TotalTokens, failure(stream.Err())}
		}
	}
	completion, err := c.Completions.New(ctx, openai.CompletionNewParams{Model: "gpt-4o", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("say 4 words")}})
	all["completion"] = seen{failed: failure(err)}
	if err == nil {
		all["completion"] = seen{text: completion.Choices[0].Text, tokens: completion.Usage.TotalTokens}
	}
	input := responses.ResponseNewParamsInputUnion{OfString: openai.String("say 6 words")}
	response, err := c.Responses.New(ctx, responses.ResponseNewParams{Model: "gpt-4o", Input: input})
	all["response"] = seen{failed: failure(err)}
	if err == nil {
		all["response"] = seen{text: response.OutputText(), tokens: response.Usage.TotalTokens}
	}
	stream := c.Responses.NewStreaming(ctx, responses.ResponseNewParams{Model: "gpt-4o", Input: input})
	var got seen
	for stream.Next() {
		got.events++
		switch e := stream.Current().AsAny().(type) {
		case responses.ResponseTextDeltaEvent:
			got.text += e.Delta
		case responses.ResponseCompletedEvent:
			got.tokens = e.Response.Usage.TotalTokens
		}
	}
	got.failed = failure(stream.Err())
	all["response stream"] = got
	embedding, err := c.Embeddings.New(ctx, openai.EmbeddingNewParams{Model: "text-embedding-3-small", Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("some words")}})
	all["embedding"] = seen{failed: failure(err)}
	if err == nil {
		all["embedding"] = seen{events: len(embedding.Data[0].Embedding), tokens: embedding.Usage.TotalTokens}
	}
	_, err = c.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{Messages: messages})
	all["missing model"] = seen{failed: failure(err)}
	return all
}

func failure(err error) string {
	var api *openai.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &api):
		return api.Code + " " + api.Message
	}
	return err.Error()
}

func TestSDK_OpenAIGoSeesTheSameAsDirectly(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{Seed: 7})
	direct := official(t, base)
	s := start(t, base, sidecartest.SQLite(t)...)
	through := official(t, s.URL+"/v1/session/agent")
	if diff := cmp.Diff(direct, through, cmp.AllowUnexported(seen{})); diff != "" {
		t.Errorf("direct (-) and through the sidecar (+) differ:\n%s", diff)
	}
	if direct["chat"].text == "" || direct["response stream"].tokens == 0 || direct["missing model"].failed == "" {
		t.Errorf("the direct calls show nothing to compare: %+v", direct)
	}
	var total int64
	for _, call := range through {
		total += call.tokens
	}
	total += through["chat stream with usage"].tokens // the stream without usage cost the same
	got := s.Status()["agent"]
	if got.TotalTokens != total || got.RequestCount != 7 {
		t.Errorf("booked %+v, the SDK saw %d tokens in 7 calls", got, total)
	}
}

func TestSDK_GoOpenAISeesTheSameAsDirectly(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{Seed: 7})
	calls := func(baseURL string) map[string]seen {
		cfg := goopenai.DefaultConfig("sk-upstream-canary")
		cfg.BaseURL = baseURL
		c := goopenai.NewClientWithConfig(cfg)
		request := goopenai.ChatCompletionRequest{Model: "gpt-4o", Messages: []goopenai.ChatCompletionMessage{{Role: "user", Content: "say 7 words"}}}
		all := map[string]seen{}
		chat, err := c.CreateChatCompletion(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		all["chat"] = seen{text: chat.Choices[0].Message.Content, tokens: int64(chat.Usage.TotalTokens)}
		stream, err := c.CreateChatCompletionStream(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		var got seen
		for {
			chunk, err := stream.Recv()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					got.failed = err.Error()
				}
				break
			}
			got.events++
			got.text += chunk.Choices[0].Delta.Content // as users write it: a usage chunk would panic here
		}
		all["stream"] = got
		return all
	}
	direct := calls(base)
	s := start(t, base)
	through := calls(s.URL + "/v1/session/agent")
	if diff := cmp.Diff(direct, through, cmp.AllowUnexported(seen{})); diff != "" {
		t.Errorf("direct (-) and through the sidecar (+) differ:\n%s", diff)
	}
	if got := s.Status()["agent"]; got.TotalTokens != 2*through["chat"].tokens || got.RequestCount != 2 {
		t.Errorf("booked %+v, the SDK saw %+v", got, through)
	}
}

// TestSDK_NeverSees429 sets an SDK without retries of its own on a provider
// that keeps turning requests away.
func TestSDK_NeverSees429(t *testing.T) {
	t.Parallel()
	var faults []provider.Fault
	for range 5 {
		faults = append(faults, provider.Throttle(20*time.Millisecond), provider.Sound())
	}
	sim, base := sidecartest.Simulated(t, provider.Config{Faults: faults})
	s := start(t, base)
	c := openai.NewClient(option.WithBaseURL(s.URL+"/v1"), option.WithMaxRetries(0))
	for range 5 {
		if _, err := c.Chat.Completions.New(context.Background(), openai.ChatCompletionNewParams{
			Model: "gpt-4o", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("say 2 words")},
		}); err != nil {
			t.Error(err)
		}
	}
	if got := sim.Totals(); got.Throttled == 0 || got.Delivered != 5 {
		t.Errorf("the provider's ledger: %+v", got)
	}
}
