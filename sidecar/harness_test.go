package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(lockHolderEnv); path != "" {
		os.Exit(holdLock(path)) // this process is the second one of a test, see store_fault_test.go
	}
	if os.Getenv(plainProxyEnv) != "" {
		os.Exit(plainProxy()) // as above, see resources_test.go
	}
	remove := goleak.Cleanup(func(code int) {
		os.RemoveAll(programDir)
		os.Exit(code)
	})
	goleak.VerifyTestMain(m, remove, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// A sidecar is the real program, run in this process on a free port.
type sidecar struct {
	t    *testing.T
	URL  string
	stop func() error // ends it as SIGTERM does, and returns what run returned
	log  *logBuffer
}

// logBuffer keeps the program's log and tells when it serves.
type logBuffer struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	serving chan string
	written chan struct{} // closed at the next line
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	if l.written != nil {
		close(l.written)
		l.written = nil
	}
	var line struct{ Msg, Addr string }
	if json.Unmarshal(p, &line) == nil && line.Msg == "serving" {
		l.serving <- line.Addr
	}
	return len(p), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// lines returns the log lines with the given message.
func (l *logBuffer) lines(msg string) []map[string]any {
	var found []map[string]any
	scanner := bufio.NewScanner(strings.NewReader(l.String()))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var line map[string]any
		if json.Unmarshal(scanner.Bytes(), &line) == nil && line["msg"] == msg {
			found = append(found, line)
		}
	}
	return found
}

// await returns the lines with the given message once there are n of them.
func (l *logBuffer) await(t *testing.T, msg string, n int) []map[string]any {
	t.Helper()
	for {
		l.mu.Lock()
		if l.written == nil {
			l.written = make(chan struct{})
		}
		written := l.written
		l.mu.Unlock()
		if found := l.lines(msg); len(found) >= n {
			return found
		}
		select {
		case <-written:
		case <-t.Context().Done():
			t.Fatalf("%q was not logged %d times", msg, n)
		}
	}
}

// start runs the program against upstream. More settings come as NAME, value pairs.
func start(t *testing.T, upstream string, settings ...string) *sidecar {
	t.Helper()
	env := map[string]string{
		"OPENAI_API_KEY": "sk-upstream-canary", "OPENAI_BASE_URL": upstream, "PORT": "0",
		"RATE_LIMIT_PER_MIN": "0", "SHUTDOWN_GRACE": "5s",
	}
	maps.Copy(env, pairs(settings))
	log := &logBuffer{serving: make(chan string, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- run(ctx, nil, func(name string) string { return env[name] }, io.Discard, log) }()
	select {
	case addr := <-log.serving:
		s := &sidecar{t: t, URL: "http://" + addr, log: log}
		s.stop = sync.OnceValue(func() error { cancel(); return <-result })
		t.Cleanup(func() {
			http.DefaultClient.CloseIdleConnections() // whoever is connected is waited for
			if err := s.stop(); err != nil {
				t.Errorf("the sidecar ended with %v", err)
			}
			if strings.Contains(log.String(), "canary") {
				t.Errorf("a canary is in the log:\n%s", log)
			}
			if t.Failed() {
				t.Log(log.String())
			}
		})
		return s
	case err := <-result:
		cancel()
		t.Fatalf("the sidecar did not start: %v\n%s", err, log)
		return nil
	}
}

func pairs(settings []string) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(settings); i += 2 {
		m[settings[i]] = settings[i+1]
	}
	return m
}

// configOf reads settings that come as NAME, value pairs.
func configOf(settings ...string) (*config.Config, error) {
	env := pairs(settings)
	return config.Load(nil, func(name string) string { return env[name] })
}

// sqlite is the settings of a ledger in a file of the test's own.
func sqlite(t *testing.T) []string {
	return []string{"REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", filepath.Join(t.TempDir(), "sessions.db")}
}

// An answer is a response read whole.
type answer struct {
	*http.Response
	body string
}

// send makes one request; headers come as name, value pairs.
func send(t *testing.T, method, url, body string, headers ...string) answer {
	t.Helper()
	a, err := try(t.Context(), method, url, body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func try(ctx context.Context, method, url, body string, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body == "" {
		req.Body = nil
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp, string(text)}, err
}

// errorOf reads the OpenAI-shaped error of an answer.
func errorOf(t *testing.T, a answer) (code string) {
	t.Helper()
	var shape struct {
		Error *struct {
			Message, Type string
			Param, Code   *string
		}
	}
	if err := json.Unmarshal([]byte(a.body), &shape); err != nil || shape.Error == nil || shape.Error.Message == "" || shape.Error.Code == nil {
		t.Fatalf("not an OpenAI-shaped error: %d %s", a.StatusCode, a.body)
	}
	return *shape.Error.Code
}

// status reads GET /sessions/status.
func (s *sidecar) status() map[string]admin.SessionStatus {
	s.t.Helper()
	var all map[string]admin.SessionStatus
	a := send(s.t, "GET", s.URL+"/sessions/status", "")
	if err := json.Unmarshal([]byte(a.body), &all); err != nil {
		s.t.Fatalf("%v: %s", err, a.body)
	}
	return all
}

// totals is a session's status.
func totals(id string, prompt, completion, requests int64) admin.SessionStatus {
	return admin.SessionStatus{SessionID: id, PromptTokens: prompt, CompletionTokens: completion, TotalTokens: prompt + completion, RequestCount: requests}
}

// rows reads a session's rows, the newest first.
func (s *sidecar) rows(session string) []admin.RequestRow {
	s.t.Helper()
	var page struct{ Requests []admin.RequestRow }
	a := send(s.t, "GET", s.URL+"/sessions/"+session+"/requests", "")
	if err := json.Unmarshal([]byte(a.body), &page); err != nil {
		s.t.Fatalf("%v: %s", err, a.body)
	}
	return page.Requests
}

// scripted is an upstream that answers with what serve does.
func scripted(t *testing.T, serve http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	return server.URL + "/v1"
}

func simulated(t *testing.T, cfg provider.Config) (*provider.Server, string) {
	t.Helper()
	cfg.Keys = []string{"sk-upstream-canary"}
	return provider.Start(t, cfg)
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The bounds that docs/operations.md and the settings' reference promise.
const (
	idleTimeout  = 10 * time.Minute // between two bytes of an answer
	endPatience  = 2 * time.Second  // between an answer's end and that of its connection
	halfPatience = 30 * time.Second // of a websocket of which one side has ended
	drainTime    = 10 * time.Second // of an answer whose client has left
	drainBytes   = 1 << 20          // likewise
	maxHops      = 8                // of sidecars in a row

	repeatShare     = 0.2 // of the requests may be repeated after a 503
	repeatPerSecond = 10.0
	repeatsSaved    = 100
)

const chat = `{"model":"gpt-4o","messages":[{"role":"user","content":"say 5 words"}]}`

const chatStream = `{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"say 5 words"}]}`
