package examples_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// quickstarts are the programs that show what an application changes, and how many
// lines that may be. Go's imports are not counted, since editors write them.
var quickstarts = map[string]int{
	"quickstart/main.go":        2,
	"python/quickstart.py":      1,
	"javascript/quickstart.mjs": 1,
}

// changed matches a line of a quickstart behind the line that it replaces.
var changed = regexp.MustCompile(`(?m)^(\s*)(?://|#) was: (.*)\n.*\n`)

// before returns the program as it was without the sidecar.
func before(program string) (old string, lines int) {
	return changed.ReplaceAllString(program, "$1$2\n"), len(changed.FindAllString(program, -1))
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAdoption_ChangesFewLines(t *testing.T) {
	for path, most := range quickstarts {
		program := readFile(t, path)
		old, lines := before(program)
		if lines == 0 || lines > most {
			t.Errorf("%s changes %d lines, want 1 to %d", path, lines, most)
		}
		for _, trace := range []string{"127.0.0.1", "middleware.", "agent-1", "was:"} {
			if body := regexp.MustCompile(`(?m)^(//|"""|\t").*`).ReplaceAllString(old, ""); strings.Contains(body, trace) {
				t.Errorf("%s: unmarked lines, too, know of the sidecar (%s)", path, trace)
			}
		}
	}
}

// The program before and after the change does the same; after it, its tokens are
// booked. Those of the other languages are run by .ci/real.
func TestAdoption_InGo(t *testing.T) {
	s := start(t, provider.Config{})
	after := readFile(t, "quickstart/main.go")
	old, _ := before(after)
	for _, gone := range []string{"openai-go/option", "llm-queue-proxy/middleware"} {
		old = regexp.MustCompile(`(?m)^\t".*`+gone+`"\n`).ReplaceAllString(old, "")
	}
	want := runQuickstart(t, old, "OPENAI_BASE_URL="+s.direct, "OPENAI_API_KEY=k")
	got := runQuickstart(t, strings.ReplaceAll(after, "http://127.0.0.1:8080/v1", s.sidecar), "OPENAI_BASE_URL=", "OPENAI_API_KEY=")
	if want == "" || got != want {
		t.Errorf("printed %q, before the change %q", got, want)
	}
	entries := s.provider.Ledger()
	last := entries[len(entries)-1]
	if booked := s.status(t, "agent-1"); len(entries) != 2 || booked.RequestCount != 1 ||
		booked.TotalPromptTokens != last.PromptTokens || booked.TotalCompletionTokens != last.CompletionTokens {
		t.Errorf("booked %+v, the provider billed %+v", booked, last)
	}
}

// runQuickstart runs source in place of the quickstart's.
func runQuickstart(t *testing.T, source string, env ...string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "main.go", source)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{absolute(t, "quickstart/main.go"): filepath.Join(dir, "main.go")}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "overlay.json", string(overlay))
	cmd := exec.CommandContext(t.Context(), "go", "run", "-overlay", filepath.Join(dir, "overlay.json"), "./quickstart")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, source)
	}
	return string(out)
}

// What the pages tell readers to write is what the examples, which run, say. A
// snippet is lines of one example, one after the other, as far as they are not empty.
func TestPages_ShowWhatTheExamplesRun(t *testing.T) {
	programs := map[string][]string{}
	for lang, pattern := range map[string]string{"go": "*/main.go", "python": "python/*.py", "js": "javascript/*.mjs"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) < 4 {
			t.Fatalf("%s: %d examples, %v", lang, len(paths), err)
		}
		for _, path := range paths {
			programs[lang] = append(programs[lang], squeeze(readFile(t, path)))
		}
	}
	fence := regexp.MustCompile("(?ms)^```(go|python|js)\n(.*?)^```$")
	for page, least := range map[string]int{"../README.md": 4, "python/README.md": 1, "javascript/README.md": 1} {
		snippets := fence.FindAllStringSubmatch(readFile(t, page), -1)
		if len(snippets) < least {
			t.Errorf("%s has %d snippets, want %d", page, len(snippets), least)
		}
		for _, snippet := range snippets {
			found := false
			for _, program := range programs[snippet[1]] {
				found = found || strings.Contains(program, squeeze(snippet[2]))
			}
			if !found {
				t.Errorf("%s: no example in %s says\n%s", page, snippet[1], snippet[2])
			}
		}
	}
}

// squeeze drops indentation and empty lines.
func squeeze(text string) string {
	var b strings.Builder
	b.WriteByte('\n')
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}
