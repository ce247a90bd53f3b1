package internal

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/llm-queue-proxy/llm-queue-proxy/"

// floors is the house from the top down: the rooms, by their folders. A file imports
// rooms of lower floors only, never of its own. A room inside another on a higher floor
// (internal/limit/queue) is its parent's alone. Tests import what they need.
var floors = [][]string{
	// Programs, and what only tests import.
	{"sidecar", "examples", "internal/bench", "internal/tokens/fit", "internal/sidecartest", "internal/ledger/pgtest"},
	// What serves requests; and what users compile, in modules of their own.
	{"internal/proxy", "internal/admin", "middleware", "client"},
	// What those two need of HTTP and of the settings.
	{"internal/httpapi", "internal/config"},
	// Leaves: each knows one subject.
	{
		"internal/budget", "internal/ledger", "internal/limit", "internal/price", "internal/provider", "internal/session",
		"internal/tokens", "internal/upstream", "internal/wire", "internal/metrics",
	},
	// Parts of a leaf.
	{"internal/limit/queue", "internal/limit/lane"},
	// The words of all rooms, and what counts their bytes.
	{"internal/llm", "internal/memory"},
}

// outsiders are modules of others that one room knows, so that they can be replaced there.
var outsiders = []struct{ module, room string }{
	{"github.com/openai/openai-go", "internal/wire"},
	{"github.com/sashabaranov/go-openai", "tests"},
	{"github.com/uptrace/bun", "internal/ledger"},
}

// floorOf counts from the top; examples are many programs.
func floorOf(room string) (int, bool) {
	if strings.HasPrefix(room, "examples/") {
		room = "examples"
	}
	at := slices.IndexFunc(floors, func(floor []string) bool { return slices.Contains(floor, room) })
	return at, at >= 0
}

// objection says what is wrong with an import of our own; "" if nothing is.
func objection(from, to string) string {
	above, known := floorOf(from)
	below, alsoKnown := floorOf(to)
	switch {
	case !known:
		return homeless(from)
	case !alsoKnown:
		return homeless(to)
	case below < above:
		return fmt.Sprintf("%s imports %s, which is above it: move what it needs down, or hand it in from above", from, to)
	case below == above:
		return fmt.Sprintf("%s imports %s on its own floor: what both need belongs to internal/llm or to the floor below", from, to)
	}
	if parent, inside := floorOf(path.Dir(to)); inside && parent < below && path.Dir(to) != from {
		return fmt.Sprintf("%s imports %s, which is a part of %s: ask that one", from, to, path.Dir(to))
	}
	return ""
}

func homeless(room string) string {
	return room + " is on no floor: add it to floors in internal/deps_test.go, beside the leaves if it needs nothing of ours but internal/llm, " +
		"else on the lowest floor above all that it imports"
}

// stranger says what is wrong with an import of another's module; "" if nothing is.
func stranger(from, imported string) string {
	for _, o := range outsiders {
		if (imported == o.module || strings.HasPrefix(imported, o.module+"/")) && from != o.room && !strings.HasPrefix(from, "examples") {
			return fmt.Sprintf("%s imports %s, which belongs to %s", from, imported, o.room)
		}
	}
	return ""
}

// TestImports_RunDownwardOnly holds the house to its floors.
func TestImports_RunDownwardOnly(t *testing.T) {
	checked, found := 0, map[string]bool{}
	err := filepath.WalkDir("..", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() && (name == "testdata" || name == "node_modules" || len(name) > 2 && name[0] == '.') {
			return filepath.SkipDir
		}
		if filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		room := path.Dir(strings.TrimPrefix(filepath.ToSlash(file), "../"))
		if _, known := floorOf(room); !known {
			t.Errorf("%s: %s", file, homeless(room))
		}
		found[room] = true
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			checked++
			wrong := stranger(room, imported)
			if other, ours := strings.CutPrefix(imported, module); ours {
				wrong = objection(room, other)
			}
			if wrong != "" {
				t.Errorf("%s: %s", file, wrong)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 300 {
		t.Errorf("%d imports were looked at", checked)
	}
	for _, floor := range floors {
		for _, room := range floor {
			if !found[room] && room != "examples" {
				t.Errorf("floors in internal/deps_test.go has %s, which is no package", room)
			}
		}
	}
}

// TestObjection makes up imports: those that must be found, and those that must not.
func TestObjection(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"sidecar", "internal/proxy", ""},
		{"sidecar", "internal/llm", ""},
		{"internal/proxy", "internal/httpapi", ""},
		{"internal/proxy", "internal/ledger", ""},
		{"internal/config", "internal/limit", ""},
		{"internal/limit", "internal/limit/lane", ""},
		{"internal/limit/queue", "internal/llm", ""},
		{"internal/tokens/fit", "internal/tokens", ""},
		{"examples/multi-agent", "client", ""},
		{"internal/wire", "internal/proxy", "above"},
		{"internal/llm", "internal/wire", "above"},
		{"internal/limit/lane", "internal/limit", "above"},
		{"internal/config", "internal/proxy", "above"},
		{"internal/proxy", "internal/sidecartest", "above"},
		{"internal/ledger", "internal/ledger/pgtest", "above"},
		{"internal/ledger", "client", "above"},
		{"internal/proxy", "internal/admin", "own floor"},
		{"internal/httpapi", "internal/config", "own floor"},
		{"internal/budget", "internal/price", "own floor"},
		{"internal/limit/lane", "internal/limit/queue", "own floor"},
		{"sidecar", "examples/simprovider", "own floor"},
		{"internal/proxy", "internal/limit/lane", "a part of internal/limit"},
		{"internal/wire", "internal/limit/queue", "a part of internal/limit"},
		{"internal/proxy", "internal/tenant", "internal/tenant is on no floor"},
		{"internal/tenant", "internal/llm", "internal/tenant is on no floor"},
	} {
		got := objection(c.from, c.to)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s importing %s: %q, want %q", c.from, c.to, got, c.want)
		}
	}
	for _, c := range []struct{ from, imported, want string }{
		{"internal/wire", "github.com/openai/openai-go", ""},
		{"internal/ledger", "github.com/uptrace/bun/dialect/pgdialect", ""},
		{"examples/openai-go", "github.com/openai/openai-go", ""},
		{"internal/proxy", "github.com/openai/openai-go-extras", ""},
		{"internal/proxy", "github.com/openai/openai-go", "belongs to internal/wire"},
		{"sidecar", "github.com/uptrace/bun", "belongs to internal/ledger"},
		{"internal/wire", "github.com/sashabaranov/go-openai/jsonschema", "belongs to tests"},
	} {
		got := stranger(c.from, c.imported)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s importing %s: %q, want %q", c.from, c.imported, got, c.want)
		}
	}
}
