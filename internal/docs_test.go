package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	codeSpan = regexp.MustCompile("`([^`\n]+)`")
	filePath = regexp.MustCompile(`^(?:sidecar|internal|docs|examples|middleware|client|\.ci)(?:/[\w.-]+)+$`)
	goName   = regexp.MustCompile(`^([a-z]+)\.([A-Za-z]\w*(?:\.[A-Za-z]\w*)?)(?:\(\))?$`)
)

// absent lists what a page names in code font and the house does not have: paths from its
// root (internal/limit/lane), and names as package.Name or package.Type.Member.
func absent(page string, exists func(path string) bool, declared func(room string) map[string]bool) (found int, missing []string) {
	packages := map[string]string{}
	for _, floor := range floors {
		for _, room := range floor {
			packages[filepath.Base(room)] = room
		}
	}
	for _, m := range codeSpan.FindAllStringSubmatch(page, -1) {
		span := m[1]
		if filePath.MatchString(span) {
			if found++; !exists(span) {
				missing = append(missing, span)
			}
			continue
		}
		name := goName.FindStringSubmatch(span)
		if name == nil || packages[name[1]] == "" {
			continue
		}
		if found++; !declared(packages[name[1]])[name[2]] {
			missing = append(missing, span)
		}
	}
	return found, missing
}

// declarations has what the files of a folder declare: names, and members as Type.Member.
func declarations(t *testing.T, folder string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				name := d.Name.Name
				if d.Recv != nil {
					name = receiver(d.Recv.List[0].Type) + "." + name
				}
				names[name] = true
			case *ast.GenDecl:
				for _, s := range d.Specs {
					addSpec(names, s)
				}
			}
		}
	}
	return names
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func addSpec(names map[string]bool, spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		for _, name := range spec.Names {
			names[name.Name] = true
		}
	case *ast.TypeSpec:
		names[spec.Name.Name] = true
		var members *ast.FieldList
		switch t := spec.Type.(type) {
		case *ast.StructType:
			members = t.Fields
		case *ast.InterfaceType:
			members = t.Methods
		default:
			return
		}
		for _, field := range members.List {
			for _, name := range field.Names {
				names[spec.Name.Name+"."+name.Name] = true
			}
		}
	}
}

// TestArchitecture_NamesWhatIsThere: docs/architecture.md leads to files and functions that exist.
func TestArchitecture_NamesWhatIsThere(t *testing.T) {
	page, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]map[string]bool{}
	found, missing := absent(string(page),
		func(path string) bool { _, err := os.Stat(filepath.Join("..", path)); return err == nil },
		func(room string) map[string]bool {
			if known[room] == nil {
				known[room] = declarations(t, filepath.Join("..", room))
			}
			return known[room]
		})
	for _, m := range missing {
		t.Errorf("docs/architecture.md names %s, which is not there", m)
	}
	if found < 60 {
		t.Errorf("docs/architecture.md names %d files and functions", found)
	}
	for _, floor := range floors {
		for _, room := range floor {
			if !strings.Contains(string(page), strings.TrimPrefix(room, "internal/")) {
				t.Errorf("docs/architecture.md does not name %s", room)
			}
		}
	}
}

func TestAbsent(t *testing.T) {
	exists := func(path string) bool { return path == "internal/wire" || path == ".ci/run" }
	declared := func(room string) map[string]bool {
		return map[string]bool{"Parse": room == "internal/wire", "Format.Path": room == "internal/wire"}
	}
	for page, want := range map[string]int{
		"`internal/wire`, `.ci/run`, `wire.Parse`, `wire.Parse()`, `wire.Format.Path`": 0,
		"`POST`, `a b`, `x.Parse`, `RATE_LIMIT_PER_MIN`, `text/event-stream`":          0,
		"`internal/gone/x.go`": 1,
		"`wire.Gone`":          1,
		"`limit.Parse`":        1,
		"`wire.Format.Gone()`": 1,
	} {
		if _, missing := absent(page, exists, declared); len(missing) != want {
			t.Errorf("%s: %v, want %d", page, missing, want)
		}
	}
}
