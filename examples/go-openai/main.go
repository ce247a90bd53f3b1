// Go-openai asks a question with the community's Go SDK, streamed, through
// llm-queue-proxy.
//
//	go run ./go-openai -session quickstart "Why is the sky blue?"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	openai "github.com/sashabaranov/go-openai"

	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

var (
	sidecar = flag.String("sidecar", "http://127.0.0.1:8080/v1", "base URL of the sidecar")
	key     = flag.String("key", "unused", "key for the sidecar, where it wants one; the provider's is its own business")
	model   = flag.String("model", "gpt-4o-mini", "model to ask")
	session = flag.String("session", "go-openai", "session to account to")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	question := "Say hello."
	if flag.NArg() > 0 {
		question = flag.Arg(0)
	}
	if err := ask(ctx, question); err != nil {
		log.Fatal(err)
	}
}

func ask(ctx context.Context, question string) error {
	config, baseURL := openai.DefaultConfig(*key), *sidecar
	// This line and the session are all that an application changes.
	config.BaseURL, config.HTTPClient = baseURL, middleware.Client(baseURL, nil)
	llm := openai.NewClientWithConfig(config)
	ctx = middleware.WithSession(ctx, *session)

	stream, err := llm.CreateChatCompletionStream(ctx, openai.ChatCompletionRequest{
		Model:    *model,
		Messages: []openai.ChatCompletionMessage{{Role: openai.ChatMessageRoleUser, Content: question}},
		// The sidecar books exact usage without this; here the application
		// wants to see it as well.
		StreamOptions: &openai.StreamOptions{IncludeUsage: true},
	})
	if err != nil {
		return err
	}
	defer stream.Close()
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, choice := range chunk.Choices {
			fmt.Print(choice.Delta.Content)
		}
		if used := chunk.Usage; used != nil {
			fmt.Printf("\n%d prompt and %d completion tokens\n", used.PromptTokens, used.CompletionTokens)
		}
	}
}
