package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/sashabaranov/go-openai"

	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

// nearZero stands for temperature 0, which go-openai leaves out of the request
// (its field is a float32 with omitempty).
const nearZero = 1e-6

// runGoOpenAI asks what [runOpenAIGo] asks, save for the responses API, which
// go-openai does not know.
func runGoOpenAI(ctx context.Context, p plan, out io.Writer) error {
	open := func(base, key string, client *http.Client) *openai.Client {
		config := openai.DefaultConfig(key)
		config.BaseURL, config.HTTPClient = base, client
		return openai.NewClientWithConfig(config)
	}
	direct, key := os.Getenv("DIRECT_URL"), os.Getenv("UPSTREAM_KEY")
	sidecar, denied := os.Getenv("SIDECAR_URL"), os.Getenv("DENIED_URL")
	to := report{out: out, sdk: version("go-openai", "github.com/sashabaranov/go-openai"), via: "direct", session: "go-openai-path"}

	d := goOpenAI{to, p, open(direct, key, fresh)}
	if err := d.all(ctx, open(direct, "wrong", fresh)); err != nil {
		return fmt.Errorf("directly: %w", err)
	}
	d.report.via, d.client = "sidecar", open(sidecar+"/v1/session/go-openai-path", "unused", &http.Client{})
	if err := d.all(ctx, open(denied+"/v1", "unused", &http.Client{})); err != nil {
		return fmt.Errorf("session by URL: %w", err)
	}

	d.report.session = "go-openai-middleware"
	d.client = open(sidecar+"/v1", "unused", middleware.Client(sidecar+"/v1", nil))
	if err := d.chats(middleware.WithSession(ctx, d.report.session)); err != nil {
		return fmt.Errorf("session by middleware: %w", err)
	}
	return nil
}

type goOpenAI struct {
	report report
	plan   plan
	client *openai.Client
}

func (d goOpenAI) chat() openai.ChatCompletionRequest {
	return openai.ChatCompletionRequest{
		Model:       d.plan.Model,
		Messages:    []openai.ChatCompletionMessage{{Role: openai.ChatMessageRoleUser, Content: d.plan.Question}},
		MaxTokens:   d.plan.MaxTokens, //nolint:staticcheck // llama.cpp and many other servers know only max_tokens
		Temperature: nearZero,
		Seed:        &d.plan.Seed,
	}
}

func (d goOpenAI) long() openai.ChatCompletionRequest {
	req := d.chat()
	req.Messages[0].Content = d.plan.LongQuestion
	req.MaxTokens = d.plan.LongMaxTokens //nolint:staticcheck // as above
	return req
}

func (d goOpenAI) all(ctx context.Context, denied *openai.Client) error {
	return errors.Join(
		d.chats(ctx),
		d.stream(ctx, "long-usage", askUsage(d.long())),
		d.stream(ctx, "long", d.long()),
		d.completion(ctx),
		d.embedding(ctx),
		d.models(ctx),
		d.faults(ctx, denied),
	)
}

func (d goOpenAI) chats(ctx context.Context) error {
	answer, err := d.client.CreateChatCompletion(ctx, d.chat())
	if err != nil {
		return fmt.Errorf("chat: %w", err)
	}
	return errors.Join(
		d.report.write(line{
			Step: "chat", Text: answer.Choices[0].Message.Content, Usage: spent(&answer.Usage), Body: encode(answer),
		}),
		d.stream(ctx, "stream", d.chat()),
		d.stream(ctx, "stream-usage", askUsage(d.chat())),
	)
}

func askUsage(req openai.ChatCompletionRequest) openai.ChatCompletionRequest {
	req.StreamOptions = &openai.StreamOptions{IncludeUsage: true}
	return req
}

func (d goOpenAI) stream(ctx context.Context, step string, req openai.ChatCompletionRequest) error {
	stream, err := d.client.CreateChatCompletionStream(ctx, req)
	if err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	defer stream.Close()
	l := line{Step: step}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return d.report.write(l)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		if step == "long-usage" && len(l.Events) == 0 {
			live, err := busy(ctx)
			if err != nil {
				return fmt.Errorf("%s: read metrics: %w", step, err)
			}
			l.Live = &live
		}
		if chunk.Usage != nil {
			l.Usage = spent(chunk.Usage)
		}
		if len(chunk.Choices) > 0 {
			l.Text += chunk.Choices[0].Delta.Content
		}
		l.Events = append(l.Events, encode(chunk))
	}
}

func (d goOpenAI) completion(ctx context.Context) error {
	answer, err := d.client.CreateCompletion(ctx, openai.CompletionRequest{
		Model: d.plan.Model, Prompt: d.plan.Prompt, MaxTokens: d.plan.MaxTokens, Temperature: nearZero, Seed: &d.plan.Seed,
	})
	if err != nil {
		return fmt.Errorf("completion: %w", err)
	}
	return d.report.write(line{
		Step: "completion", Text: answer.Choices[0].Text, Usage: spent(answer.Usage), Body: encode(answer),
	})
}

func (d goOpenAI) embedding(ctx context.Context) error {
	answer, err := d.client.CreateEmbeddings(ctx, openai.EmbeddingRequestStrings{
		Model: openai.EmbeddingModel(d.plan.Model), Input: d.plan.Embed,
	})
	if err != nil {
		return fmt.Errorf("embedding: %w", err)
	}
	return d.report.write(line{
		Step: "embedding", Text: fmt.Sprintf("%dx%d", len(answer.Data), len(answer.Data[0].Embedding)),
		Usage: spent(&answer.Usage), Body: encode(answer),
	})
}

func (d goOpenAI) models(ctx context.Context) error {
	list, err := d.client.ListModels(ctx)
	if err != nil {
		return fmt.Errorf("models: %w", err)
	}
	return d.report.write(line{Step: "models", Text: list.Models[0].ID})
}

func (d goOpenAI) faults(ctx context.Context, denied *openai.Client) error {
	bad := d.chat()
	bad.Messages = nil
	_, badRequest := d.client.CreateChatCompletion(ctx, bad)
	_, notFound := d.client.GetModel(ctx, "no-such-model")
	_, unauthorized := denied.CreateChatCompletion(ctx, d.chat())
	return errors.Join(d.fault("error-400", badRequest), d.fault("error-404", notFound), d.fault("error-401", unauthorized))
}

func (d goOpenAI) fault(step string, err error) error {
	var e *openai.APIError
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: got %v, want an *openai.APIError", step, err) //nolint:errorlint // it may be nil
	}
	return d.report.write(line{
		Step:  step,
		Error: &apiError{fmt.Sprintf("%T", e), e.HTTPStatusCode, e.Message, e.Type, fmt.Sprint(e.Code)},
	})
}

func spent(u *openai.Usage) *usage {
	if u == nil {
		return nil
	}
	return &usage{int64(u.PromptTokens), int64(u.CompletionTokens), int64(u.TotalTokens)}
}

// encode gives back as JSON what the SDK decoded; go-openai keeps no raw bytes.
func encode(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // the SDK's own answer types always encode
	}
	return data
}
