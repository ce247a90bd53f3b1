package internal

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/llm-queue-proxy/llm-queue-proxy/"

// TestImports_RunDownwardOnly holds the shape of the house: no internal package
// imports another but llm (a program below a package may import its parent), one
// package speaks the SDK's types, one knows bun.
func TestImports_RunDownwardOnly(t *testing.T) {
	imports := 0
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		room := "internal/" + filepath.ToSlash(filepath.Dir(path))
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imports++
			if other, ok := strings.CutPrefix(imported, module); ok && other != "internal/llm" && !strings.HasPrefix(room, other) {
				t.Errorf("%s imports %s", path, other)
			}
			for pkg, only := range map[string]string{
				"github.com/openai/openai-go": "internal/wire", "github.com/sashabaranov/go-openai": "tests", "github.com/uptrace/bun": "internal/ledger",
			} {
				if strings.HasPrefix(imported, pkg) && !strings.HasPrefix(room, only) {
					t.Errorf("%s imports %s, which belongs to %s", path, imported, only)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if imports == 0 {
		t.Error("no import was looked at")
	}
}
