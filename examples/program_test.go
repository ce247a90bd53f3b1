package examples_test

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// runProgram runs an example as a user would and returns what it printed.
func runProgram(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program(t, name), args...).CombinedOutput()
	return string(out), err
}

func TestPrograms_AnswerAndAreBooked(t *testing.T) {
	const question = "Please say 12 words about queues."
	// Few requests at a time: with more agents than that, some have to wait.
	s := start(t, provider.Config{MaxConcurrent: 2}, "MAX_CONCURRENT_REQUESTS=2")

	for _, name := range []string{"openai-go", "go-openai"} {
		t.Run(name, func(t *testing.T) {
			out, err := runProgram(t, name, "-sidecar", s.sidecar, "-session", "s:"+name, question)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			answer, rest, _ := strings.Cut(out, "\n")
			if n := provider.CountTokens(answer); n != 12 {
				t.Errorf("the answer has %d tokens, want 12: %q", n, answer)
			}
			entries := s.provider.Ledger()
			last := entries[len(entries)-1]
			got := s.status(t, "s:"+name)
			if got.RequestCount != 1 || got.TotalPromptTokens != last.PromptTokens || got.TotalCompletionTokens != last.CompletionTokens {
				t.Errorf("booked %+v, the provider says %d and %d", got, last.PromptTokens, last.CompletionTokens)
			}
			if want := fmt.Sprintf("%d prompt and %d completion tokens", last.PromptTokens, last.CompletionTokens); !strings.Contains(rest, want) {
				t.Errorf("printed %q, want it to say %q", rest, want)
			}
		})
	}
	t.Run("multi-agent", func(t *testing.T) {
		before := s.provider.Totals()
		out, err := runProgram(t, "multi-agent", "-sidecar", s.sidecar, "-task", "t", "-researchers", "8", question)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		after := s.provider.Totals()
		if n := after.Accepted - before.Accepted; n != 9 {
			t.Errorf("the provider admitted %d requests, want 9", n)
		}
		var prompt, completion int64
		for i := range 9 {
			session := fmt.Sprint("t:researcher-", i+1)
			if i == 8 {
				session = "t:writer"
			}
			got := s.status(t, session)
			prompt, completion = prompt+got.TotalPromptTokens, completion+got.TotalCompletionTokens
			row := fmt.Sprintf(` +1 +%d +%d +%s`, got.TotalPromptTokens, got.TotalCompletionTokens, regexp.QuoteMeta(session))
			if got.RequestCount != 1 || !regexp.MustCompile(row).MatchString(out) {
				t.Errorf("booked %+v, printed\n%s", got, out)
			}
		}
		if prompt != after.PromptTokens-before.PromptTokens || completion != after.CompletionTokens-before.CompletionTokens {
			t.Errorf("booked %d and %d tokens, the provider's ledger differs: %+v, before %+v", prompt, completion, after, before)
		}
	})
	t.Run("a program sees no 429", func(t *testing.T) {
		for _, entry := range s.provider.Ledger() {
			if entry.Status == 429 {
				t.Errorf("the provider refused request %d", entry.ID)
			}
		}
	})
}

// The agents of a task have sessions of their own and the task's budget together.
func TestPrograms_AgentsShareTheirTasksBudget(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "config.yaml", "sessions:\n  - {match: \"poor\", budget: {tokens: 20, per: day, action: reject}}\n")
	s := start(t, provider.Config{}, "CONFIG_FILE="+filepath.Join(dir, "config.yaml"))
	// The researcher uses the budget up, so the writer, who has used nothing, is refused.
	out, err := runProgram(t, "multi-agent", "-sidecar", s.sidecar, "-task", "poor", "-researchers", "1", "say 40 words")
	if err == nil || !strings.Contains(out, "poor:writer") || !strings.Contains(out, "402 Payment Required") {
		t.Errorf("%v, printed %q, want the writer refused with 402", err, out)
	}
	if got := s.status(t, "poor:researcher-1"); got.RequestCount != 1 {
		t.Errorf("booked %+v", got)
	}
	if out, err := runProgram(t, "multi-agent", "-sidecar", s.sidecar, "-task", "rich", "-researchers", "1", "say 40 words"); err != nil {
		t.Errorf("a task without a budget: %v\n%s", err, out)
	}
}

func TestPrograms_WithoutASidecar(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	for _, name := range []string{"openai-go", "go-openai"} {
		out, err := runProgram(t, name, "-sidecar", "http://"+address+"/v1")
		if err == nil || !strings.Contains(out, "no sidecar answers at "+address+": start llm-queue-proxy there") {
			t.Errorf("%s: %v, printed %q", name, err, out)
		}
	}
}
