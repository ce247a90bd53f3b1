// Quickstart is a program before and after it uses llm-queue-proxy: two lines and
// their imports are all that changes. A line behind "was:" is the one before.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"

	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

func main() {
	// was: client := openai.NewClient()
	client := openai.NewClient(option.WithBaseURL("http://127.0.0.1:8080/v1"), option.WithMiddleware(middleware.New("http://127.0.0.1:8080/v1")))

	// was: ctx := context.Background()
	ctx := middleware.WithSession(context.Background(), "agent-1")

	answer, err := client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
		Model:    "gpt-4o-mini",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Say hello.")},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.Choices[0].Message.Content)
}
