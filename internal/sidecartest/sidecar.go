package sidecartest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
)

// A Program is the sidecar's whole program without its process: its arguments, its
// environment, and what it prints to.
type Program func(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error

// A Sidecar is the real program, run in this process on a free port.
type Sidecar struct {
	t    *testing.T
	URL  string
	Stop func() error // ends it as SIGTERM does, and returns what run returned
	Log  *Log
}

// At is a sidecar that somebody else serves at url.
func At(t *testing.T, url string) *Sidecar { return &Sidecar{t: t, URL: url} }

// Start runs the program in this process, against upstream, until the test ends.
// More settings come as NAME, value pairs.
func (p Program) Start(t *testing.T, upstream string, settings ...string) *Sidecar {
	t.Helper()
	env := map[string]string{
		"OPENAI_API_KEY": "sk-upstream-canary", "OPENAI_BASE_URL": upstream, "PORT": "0",
		"RATE_LIMIT_PER_MIN": "0", "SHUTDOWN_GRACE": "5s",
	}
	maps.Copy(env, Pairs(settings))
	log := &Log{serving: make(chan string, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- p(ctx, nil, func(name string) string { return env[name] }, io.Discard, log) }()
	select {
	case addr := <-log.serving:
		s := &Sidecar{t: t, URL: "http://" + addr, Log: log}
		s.Stop = sync.OnceValue(func() error { cancel(); return <-result })
		t.Cleanup(func() {
			http.DefaultClient.CloseIdleConnections() // whoever is connected is waited for
			if err := s.Stop(); err != nil {
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

// Status reads GET /sessions/status.
func (s *Sidecar) Status() map[string]admin.SessionStatus {
	s.t.Helper()
	var all map[string]admin.SessionStatus
	a := Send(s.t, "GET", s.URL+"/sessions/status", "")
	if err := json.Unmarshal([]byte(a.Body), &all); err != nil {
		s.t.Fatalf("%v: %s", err, a.Body)
	}
	return all
}

// Rows reads a session's rows, the newest first.
func (s *Sidecar) Rows(session string) []admin.RequestRow {
	s.t.Helper()
	var page struct{ Requests []admin.RequestRow }
	a := Send(s.t, "GET", s.URL+"/sessions/"+session+"/requests", "")
	if err := json.Unmarshal([]byte(a.Body), &page); err != nil {
		s.t.Fatalf("%v: %s", err, a.Body)
	}
	return page.Requests
}

// SessionsPage reads the first page of GET /sessions.
func (s *Sidecar) SessionsPage() (rows []admin.SessionRow) {
	s.t.Helper()
	var page struct{ Sessions []admin.SessionRow }
	a := Send(s.t, "GET", s.URL+"/sessions", "")
	if err := json.Unmarshal([]byte(a.Body), &page); err != nil {
		s.t.Fatalf("%v: %s", err, a.Body)
	}
	return page.Sessions
}

// Ask sends one chat request of a session.
func (s *Sidecar) Ask(session string, headers ...string) Answer {
	s.t.Helper()
	return Send(s.t, "POST", s.URL+"/v1/session/"+session+"/chat/completions", Chat, headers...)
}

// Usage reads GET /usage.
func (s *Sidecar) Usage(query string, headers ...string) admin.UsageAnswer {
	s.t.Helper()
	var u admin.UsageAnswer
	a := Send(s.t, "GET", s.URL+"/usage?"+query, "", headers...)
	if err := json.Unmarshal([]byte(a.Body), &u); err != nil || a.StatusCode != 200 {
		s.t.Fatalf("%d %v: %s", a.StatusCode, err, a.Body)
	}
	return u
}

// WaitFor polls the queue's status until it is as asked.
func (s *Sidecar) WaitFor(ok func(admin.QueueStatus) bool) {
	s.t.Helper()
	for range 5000 {
		var q admin.QueueStatus
		if err := json.Unmarshal([]byte(Send(s.t, "GET", s.URL+"/queue/status", "").Body), &q); err != nil {
			s.t.Fatal(err)
		}
		if ok(q) {
			return
		}
		<-time.After(time.Millisecond)
	}
	s.t.Fatal("the queue never got there")
}

// Waiting counts the requests in the queue.
func (s *Sidecar) Waiting() (n int) {
	s.WaitFor(func(q admin.QueueStatus) bool { n = q.Waiting; return true })
	return n
}

// Metric reads a series without labels, by its name without the prefix.
func (s *Sidecar) Metric(name string) string {
	s.t.Helper()
	for line := range strings.Lines(Send(s.t, "GET", s.URL+"/metrics", "", "Authorization", "Bearer key-a").Body) {
		if value, ok := strings.CutPrefix(line, "llm_queue_proxy_"+name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	s.t.Fatalf("no metric %s", name)
	return ""
}

// AtRest waits until nothing of any request is left.
func (s *Sidecar) AtRest() {
	s.t.Helper()
	s.WaitFor(func(q admin.QueueStatus) bool { return q.InFlight == 0 && q.Waiting == 0 })
	metrics := Send(s.t, "GET", s.URL+"/metrics", "").Body
	for _, gauge := range []string{"in_flight", "queue_depth", "drains", "body_bytes", "ledger_pending"} {
		if !strings.Contains(metrics, "llm_queue_proxy_"+gauge+" 0\n") {
			s.t.Errorf("%s is not 0", gauge)
		}
	}
	if !strings.Contains(metrics, "llm_queue_proxy_client_429_total 0\n") || strings.Contains(metrics, "canary") {
		s.t.Error("a client saw a 429, or a canary is in the metrics")
	}
}

// Hangup sends SIGHUP and waits until the program says what became of it.
func (s *Sidecar) Hangup(fine bool) map[string]any {
	s.t.Helper()
	msg := "settings reloaded"
	if !fine {
		msg = "settings not reloaded, the old ones stay"
	}
	before := len(s.Log.Lines(msg))
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Signal(syscall.SIGHUP)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	lines := s.Log.Await(s.t, msg, before+1)
	return lines[len(lines)-1]
}

// Rawly writes text to the sidecar's socket and reads every answer.
func (s *Sidecar) Rawly(text string) (statuses []int, rest string) {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil && !errors.Is(err, net.ErrClosed) {
		s.t.Log(err) // refused before it was read whole
	}
	reader := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			left, _ := io.ReadAll(reader)
			return statuses, string(left)
		}
		statuses = append(statuses, resp.StatusCode)
		body, _ := io.ReadAll(resp.Body)
		rest = string(body)
		resp.Body.Close()
		if resp.Close || len(statuses) == 2 {
			return statuses, rest
		}
	}
}

// Raw sends text as it is, and returns the connection and what is read from it.
func (s *Sidecar) Raw(text string) (net.Conn, *bufio.Reader) {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		s.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}
