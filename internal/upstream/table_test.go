package upstream

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTable_IsOne holds docs/attempts.md to the table of the package's comment,
// and to tests that exist.
func TestTable_IsOne(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	var code, docs []string
	_, table, _ := strings.Cut(read("upstream.go"), "what follows\n")
	table, _, _ = strings.Cut(table, "package upstream")
	gap := regexp.MustCompile(`\s{2,}`)
	for line := range strings.Lines(table) {
		if row, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "//\t"); ok {
			code = append(code, gap.ReplaceAllString(row, " | "))
		}
	}
	tests := read("upstream_test.go") + read("once_test.go") + read("http2_test.go") + read("probe_test.go") + read("fault_test.go")
	others, err := filepath.Glob("../../sidecar/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range others {
		tests += read(path)
	}
	name := regexp.MustCompile("`(Test[A-Za-z0-9_]+)`")
	for line := range strings.Lines(read("../../docs/attempts.md")) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | ")
		if len(cells) != 3 || cells[0] == "what came" {
			continue
		}
		docs = append(docs, cells[0]+" | "+cells[1])
		held := name.FindAllStringSubmatch(cells[2], -1)
		if len(held) == 0 {
			t.Errorf("no test holds %q", cells[0])
		}
		for _, test := range held {
			if !strings.Contains(tests, "func "+test[1]+"(") {
				t.Errorf("%s, which holds %q, does not exist", test[1], cells[0])
			}
		}
	}
	if len(code) == 0 || !slices.Equal(code, docs) {
		t.Errorf("the comment has\n%s\nthe page has\n%s", strings.Join(code, "\n"), strings.Join(docs, "\n"))
	}
}
