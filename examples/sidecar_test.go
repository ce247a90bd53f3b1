package examples_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/llm-queue-proxy/llm-queue-proxy/client"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// programs builds the sidecar and the example programs, once for all tests, and
// returns the folder they are in.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "llm-queue-proxy-examples-")
	if err != nil {
		return "", err
	}
	built = dir
	// In the workspace, so that the checkout's own packages are the ones tested.
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator),
		"../sidecar", "./openai-go", "./go-openai", "./multi-agent")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

// built is the folder of programs, once a test has needed them.
var built string

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if built != "" {
			os.RemoveAll(built)
		}
		os.Exit(code)
	}))
}

func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// stack is the real sidecar in front of a simulated provider.
type stack struct {
	provider *provider.Server
	direct   string // base URL of the provider
	sidecar  string // base URL of the sidecar
	client   *client.Client
}

// start runs the sidecar as a process of its own, with settings in addition to
// the least it needs, and ends it with the test.
func start(t *testing.T, cfg provider.Config, settings ...string) *stack {
	t.Helper()
	s := &stack{}
	s.provider, s.direct = provider.Start(t, cfg)

	cmd := exec.Command(program(t, "sidecar"))
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{
		"OPENAI_API_KEY=sk-upstream", "OPENAI_BASE_URL=" + s.direct, "PORT=0", "RATE_LIMIT_PER_MIN=0",
		"REPOSITORY_TYPE=sqlite", "SQLITE_DSN=" + filepath.Join(cmd.Dir, "sessions.db"),
		"LOG_FORMAT=json", "PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir,
	}, settings...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	logged := make(chan string, 1)
	go func() { logged <- follow(stderr, address) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		log := <-logged
		if err := cmd.Wait(); err != nil {
			t.Errorf("sidecar: %v", err)
		}
		if t.Failed() {
			t.Logf("sidecar's log:\n%s", log)
		}
	})
	select {
	case at := <-address:
		s.sidecar = "http://" + at + "/v1"
	case <-time.After(30 * time.Second):
		t.Fatal("the sidecar did not say where it serves")
	}
	s.client, err = client.New(s.sidecar)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.client.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// follow reads the log to its end and sends the address of the line that says
// so, which is how a free port becomes known.
func follow(stderr io.Reader, address chan<- string) string {
	var log strings.Builder
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Fprintln(&log, lines.Text())
		var line struct{ Msg, Addr string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			address <- line.Addr
		}
	}
	return log.String()
}

// status returns a session's totals.
func (s *stack) status(t *testing.T, session string) client.SessionStatus {
	t.Helper()
	status, err := s.client.Session(context.Background(), session)
	if err != nil {
		t.Fatal(err)
	}
	return status
}
