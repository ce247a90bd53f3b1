package middleware_test

import (
	"go/version"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A user of this module must compile, download and upgrade nothing else for it.
func TestModule_NeedsTheStandardLibraryOnly(t *testing.T) {
	t.Run("go.mod requires nothing and a modest Go", func(t *testing.T) {
		data, err := os.ReadFile("go.mod")
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(data), "\n") {
			verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch {
			case verb == "" || verb == "module":
			case verb == "go" && version.Compare("go"+rest, "go1.23") <= 0:
			default:
				t.Errorf("go.mod says %q", line)
			}
		}
	})
	t.Run("no package outside the standard library is compiled", func(t *testing.T) {
		list := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
		list.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
		out, err := list.Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		const self = "github.com/llm-queue-proxy/llm-queue-proxy/middleware"
		if got := strings.TrimSpace(string(out)); got != self {
			t.Errorf("compiled packages:\n%s\nwant only %s", got, self)
		}
	})
}
