// Openai-go-v3 asks a question with version 3 of OpenAI's Go SDK, by the
// Responses API, streamed, through llm-queue-proxy. The middleware is the same
// as for versions 1 and 2.
//
//	cd openai-go-v3 && GOWORK=off go run . -session quickstart "Why is the sky blue?"
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

var (
	sidecar = flag.String("sidecar", "http://127.0.0.1:8080/v1", "base URL of the sidecar")
	key     = flag.String("key", "unused", "key for the sidecar, where it wants one; the provider's is its own business")
	model   = flag.String("model", "gpt-4o-mini", "model to ask")
	session = flag.String("session", "openai-go-v3", "session to account to")
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
	if err := ask(ctx, newClient(), question); err != nil {
		log.Fatal(err)
	}
}

func newClient() openai.Client {
	// The first two options are all that an application changes.
	return openai.NewClient(
		option.WithBaseURL(*sidecar),
		option.WithMiddleware(middleware.New(*sidecar)),
		option.WithAPIKey(*key),
	)
}

func ask(ctx context.Context, llm openai.Client, question string) error {
	ctx = middleware.WithSession(ctx, *session)
	stream := llm.Responses.NewStreaming(ctx, responses.ResponseNewParams{
		Model: *model,
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(question)},
	})
	defer stream.Close()
	for stream.Next() {
		switch event := stream.Current(); event.Type {
		case "response.output_text.delta":
			fmt.Print(event.Delta)
		case "response.completed":
			used := event.Response.Usage
			fmt.Printf("\n%d prompt and %d completion tokens\n", used.InputTokens, used.OutputTokens)
		}
	}
	return stream.Err()
}
