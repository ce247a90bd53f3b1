package examples_test

import (
	"archive/zip"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A module that uses middleware and client keeps the Go version and the bun that
// it has. Bun matters because it panics when its parts are of mixed versions. The
// module proxy is a folder, so that the outcome depends on nothing outside.
func TestModules_RaiseNothingForTheirUsers(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"v1.2.0", "v1.3.0"} {
		publish(t, dir, "github.com/uptrace/bun", version, "module github.com/uptrace/bun\n\ngo 1.21\n")
	}
	// What the user would get from one module for everything: the control that
	// shows that this test sees a raised version.
	publish(t, dir, "example.com/monolith", "v1.0.0",
		"module example.com/monolith\n\ngo 1.26.0\n\nrequire github.com/uptrace/bun v1.3.0\n")

	const self = "github.com/llm-queue-proxy/llm-queue-proxy/"
	tests := []struct {
		name, requires, imports string
		goVersion, bun          string
		compiled                string // what the build takes from outside the standard library
	}{
		{
			name:      "middleware and client raise neither",
			requires:  self + "middleware v0.0.0\n" + self + "client v0.0.0",
			imports:   "_ \"" + self + "middleware\"\n_ \"" + self + "client\"",
			goVersion: "1.23", bun: "v1.2.0",
			compiled: "example.com/user " + self + "client " + self + "middleware github.com/uptrace/bun",
		},
		{
			name:      "one module for everything would raise both",
			requires:  "example.com/monolith v1.0.0",
			imports:   `_ "example.com/monolith"`,
			goVersion: "1.26.0", bun: "v1.3.0",
			compiled: "example.com/monolith example.com/user github.com/uptrace/bun",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			user := t.TempDir()
			write(t, user, "go.mod", fmt.Sprintf("module example.com/user\n\ngo 1.23\n\nrequire (\ngithub.com/uptrace/bun v1.2.0\n%s\n)\n\nreplace (\n%smiddleware => %s\n%sclient => %s\n)\n",
				tt.requires, self, absolute(t, "../middleware"), self, absolute(t, "../client")))
			write(t, user, "main.go", "package main\n\nimport (\n_ \"github.com/uptrace/bun\"\n"+tt.imports+"\n)\n\nfunc main() {}\n")
			run := func(args ...string) string {
				t.Helper()
				cmd := exec.Command("go", args...)
				cmd.Dir = user
				cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod -modcacherw", "GOPROXY=file://"+filepath.ToSlash(dir),
					"GONOSUMDB=*", "GONOSUMCHECK=1", "GOSUMDB=off", "GOTOOLCHAIN=local", "GOMODCACHE="+filepath.Join(dir, "cache"))
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
				}
				return strings.TrimSpace(string(out))
			}
			run("get", "./...") // as a user would, so that go.mod may be rewritten
			run("build", "-o", os.DevNull, ".")
			if got := run("list", "-m", "-f", "{{.GoVersion}}"); got != tt.goVersion {
				t.Errorf("the user's Go is now %s, want %s", got, tt.goVersion)
			}
			if got := run("list", "-m", "-f", "{{.Version}}", "github.com/uptrace/bun"); got != tt.bun {
				t.Errorf("the user's bun is now %s, want %s", got, tt.bun)
			}
			packages := strings.Fields(run("list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "."))
			slices.Sort(packages)
			if got := strings.Join(packages, " "); got != tt.compiled {
				t.Errorf("the user compiles %s, want %s", got, tt.compiled)
			}
		})
	}
}

// publish puts a module of one empty package into a file-system module proxy.
func publish(t *testing.T, proxy, path, version, mod string) {
	t.Helper()
	dir := filepath.Join(proxy, filepath.FromSlash(path), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir, version+".mod", mod)
	write(t, dir, version+".info", fmt.Sprintf(`{"Version":%q,"Time":"2025-01-01T00:00:00Z"}`, version))
	file, err := os.Create(filepath.Join(dir, version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	archive := zip.NewWriter(file)
	for name, text := range map[string]string{"go.mod": mod, "doc.go": "package " + path[strings.LastIndex(path, "/")+1:] + "\n"} {
		entry, err := archive.Create(path + "@" + version + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := entry.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.ToSlash(abs)
}

// Every exported function of the public packages has documentation and an example
// that runs, since an example without output only compiles.
func TestModules_ShowEveryExportedFunction(t *testing.T) {
	for _, name := range []string{"middleware", "client"} {
		t.Run(name, func(t *testing.T) {
			var files []*ast.File
			fset := token.NewFileSet()
			paths, err := filepath.Glob(filepath.Join("..", name, "*.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range paths {
				file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, file)
			}
			pkg, err := doc.NewFromFiles(fset, files, "github.com/llm-queue-proxy/llm-queue-proxy/"+name)
			if err != nil {
				t.Fatal(err)
			}
			funcs := map[string]*doc.Func{}
			for _, f := range pkg.Funcs {
				funcs[f.Name] = f
			}
			for _, typ := range pkg.Types {
				if typ.Doc == "" {
					t.Errorf("type %s is not documented", typ.Name)
				}
				for _, f := range typ.Funcs {
					funcs[f.Name] = f
				}
				for _, f := range typ.Methods {
					funcs[typ.Name+"."+f.Name] = f
				}
			}
			if len(funcs) < 10 {
				t.Fatalf("only %d functions found", len(funcs))
			}
			for _, name := range slices.Sorted(maps.Keys(funcs)) {
				f := funcs[name]
				// By convention the interface that a method implements speaks for it.
				if f.Doc == "" && name != "Error.Error" {
					t.Errorf("%s is not documented", name)
				}
				if !slices.ContainsFunc(f.Examples, func(e *doc.Example) bool { return e.Output != "" }) {
					t.Errorf("%s has no example that runs", name)
				}
			}
		})
	}
}
