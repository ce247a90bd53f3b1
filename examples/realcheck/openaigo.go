package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
	"github.com/openai/openai-go/packages/ssestream"
	"github.com/openai/openai-go/responses"

	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

// runOpenAIGo asks everything with the session in the URL, then a little with
// the session in the context.
func runOpenAIGo(ctx context.Context, p plan, out io.Writer) error {
	open := func(base, key string, opts ...option.RequestOption) openai.Client {
		return openai.NewClient(append(opts, option.WithBaseURL(base), option.WithAPIKey(key), option.WithMaxRetries(0))...)
	}
	direct, key := os.Getenv("DIRECT_URL"), os.Getenv("UPSTREAM_KEY")
	sidecar, denied := os.Getenv("SIDECAR_URL"), os.Getenv("DENIED_URL")
	to := report{out: out, sdk: version("openai-go", "github.com/openai/openai-go"), via: "direct", session: "openai-go-path"}

	d := openAIGo{to, p, open(direct, key, option.WithHTTPClient(fresh))}
	if err := d.all(ctx, open(direct, "wrong", option.WithHTTPClient(fresh))); err != nil {
		return fmt.Errorf("directly: %w", err)
	}
	d.report.via, d.client = "sidecar", open(sidecar+"/v1/session/openai-go-path", "unused")
	if err := d.all(ctx, open(denied+"/v1", "unused")); err != nil {
		return fmt.Errorf("session by URL: %w", err)
	}

	d.report.session = "openai-go-middleware"
	d.client = open(sidecar+"/v1", "unused", option.WithMiddleware(middleware.New(sidecar+"/v1")))
	if err := d.chats(middleware.WithSession(ctx, d.report.session)); err != nil {
		return fmt.Errorf("session by middleware: %w", err)
	}

	if control == "" {
		return nil
	}
	d.report.via, d.client = "direct", open(os.Getenv("FAULTY_URL"), "unused")
	if err := d.meetFaults(ctx); err != nil {
		return fmt.Errorf("directly: %w", err)
	}
	faulty := os.Getenv("FAULTY_SIDECAR_URL") + "/v1"
	d.report.via, d.client = "sidecar", open(faulty, "unused", option.WithMiddleware(middleware.New(faulty)))
	return d.meetFaults(middleware.WithSession(ctx, d.report.session))
}

type openAIGo struct {
	report report
	plan   plan
	client openai.Client
}

func (d openAIGo) chat() openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:       d.plan.Model,
		Messages:    []openai.ChatCompletionMessageParamUnion{openai.UserMessage(d.plan.Question)},
		MaxTokens:   openai.Int(int64(d.plan.MaxTokens)),
		Temperature: openai.Float(0),
		Seed:        openai.Int(int64(d.plan.Seed)),
	}
}

func (d openAIGo) long() openai.ChatCompletionNewParams {
	params := d.chat()
	params.Messages = []openai.ChatCompletionMessageParamUnion{openai.UserMessage(d.plan.LongQuestion)}
	params.MaxTokens = openai.Int(int64(d.plan.LongMaxTokens))
	return params
}

func (d openAIGo) all(ctx context.Context, denied openai.Client) error {
	return errors.Join(
		d.chats(ctx),
		d.stream(ctx, "long-usage", withUsage(d.long())),
		d.stream(ctx, "long", d.long()),
		d.completion(ctx),
		d.response(ctx),
		d.responseStream(ctx),
		d.embedding(ctx),
		d.models(ctx),
		d.faults(ctx, denied),
	)
}

func (d openAIGo) chats(ctx context.Context) error {
	answer, err := d.client.Chat.Completions.New(ctx, d.chat())
	if err != nil {
		return fmt.Errorf("chat: %w", err)
	}
	return errors.Join(
		d.report.write(line{
			Step: "chat", Text: answer.Choices[0].Message.Content, Body: json.RawMessage(answer.RawJSON()),
			Usage: &usage{answer.Usage.PromptTokens, answer.Usage.CompletionTokens, answer.Usage.TotalTokens},
		}),
		d.stream(ctx, "stream", d.chat()),
		d.stream(ctx, "stream-usage", withUsage(d.chat())),
	)
}

func withUsage(params openai.ChatCompletionNewParams) openai.ChatCompletionNewParams {
	params.StreamOptions.IncludeUsage = openai.Bool(true)
	return params
}

func (d openAIGo) stream(ctx context.Context, step string, params openai.ChatCompletionNewParams) error {
	l := line{Step: step}
	stream := d.client.Chat.Completions.NewStreaming(ctx, params)
	err := collect(ctx, stream, &l, func(chunk openai.ChatCompletionChunk) json.RawMessage {
		if chunk.JSON.Usage.Valid() {
			l.Usage = &usage{chunk.Usage.PromptTokens, chunk.Usage.CompletionTokens, chunk.Usage.TotalTokens}
		}
		if len(chunk.Choices) > 0 {
			l.Text += chunk.Choices[0].Delta.Content
		}
		return json.RawMessage(chunk.RawJSON())
	})
	return errors.Join(err, d.report.write(l))
}

