package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// A mistake on the command line, or a sidecar that does not do as asked, is one
// line that says what to do.
func TestCommands_SayWhatToDo(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "CLIENT_API_KEYS", "a=k")
	running := strings.TrimPrefix(s.URL, "http://")
	nobody := freeAddress(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		name   string
		env    []string
		args   string
		status int
		want   string
	}{
		{"unknown command", nil, "frob", 2, `unknown command "frob"; see --help`},
		{"unknown flag", nil, "config check --frob", 2, "llm-queue-proxy config check: unknown flag: --frob; see --help"},
		{"nobody there", []string{"LISTEN_ADDR", nobody}, "healthcheck", 1, "no sidecar answers (PORT, LISTEN_ADDR and ADMIN_ADDR say where to ask)"},
		{"without a key", []string{"LISTEN_ADDR", running}, "queue", 1, "401 Unauthorized: a client key is needed: send one of CLIENT_API_KEYS"},
		{"address taken", []string{"OPENAI_API_KEY", "k", "LISTEN_ADDR", taken.Addr().String()}, "serve", 1, "LISTEN_ADDR: listen tcp"},
		{"admin address taken", []string{"OPENAI_API_KEY", "k", "PORT", "0", "ADMIN_ADDR", taken.Addr().String()}, "serve", 1, "ADMIN_ADDR: listen tcp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := command(t, c.env, strings.Fields(c.args)...)
			if err == nil || exitStatus(err) != c.status || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("exit status %d with %v, want %d with %q", exitStatus(err), err, c.status, c.want)
			}
		})
	}
}

func TestCommands_Queue(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "RATE_LIMIT_PER_MIN", "500")
	out, _, err := command(t, []string{"LISTEN_ADDR", strings.TrimPrefix(s.URL, "http://")}, "queue")
	if err != nil || !strings.Contains(out, "0 waiting, 0 in flight\n") || !strings.Contains(out, "(all models)  requests_per_minute") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestCommands_Version(t *testing.T) {
	asked, _, err := command(t, nil, "version")
	flag, _, flagErr := command(t, nil, "--version")
	if err := errors.Join(err, flagErr); err != nil || asked != flag || !strings.HasPrefix(asked, "llm-queue-proxy ") || strings.Count(asked, "\n") != 1 {
		t.Errorf("version prints %q, --version %q, %v", asked, flag, err)
	}
}

// A provider's address without its path starts, for some have none, but is said:
// every request would meet a 404.
func TestServe_DoubtsABaseURLWithoutAPath(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	const doubt = "OPENAI_BASE_URL has no path, most providers' ends with /v1: is it whole?"
	if lines := start(t, base).Log.Lines(doubt); len(lines) != 0 {
		t.Errorf("%s is doubted: %v", base, lines)
	}
	if lines := start(t, strings.TrimSuffix(base, "/v1")).Log.Lines(doubt); len(lines) != 1 || lines[0]["level"] != "WARN" {
		t.Errorf("without /v1: %v", lines)
	}
}

func TestRun_WrongSettingsExitWith78(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a-file")
	for _, c := range []struct {
		name string
		env  []string
	}{
		{"missing key", nil},
		{"database in a folder that is none", []string{"OPENAI_API_KEY", "k", "REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", file + "/x/sessions.db"}},
		{"database that is none", []string{"OPENAI_API_KEY", "k", "REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", sidecartest.WriteFile(t, "x.db", strings.Repeat("no database ", 1000))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := sidecartest.Pairs(append(c.env, "PORT", "0"))
			err := run(t.Context(), nil, func(name string) string { return env[name] }, io.Discard, io.Discard)
			if err == nil || exitStatus(err) != 78 || strings.Contains(err.Error(), "\n") {
				t.Errorf("got exit status %d with %v, want one line", exitStatus(err), err)
			}
		})
	}
}

// TestCommands_ConfigPrint: what is wrong is said behind the table, and by the exit status.
func TestCommands_ConfigPrint(t *testing.T) {
	env := sidecartest.Pairs([]string{"OPENAI_API_KEY", "sk-1", "RATE_LIMIT_PER_MIN", "many"})
	var out bytes.Buffer
	err := run(t.Context(), []string{"config", "print", "--port", "9"}, func(name string) string { return env[name] }, &out, io.Discard)
	if exitStatus(err) != exitConfig || !strings.Contains(err.Error(), `RATE_LIMIT_PER_MIN="many"`) || !strings.Contains(out.String(), "127.0.0.1:9 ") {
		t.Errorf("got %v and\n%s", err, &out)
	}
}

// TestCommands_Completion: what a shell is offered for a flag is what the setting accepts.
func TestCommands_Completion(t *testing.T) {
	var out bytes.Buffer
	if err := run(context.Background(), []string{"__complete", "--repository-type", ""}, func(string) string { return "" }, &out, io.Discard); err != nil || !strings.HasPrefix(out.String(), "memory\nsqlite\npostgres\n") {
		t.Errorf("completed with %v\n%s", err, &out)
	}
}
