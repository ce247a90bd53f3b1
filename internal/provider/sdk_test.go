package provider_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	openai "github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
	"github.com/openai/openai-go/responses"
	goopenai "github.com/sashabaranov/go-openai"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// usage is what an SDK says, compared with what the ledger says.
type usage struct{ Prompt, Completion int64 }

// last returns what the ledger says of the last request.
func last(t *testing.T, s *provider.Server) usage {
	t.Helper()
	entries := s.Ledger()
	if len(entries) == 0 {
		t.Fatal("the ledger is empty")
	}
	e := entries[len(entries)-1] // complete as soon as the client has the answer: see Server.Wait
	if !e.Accepted || !e.Delivered || e.Left || e.Status != 200 {
		t.Errorf("last entry = %+v, want it accepted and delivered", e)
	}
	return usage{e.PromptTokens, e.CompletionTokens}
}

func sdks(t *testing.T, cfg provider.Config) (*provider.Server, openai.Client, *goopenai.Client) {
	t.Helper()
	s, base := provider.Start(t, cfg)
	other := goopenai.DefaultConfig("sk-test")
	other.BaseURL = base
	return s,
		openai.NewClient(option.WithBaseURL(base+"/"), option.WithAPIKey("sk-test"), option.WithMaxRetries(0)),
		goopenai.NewClientWithConfig(other)
}