func (d openAIGo) responseStream(ctx context.Context) error {
	l := line{Step: "response-stream"}
	stream := d.client.Responses.NewStreaming(ctx, d.question())
	err := collect(ctx, stream, &l, func(event responses.ResponseStreamEventUnion) json.RawMessage {
		switch event.Type {
		case "response.output_text.delta":
			l.Text += event.Delta.OfString
		case "response.completed":
			u := event.Response.Usage
			l.Usage = &usage{u.InputTokens, u.OutputTokens, u.TotalTokens}
		}
		return json.RawMessage(event.RawJSON())
	})
	return errors.Join(err, d.report.write(l))
}

// collect reads a stream to its end. On the first event of a long stream it
// looks whether the model is still at work.
func collect[T any](ctx context.Context, stream *ssestream.Stream[T], l *line, read func(T) json.RawMessage) error {
	defer stream.Close()
	for stream.Next() {
		if l.Step == "long-usage" && len(l.Events) == 0 {
			live, err := busy(ctx)
			if err != nil {
				return fmt.Errorf("%s: read metrics: %w", l.Step, err)
			}
			l.Live = &live
		}
		l.Events = append(l.Events, read(stream.Current()))
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("%s: %w", l.Step, err)
	}
	return nil
}

func (d openAIGo) completion(ctx context.Context) error {
	answer, err := d.client.Completions.New(ctx, openai.CompletionNewParams{
		Model:       openai.CompletionNewParamsModel(d.plan.Model),
		Prompt:      openai.CompletionNewParamsPromptUnion{OfString: openai.String(d.plan.Prompt)},
		MaxTokens:   openai.Int(int64(d.plan.MaxTokens)),
		Temperature: openai.Float(0),
		Seed:        openai.Int(int64(d.plan.Seed)),
	})
	if err != nil {
		return fmt.Errorf("completion: %w", err)
	}
	return d.report.write(line{
		Step: "completion", Text: answer.Choices[0].Text, Body: json.RawMessage(answer.RawJSON()),
		Usage: &usage{answer.Usage.PromptTokens, answer.Usage.CompletionTokens, answer.Usage.TotalTokens},
	})
}

func (d openAIGo) question() responses.ResponseNewParams {
	return responses.ResponseNewParams{
		Model:           d.plan.Model,
		Input:           responses.ResponseNewParamsInputUnion{OfString: openai.String(d.plan.Question)},
		MaxOutputTokens: openai.Int(int64(d.plan.MaxTokens)),
		Temperature:     openai.Float(0),
	}
}

func (d openAIGo) response(ctx context.Context) error {
	answer, err := d.client.Responses.New(ctx, d.question())
	if err != nil {
		return fmt.Errorf("response: %w", err)
	}
	return d.report.write(line{
		Step: "response", Text: answer.OutputText(), Body: json.RawMessage(answer.RawJSON()),
		Usage: &usage{answer.Usage.InputTokens, answer.Usage.OutputTokens, answer.Usage.TotalTokens},
	})
}

func (d openAIGo) embedding(ctx context.Context) error {
	answer, err := d.client.Embeddings.New(ctx, openai.EmbeddingNewParams{
		Model: d.plan.Model,
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: d.plan.Embed},
	})
	if err != nil {
		return fmt.Errorf("embedding: %w", err)
	}
	return d.report.write(line{
		Step: "embedding", Text: fmt.Sprintf("%dx%d", len(answer.Data), len(answer.Data[0].Embedding)),
		Body:  json.RawMessage(answer.RawJSON()),
		Usage: &usage{Prompt: answer.Usage.PromptTokens, Total: answer.Usage.TotalTokens},
	})
}

func (d openAIGo) models(ctx context.Context) error {
	page, err := d.client.Models.List(ctx)
	if err != nil {
		return fmt.Errorf("models: %w", err)
	}
	return d.report.write(line{Step: "models", Text: page.Data[0].ID})
}

func (d openAIGo) faults(ctx context.Context, denied openai.Client) error {
	bad := d.chat()
	bad.Messages = nil
	_, badRequest := d.client.Chat.Completions.New(ctx, bad)
	_, notFound := d.client.Models.Get(ctx, "no-such-model")
	_, unauthorized := denied.Chat.Completions.New(ctx, d.chat())
	return errors.Join(d.fault("error-400", badRequest), d.fault("error-404", notFound), d.fault("error-401", unauthorized))
}

// meetFaults makes one call for each fault of the provider, with none first.
func (d openAIGo) meetFaults(ctx context.Context) error {
	scenes := map[string]string{"whole chat": "sound", "throttled chat": "throttle 50"}
	for fault := range strings.SplitSeq(os.Getenv("REFUSALS"), ",") {
		scenes["refused "+fault+" chat"] = fault
	}
	for step, fault := range scenes {
		if err := script(ctx, fault); err != nil {
			return err
		}
		answer, err := d.client.Chat.Completions.New(ctx, d.chat())
		if err == nil {
			err = d.report.write(line{Scene: "faults", Step: step, Text: answer.Choices[0].Message.Content})
		} else {
			err = d.fault(step, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d openAIGo) fault(step string, err error) error {
	var e *openai.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: got %v, want an *openai.Error", step, err) //nolint:errorlint // it may be nil
	}
	l := line{Step: step, Error: &apiError{fmt.Sprintf("%T", e), e.StatusCode, e.Message, e.Type, e.Code}}
	if strings.HasSuffix(step, " chat") {
		l.Scene = "faults"
	}
	return d.report.write(l)
}
