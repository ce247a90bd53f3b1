// Openai-go asks a question with OpenAI's own Go SDK, streamed, through
// llm-queue-proxy, and prints what the sidecar has booked for the session since.
//
//	go run ./openai-go -session quickstart "Why is the sky blue?"
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"

	"github.com/llm-queue-proxy/llm-queue-proxy/client"
	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

var (
	sidecar = flag.String("sidecar", "http://127.0.0.1:8080/v1", "base URL of the sidecar")
	key     = flag.String("key", "unused", "key for the sidecar, where it wants one; the provider's is its own business")
	model   = flag.String("model", "gpt-4o-mini", "model to ask")
	session = flag.String("session", "openai-go", "session to account to")
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
	if err := report(ctx); err != nil {
		log.Fatal(err)
	}
}

func ask(ctx context.Context, question string) error {
	// These two options are all that an application changes.
	llm := openai.NewClient(
		option.WithBaseURL(*sidecar),
		option.WithMiddleware(middleware.New(*sidecar)),
		option.WithAPIKey(*key),
	)
	ctx = middleware.WithSession(ctx, *session)

	stream := llm.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
		Model:    *model,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
	})
	defer stream.Close()
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			fmt.Print(choice.Delta.Content)
		}
	}
	fmt.Println()
	return stream.Err()
}

func report(ctx context.Context) error {
	ledger, err := client.New(*sidecar, client.WithKey(*key))
	if err != nil {
		return err
	}
	used, err := ledger.Session(ctx, *session)
	if err != nil {
		return err
	}
	fmt.Printf("session %s: %d requests, %d prompt and %d completion tokens\n",
		used.ID, used.RequestCount, used.TotalPromptTokens, used.TotalCompletionTokens)
	return nil
}
