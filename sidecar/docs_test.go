package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
)

// errorCodes finds every code that an error of ours can carry, in the source.
func errorCodes(t *testing.T) []string {
	t.Helper()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	written := regexp.MustCompile(`(?:code: |invalid\()"([a-z_]+)"`)
	var codes []string
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range written.FindAllSubmatch(source, -1) {
			codes = append(codes, string(m[1]))
		}
	}
	for r := limit.QueueFull; !strings.HasPrefix(r.String(), "reason("); r++ {
		codes = append(codes, r.String())
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

func TestTroubleshooting_HasEveryErrorCode(t *testing.T) {
	page, err := os.ReadFile("../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| [1-5][0-9][0-9] \\|").FindAllSubmatch(page, -1) {
		rows = append(rows, string(m[1]))
	}
	slices.Sort(rows)
	codes := errorCodes(t)
	if len(codes) < 20 {
		t.Fatalf("the sources have %v only", codes)
	}
	if !slices.Equal(rows, codes) {
		t.Errorf("docs/troubleshooting.md has %v\nthe program %v", rows, codes)
	}
}

// TestDocs_NameWhatIsThere: metrics and settings that the pages name exist.
func TestDocs_NameWhatIsThere(t *testing.T) {
	sources := ""
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && !strings.HasSuffix(name, "_test.go") {
			sources += string(text)
		}
	}
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := filepath.Glob("../examples/*/README.md")
	if err != nil || len(examples) < 5 {
		t.Fatalf("%d pages of examples, %v", len(examples), err)
	}
	pages = append(append(pages, examples...), "../README.md", "../SECURITY.md", "../examples/README.md",
		"../examples/monitoring/rules.yaml", "../examples/monitoring/dashboard.json")
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`llm_queue_proxy_([a-z0-9_]+)`).FindAllSubmatch(text, -1) {
			if name := strings.TrimSuffix(string(m[1]), "_bucket"); !strings.Contains(sources, `"`+name+`"`) {
				t.Errorf("%s names the metric %s, which is not there", page, m[0])
			}
		}
		for _, m := range regexp.MustCompile(`\]\(#([^)]+)\)`).FindAllSubmatch(text, -1) {
			heading := "\n## " + strings.ReplaceAll(string(m[1]), "-", " ") + "\n"
			if !strings.Contains(strings.ToLower(string(text)), heading) {
				t.Errorf("%s links to #%s, which is not there", page, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), string(m[1]))); err != nil {
				t.Errorf("%s links to %s, which is not there", page, m[1])
			}
		}
	}
}
