// Multi-agent runs a team of agents at once, each in a session of its own,
// through one llm-queue-proxy: researchers work on parts of a topic, a writer
// puts their notes together. However many there are and however low the
// provider's limit is, none of them sees a 429; and in the end the sidecar
// knows what each of them used.
//
//	go run ./multi-agent -researchers 8 "The history of tea"
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"

	"github.com/llm-queue-proxy/llm-queue-proxy/client"
	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

var (
	sidecar     = flag.String("sidecar", "http://127.0.0.1:8080/v1", "base URL of the sidecar")
	key         = flag.String("key", "unused", "key for the sidecar, where it wants one; the provider's is its own business")
	model       = flag.String("model", "gpt-4o-mini", "model to ask")
	task        = flag.String("task", "tea", "name of the task; the agents' sessions begin with it")
	researchers = flag.Int("researchers", 4, "researchers at work at the same time")
)

// agent is one member of the team: a role, and a session to account to.
type agent struct {
	llm     openai.Client
	session string
	role    string
}

// ask lets the agent answer. That its session is the context's is all that the
// sidecar needs to keep the agents apart. The task's session is their parent: if the
// sidecar's configuration gives it a budget, they share that.
func (a agent) ask(ctx context.Context, prompt string) (string, error) {
	ctx = middleware.WithParent(middleware.WithSession(ctx, a.session), *task)
	answer, err := a.llm.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
		Model: *model,
		Messages: []openai.ChatCompletionMessageParamUnion{
			openai.SystemMessage(a.role),
			openai.UserMessage(prompt),
		},
	})
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", a.session, err)
	}
	if len(answer.Choices) == 0 {
		return "", fmt.Errorf("ask %s: the answer has no choices", a.session)
	}
	return answer.Choices[0].Message.Content, nil
}

func main() {
	log.SetFlags(0)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	topic := "The history of tea"
	if flag.NArg() > 0 {
		topic = flag.Arg(0)
	}
	ledger, err := client.New(*sidecar, client.WithKey(*key))
	if err != nil {
		log.Fatal(err)
	}
	ready, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := ledger.WaitReady(ready); err != nil {
		log.Fatal(err)
	}
	if err := write(ctx, topic); err != nil {
		log.Fatal(err)
	}
	if err := report(ctx, ledger); err != nil {
		log.Fatal(err)
	}
}

func write(ctx context.Context, topic string) error {
	llm := openai.NewClient(
		option.WithBaseURL(*sidecar),
		option.WithMiddleware(middleware.New(*sidecar)),
		option.WithAPIKey(*key),
	)
	notes := make([]string, *researchers)
	errs := make([]error, *researchers)
	var wg sync.WaitGroup
	for i := range notes {
		researcher := agent{llm, fmt.Sprintf("%s:researcher-%d", *task, i+1), "You research one aspect of a topic and answer in short notes."}
		wg.Go(func() {
			notes[i], errs[i] = researcher.ask(ctx, fmt.Sprintf("Topic: %s. Pick aspect %d of %d.", topic, i+1, *researchers))
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	writer := agent{llm, *task + ":writer", "You turn notes into one readable page."}
	page, err := writer.ask(ctx, strings.Join(notes, "\n\n"))
	if err != nil {
		return err
	}
	fmt.Println(page)
	return nil
}

// report prints what each agent used. The sidecar's other sessions are none of
// this task's business.
func report(ctx context.Context, ledger *client.Client) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "requests\tprompt\tcompletion\tsession\t")
	for session, err := range ledger.Sessions(ctx) {
		if err != nil {
			return err
		}
		if !strings.HasPrefix(session.ID, *task+":") {
			continue
		}
		fmt.Fprintf(table, "%d\t%d\t%d\t%s\t\n",
			session.RequestCount, session.TotalPromptTokens, session.TotalCompletionTokens, session.ID)
	}
	return table.Flush()
}
