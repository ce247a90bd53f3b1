package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
)

// errorCodes finds every code that an error of ours can carry, in the source.
func errorCodes(t *testing.T) []string {
	t.Helper()
	written := regexp.MustCompile(`(?:Code: |Invalid\()"([a-z_]+)"`)
	var codes []string
	for _, name := range programText(t, rooms...) {
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

// TestDocs_NameWhatIsThere: metrics, tests, pages and headings that the pages name exist.
func TestDocs_NameWhatIsThere(t *testing.T) {
	sources := ""
	for _, name := range programText(t, rooms...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sources += string(text)
	}
	tests := testNames(t)
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
		for _, m := range regexp.MustCompile("`(Test[A-Z]\\w+)`").FindAllSubmatch(text, -1) {
			if !tests[string(m[1])] {
				t.Errorf("%s names %s, which is not there", page, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]*)(?:#([^):]+))?\)`).FindAllSubmatch(text, -1) {
			target := page
			if len(m[1]) > 0 {
				target = filepath.Join(filepath.Dir(page), string(m[1]))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which is not there", page, m[1])
			}
			if len(m[2]) == 0 {
				continue
			}
			linked, _ := os.ReadFile(target)
			if heading := "\n## " + strings.ReplaceAll(string(m[2]), "-", " ") + "\n"; !strings.Contains(strings.ToLower(string(linked)), heading) {
				t.Errorf("%s links to %s#%s, which is not there", page, m[1], m[2])
			}
		}
	}
	// This page names series without their prefix.
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, alerts, _ := strings.Cut(string(text), "\n## Alert on\n")
	alerts, _, _ = strings.Cut(alerts, "\n## ")
	series := regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)").FindAllStringSubmatch(alerts, -1)
	if len(series) < 10 {
		t.Errorf("docs/operations.md has %d series to alert on", len(series))
	}
	for _, m := range series {
		if !strings.Contains(sources, `"`+m[1]+`"`) {
			t.Errorf("docs/operations.md alerts on %s, which is not there", m[1])
		}
	}
}

// TestSecurity_ListsEveryRequirement: each requirement has a row and a test, under one number.
func TestSecurity_ListsEveryRequirement(t *testing.T) {
	page, err := os.ReadFile("../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows, tests []string
	for i, m := range regexp.MustCompile("(?m)^\\| (\\d+) \\| .+ \\| `(TestRequirement_(\\d+)_\\w+)` \\|$").FindAllStringSubmatch(string(page), -1) {
		row, _ := strconv.Atoi(m[1])
		if test, _ := strconv.Atoi(m[3]); row != i+1 || test != row {
			t.Errorf("row %d has the number %s and %s", i+1, m[1], m[2])
		}
		rows = append(rows, m[2])
	}
	for name := range testNames(t) {
		if strings.HasPrefix(name, "TestRequirement_") {
			tests = append(tests, name)
		}
	}
	slices.Sort(tests)
	if !slices.Equal(rows, tests) {
		t.Errorf("SECURITY.md lists %v\nthe tests are   %v", rows, tests)
	}
}

// TestOperations_NamesEverySeries: whoever watches the sidecar finds each series on the page.
func TestOperations_NamesEverySeries(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	made := regexp.MustCompile(`(?:counters?|[gG]auge)\("([a-z0-9_]+)"|\bName: "([a-z0-9_]+)"`)
	found := 0
	for _, name := range programText(t, rooms...) {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range made.FindAllStringSubmatch(string(source), -1) {
			found++
			if !regexp.MustCompile(`\b` + m[1] + m[2] + `\b`).Match(page) {
				t.Errorf("docs/operations.md does not name the series %s", m[1]+m[2])
			}
		}
	}
	if found < 20 {
		t.Errorf("%d series were found", found)
	}
}