func TestServer_OpenAIGo(t *testing.T) {
	ctx := context.Background()
	s, client, _ := sdks(t, provider.Config{})
	params := openai.ChatCompletionNewParams{
		Model:    "gpt-4o",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Please say 7 words about queues, think 5 tokens, cached 4 tokens.")},
	}

	t.Run("a chat completion decodes", func(t *testing.T) {
		got, err := client.Chat.Completions.New(ctx, params)
		if err != nil {
			t.Fatal(err)
		}
		if n := provider.CountTokens(got.Choices[0].Message.Content); n != 7 || got.Usage.CompletionTokens != 12 {
			t.Errorf("content of %d tokens, usage of %d, want 7 and 12", n, got.Usage.CompletionTokens)
		}
		if got.Usage.CompletionTokensDetails.ReasoningTokens != 5 || got.Usage.PromptTokensDetails.CachedTokens != 4 {
			t.Errorf("details = %+v", got.Usage)
		}
		if d := cmp.Diff(last(t, s), usage{got.Usage.PromptTokens, got.Usage.CompletionTokens}); d != "" {
			t.Errorf("ledger and SDK differ (-ledger +sdk):\n%s", d)
		}
	})
	for _, n := range []int64{1, 3} {
		t.Run("a chat stream decodes and accumulates", func(t *testing.T) {
			p := params
			p.N = openai.Int(n)
			p.StreamOptions.IncludeUsage = openai.Bool(true)
			stream := client.Chat.Completions.NewStreaming(ctx, p)
			var acc openai.ChatCompletionAccumulator
			nulls := 0
			for stream.Next() {
				chunk := stream.Current()
				if !acc.AddChunk(chunk) {
					t.Errorf("accumulator refused %s", chunk.RawJSON())
				}
				if len(chunk.Choices) > 0 && strings.Contains(chunk.RawJSON(), `"usage":null`) {
					nulls++
				}
			}
			if err := stream.Err(); err != nil {
				t.Fatal(err)
			}
			if nulls != 9*int(n) { // role, seven words, finish
				t.Errorf("%d chunks with a null usage, want %d", nulls, 9*n)
			}
			if len(acc.Choices) != int(n) || provider.CountTokens(acc.Choices[0].Message.Content) != 7 || acc.Choices[0].FinishReason != "stop" {
				t.Errorf("accumulated %+v", acc.Choices)
			}
			if d := cmp.Diff(last(t, s), usage{acc.Usage.PromptTokens, acc.Usage.CompletionTokens}); d != "" || acc.Usage.CompletionTokens != 12*n {
				t.Errorf("ledger and SDK differ (-ledger +sdk):\n%s", d)
			}
		})
	}
	t.Run("a stream that did not ask for usage gets none", func(t *testing.T) {
		stream := client.Chat.Completions.NewStreaming(ctx, params)
		for stream.Next() {
			if raw := stream.Current().RawJSON(); strings.Contains(raw, "usage") || len(stream.Current().Choices) == 0 {
				t.Errorf("chunk %s", raw)
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a tool call decodes, whole and streamed", func(t *testing.T) {
		p := params
		p.Messages = []openai.ChatCompletionMessageParamUnion{openai.UserMessage("call weather")}
		p.Tools = []openai.ChatCompletionToolParam{{Function: openai.FunctionDefinitionParam{Name: "weather"}}}
		got, err := client.Chat.Completions.New(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		whole := got.Choices[0].Message.ToolCalls
		if len(whole) != 1 || whole[0].Function.Name != "weather" || !json.Valid([]byte(whole[0].Function.Arguments)) || got.Choices[0].FinishReason != "tool_calls" {
			t.Fatalf("answer = %s", got.RawJSON())
		}
		stream := client.Chat.Completions.NewStreaming(ctx, p)
		var acc openai.ChatCompletionAccumulator
		for stream.Next() {
			acc.AddChunk(stream.Current())
		}
		streamed := acc.Choices[0].Message.ToolCalls
		if len(streamed) != 1 || streamed[0].Function.Name != "weather" || streamed[0].Function.Arguments != whole[0].Function.Arguments {
			t.Errorf("streamed %+v, whole %+v", streamed, whole)
		}
		if got := last(t, s).Completion; got != provider.CountTokens("weather "+whole[0].Function.Arguments) {
			t.Errorf("ledger has %d completion tokens", got)
		}
	})
	t.Run("responses decode, whole and streamed", func(t *testing.T) {
		p := responses.ResponseNewParams{
			Model: "gpt-4o", Instructions: openai.String("be kind"),
			Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("say 9 words")},
		}
		got, err := client.Responses.New(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		whole := last(t, s)
		if provider.CountTokens(got.OutputText()) != 9 || got.Status != "completed" || whole != (usage{got.Usage.InputTokens, got.Usage.OutputTokens}) {
			t.Errorf("answer = %s", got.RawJSON())
		}
		p.PreviousResponseID = openai.String(got.ID)
		p.MaxOutputTokens = openai.Int(4)
		stream := client.Responses.NewStreaming(ctx, p)
		var text string
		var types []string
		var final responses.Response
		for stream.Next() {
			e := stream.Current()
			if e.SequenceNumber != int64(len(types)) {
				t.Errorf("event %d has the number %d", len(types), e.SequenceNumber)
			}
			types = append(types, e.Type)
			if e.Type == "response.output_text.delta" {
				text += e.AsResponseOutputTextDelta().Delta
			}
			final = e.Response
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
			"response.output_text.delta", "response.output_text.delta", "response.output_text.delta", "response.output_text.delta",
			"response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
		}
		if d := cmp.Diff(want, types); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
		if final.OutputText() != text || final.IncompleteDetails.Reason != "max_output_tokens" {
			t.Errorf("final = %s, streamed text %q", final.RawJSON(), text)
		}
		want2 := usage{2*whole.Prompt + whole.Completion, 4}
		if d := cmp.Diff(want2, usage{final.Usage.InputTokens, final.Usage.OutputTokens}); d != "" || last(t, s) != want2 {
			t.Errorf("usage (-want +got):\n%s", d)
		}
		p.PreviousResponseID = openai.String(final.ID)
		if _, err := client.Responses.New(ctx, p); err != nil || last(t, s).Prompt != whole.Prompt+want2.Prompt+want2.Completion {
			t.Errorf("the third turn's prompt is %d tokens, %v", last(t, s).Prompt, err)
		}
	})
	t.Run("a function call streams through responses", func(t *testing.T) {
		stream := client.Responses.NewStreaming(ctx, responses.ResponseNewParams{
			Model: "gpt-4o", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("hello")},
			Tools:      []responses.ToolUnionParam{{OfFunction: &responses.FunctionToolParam{Name: "weather"}}},
			ToolChoice: responses.ResponseNewParamsToolChoiceUnion{OfToolChoiceMode: openai.Opt(responses.ToolChoiceOptionsRequired)},
		})
		var arguments string
		var final responses.Response
		for stream.Next() {
			e := stream.Current()
			if e.Type == "response.function_call_arguments.delta" {
				arguments += e.AsResponseFunctionCallArgumentsDelta().Delta
			}
			final = e.Response
		}
		call := final.Output[0].AsFunctionCall()
		if call.Name != "weather" || call.Arguments != arguments || arguments == "" {
			t.Errorf("call %+v, streamed arguments %q", call, arguments)
		}
	})
	t.Run("embeddings decode", func(t *testing.T) {
		got, err := client.Embeddings.New(ctx, openai.EmbeddingNewParams{
			Model: "text-embedding-3-small", Dimensions: openai.Int(8),
			Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"one", "two words"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Data) != 2 || len(got.Data[1].Embedding) != 8 || last(t, s) != (usage{got.Usage.PromptTokens, 0}) || got.Usage.PromptTokens != 3 {
			t.Errorf("answer = %s", got.RawJSON())
		}
	})
	t.Run("models and files decode", func(t *testing.T) {
		m, err := client.Models.Get(ctx, "org/name")
		if err != nil || m.ID != "org/name" {
			t.Errorf("model %+v, %v", m, err)
		}
		f, err := client.Files.New(ctx, openai.FileNewParams{
			File: openai.File(strings.NewReader("data\x00\xff"), "a.jsonl", "application/jsonl"), Purpose: "batch",
		})
		if err != nil {
			t.Fatal(err)
		}
		content, err := client.Files.Content(ctx, f.ID)
		if err != nil {
			t.Fatal(err)
		}
		defer content.Body.Close()
		if b, err := io.ReadAll(content.Body); string(b) != "data\x00\xff" || err != nil {
			t.Errorf("content %q, %v", b, err)
		}
		text, err := client.Audio.Transcriptions.New(ctx, openai.AudioTranscriptionNewParams{
			File: openai.File(strings.NewReader("sound"), "a.mp3", "audio/mpeg"), Model: "whisper-1",
		})
		if err != nil || text.Text != "a recording of 5 bytes" {
			t.Errorf("transcription %+v, %v", text, err)
		}
		image, err := client.Images.Generate(ctx, openai.ImageGenerateParams{Prompt: "a queue", Model: "gpt-image-1"})
		if err != nil || len(image.Data) != 1 || image.Data[0].B64JSON == "" {
			t.Errorf("image %+v, %v", image, err)
		}
	})
}

func TestServer_GoOpenAI(t *testing.T) {
	ctx := context.Background()
	s, _, client := sdks(t, provider.Config{})
	request := goopenai.ChatCompletionRequest{
		Model: "gpt-4o", Messages: []goopenai.ChatCompletionMessage{{Role: "user", Content: "say 6 words"}},
	}
	t.Run("a chat completion decodes", func(t *testing.T) {
		got, err := client.CreateChatCompletion(ctx, request)
		if err != nil {
			t.Fatal(err)
		}
		if last(t, s) != (usage{int64(got.Usage.PromptTokens), int64(got.Usage.CompletionTokens)}) || got.Usage.CompletionTokens != 6 {
			t.Errorf("answer = %+v", got)
		}
	})
	t.Run("streams decode", func(t *testing.T) {
		request := request
		request.StreamOptions = &goopenai.StreamOptions{IncludeUsage: true}
		stream, err := client.CreateChatCompletionStream(ctx, request)
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		var text string
		var used *goopenai.Usage
		for {
			chunk, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			used = chunk.Usage
			for _, c := range chunk.Choices {
				text += c.Delta.Content
			}
		}
		if provider.CountTokens(text) != 6 || used == nil || last(t, s) != (usage{int64(used.PromptTokens), int64(used.CompletionTokens)}) {
			t.Errorf("text %q, usage %+v", text, used)
		}
	})
	t.Run("completions decode, whole and streamed", func(t *testing.T) {
		got, err := client.CreateCompletion(ctx, goopenai.CompletionRequest{Model: "old", Prompt: "say 5 words", N: 2, MaxTokens: 3})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Choices) != 2 || got.Choices[0].FinishReason != "length" || last(t, s) != (usage{int64(got.Usage.PromptTokens), 6}) || got.Usage.CompletionTokens != 6 {
			t.Errorf("answer = %+v", got)
		}
		stream, err := client.CreateCompletionStream(ctx, goopenai.CompletionRequest{Model: "old", Prompt: "say 5 words"})
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		var text string
		for {
			chunk, err := stream.Recv()
			if err != nil {
				break
			}
			text += chunk.Choices[0].Text
		}
		if provider.CountTokens(text) != 5 {
			t.Errorf("streamed %q", text)
		}
	})
	t.Run("a 429 is an API error with the provider's words", func(t *testing.T) {
		s.Script(provider.Throttle(0), provider.Quota(), provider.TooLarge())
		for _, want := range []string{"Rate limit reached for gpt-4o", "You exceeded your current quota", "Request too large for gpt-4o"} {
			_, err := client.CreateChatCompletion(ctx, request)
			var api *goopenai.APIError
			if !errors.As(err, &api) || api.HTTPStatusCode != 429 || !strings.HasPrefix(api.Message, want) {
				t.Errorf("error %v, want %q", err, want)
			}
		}
	})
}
