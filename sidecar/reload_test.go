package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReload_RaisesALimitAndKeepsTheQueue(t *testing.T) {
	arrived, leave := make(chan string, 9), make(chan struct{})
	upstream := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.Header.Get("X-Test")
		<-leave
		fmt.Fprint(w, `{}`)
	})
	file := sidecartest.WriteFile(t, "config.yaml", "settings: {MAX_CONCURRENT_REQUESTS: 1}\n")
	s := start(t, upstream, "CONFIG_FILE", file)
	answers := make(chan int, 3)
	ask := func(name string) {
		a, err := sidecartest.Try(t.Context(), "POST", s.URL+"/v1/chat/completions", sidecartest.Chat, "X-Test", name)
		if err != nil {
			t.Error(err)
			answers <- 0
			return
		}
		answers <- a.StatusCode
	}
	go ask("first")
	if got := <-arrived; got != "first" {
		t.Fatalf("%s arrived", got)
	}
	go ask("second")
	s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 1 })
	go ask("third")
	s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 2 })

	rewrite(t, file, "settings: {MAX_CONCURRENT_REQUESTS: -1}\n")
	line := s.Hangup(false)
	if text := fmt.Sprint(line["faults"]); !strings.Contains(text, "MAX_CONCURRENT_REQUESTS") || !strings.Contains(text, "want") {
		t.Errorf("the log says %v", line)
	}
	if got := s.Waiting(); got != 2 {
		t.Errorf("%d wait after a bad file, want 2", got)
	}

	rewrite(t, file, "settings: {MAX_CONCURRENT_REQUESTS: 2}\n")
	if line := s.Hangup(true); fmt.Sprint(line["changed"]) != "[MAX_CONCURRENT_REQUESTS]" {
		t.Errorf("the log says %v", line)
	}
	if got := <-arrived; got != "second" {
		t.Errorf("%s was sent next", got)
	}
	s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 1 && q.InFlight == 2 })
	close(leave)
	for range 3 {
		if status := <-answers; status != 200 {
			t.Errorf("answered %d", status)
		}
	}
}

func TestReload_TakesAllOrNothing(t *testing.T) {
	upstream := sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })
	keys := sidecartest.WriteFile(t, "keys", "a=key-a\n")
	file := sidecartest.WriteFile(t, "config.yaml", "clients: {a: {weight: 2}}\n")
	s := start(t, upstream, "CONFIG_FILE", file, "CLIENT_API_KEYS_FILE", keys)
	let := func(key string) int {
		return sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat, "Authorization", "Bearer "+key).StatusCode
	}
	for name, spoil := range map[string]func(){
		"a key file that is being written": func() { rewrite(t, keys, "") },
		"a rule for an unknown client":     func() { rewrite(t, keys, "b=key-b") },
		"an unknown key":                   func() { rewrite(t, file, "limit: []\n") },
		"no YAML":                          func() { rewrite(t, file, "{") },
		"a secret in the file":             func() { rewrite(t, file, "settings: {OPENAI_API_KEY: sk-canary}\n") },
		"no file":                          func() { _ = os.Remove(file) },
		"a limit of no form":               func() { rewrite(t, file, "limits: [{model: x, requests_per_minute: -1}]\n") },
	} {
		t.Run(name, func(t *testing.T) {
			spoil()
			line := s.Hangup(false)
			if faults, _ := line["faults"].([]any); len(faults) == 0 {
				t.Errorf("the log says %v", line)
			}
			if got := s.Metric("config_last_reload_successful"); got != "0" {
				t.Errorf("config_last_reload_successful is %s", got)
			}
			if let("key-a") != 200 || let("key-b") != 401 || let("") != 401 {
				t.Error("the old keys do not hold any more")
			}
			rewrite(t, keys, "a=key-a\n")
			rewrite(t, file, "clients: {a: {weight: 2}}\n")
			if s.Hangup(true); s.Metric("config_last_reload_successful") != "1" {
				t.Error("mended settings are not taken")
			}
		})
	}
}

func TestReload_KeysRulesAndLogLevel(t *testing.T) {
	upstream := sidecartest.Scripted(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })
	keys := sidecartest.WriteFile(t, "keys", "a=key-a\nold=key-old\n")
	file := sidecartest.WriteFile(t, "config.yaml", "")
	s := start(t, upstream, "CONFIG_FILE", file, "CLIENT_API_KEYS_FILE", keys)
	let := func(key string) int {
		return sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat, "Authorization", "Bearer "+key).StatusCode
	}
	rewrite(t, keys, "a=key-a\nnew=key-new\n")
	if let("key-old") != 200 || let("key-new") != 401 {
		t.Error("client keys changed without a signal")
	}
	rewrite(t, file, "settings: {LOG_LEVEL: error, SESSION_HEADER: X-Other, LISTEN_ADDR: \"127.0.0.1:1\"}\nclients: {new: {weight: 2}}\nprices: [{model: m, from: 2026-01-01, input: \"1\", output: \"2\"}]\n")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil { // no line can tell: infos are off
		t.Fatal(err)
	}
	for let("key-new") != 200 {
	}
	if let("key-old") != 401 {
		t.Error("a key that is no longer in the file is let in")
	}
	requests := len(s.Log.Lines("request"))
	if let("key-new"); len(s.Log.Lines("request")) != requests {
		t.Error("LOG_LEVEL=error still logs requests")
	}

	rewrite(t, file, "settings: {SESSION_HEADER: X-Other, LISTEN_ADDR: \"127.0.0.1:1\"}\nclients: {new: {weight: 2}}\n")
	line := s.Hangup(true)
	if got := fmt.Sprint(line["changed"]); got != "[LOG_LEVEL prices]" {
		t.Errorf("changed: %s", got)
	}
	pending := s.Log.Await(t, "some changed settings need a restart, their old values stay", 1)[0]
	if got := fmt.Sprint(pending["settings"]); got != "[LISTEN_ADDR SESSION_HEADER]" {
		t.Errorf("settings that need a restart: %s", got)
	}
	sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat, "Authorization", "Bearer key-new", "X-Other", "x", "X-Session-Id", "y")
	if status := sidecartest.Send(t, "GET", s.URL+"/sessions/status", "", "Authorization", "Bearer key-new"); strings.Contains(status.Body, `"x"`) || !strings.Contains(status.Body, `"y"`) {
		t.Errorf("SESSION_HEADER changed without a restart: %s", status.Body)
	}
}

// keyServer is an upstream that lets one key in, and notes who asked.
type keyServer struct {
	good   atomic.Value
	before func()
	asked  chan string
}

func (k *keyServer) serve(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	k.asked <- key
	if k.before != nil {
		k.before()
	}
	w.Header().Set("X-Echo", key)
	if key != k.good.Load() {
		w.WriteHeader(401)
		fmt.Fprint(w, `{"error":{"message":"bad key","type":"invalid_request_error","code":"invalid_api_key"}}`)
		return
	}
	fmt.Fprint(w, `{}`)
}

func TestKeyFile_IsReadWhenARequestLeaves(t *testing.T) {
	up := &keyServer{asked: make(chan string, 99)}
	// As Kubernetes mounts a secret: key -> ..data/key, ..data -> ..1, swapped by a rename.
	dir := t.TempDir()
	put := func(version, key string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		rewrite(t, filepath.Join(dir, version, "key"), key)
		if err := os.Symlink(version, filepath.Join(dir, "tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	put("..1", "sk-canary-1\n")
	path := filepath.Join(dir, "key")
	if err := os.Symlink("..data/key", path); err != nil {
		t.Fatal(err)
	}
	s := start(t, sidecartest.Scripted(t, up.serve), "OPENAI_API_KEY", "", "OPENAI_API_KEY_FILE", path)
	ask := func(status int, keys ...string) {
		t.Helper()
		a := sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat)
		if a.StatusCode != status {
			t.Errorf("status %d, want %d", a.StatusCode, status)
		}
		if echo := a.Header.Get("X-Echo"); echo != "" {
			t.Errorf("the answer echoes the key %q", echo)
		}
		for _, want := range keys {
			if got := <-up.asked; got != want {
				t.Errorf("asked with %q, want %q", got, want)
			}
		}
		if n := len(up.asked); n != 0 {
			t.Errorf("%d attempts too many", n)
		}
	}
	up.good.Store("sk-canary-1")
	ask(200, "sk-canary-1")

	put("..2", "sk-canary-2\n")
	up.good.Store("sk-canary-2")
	ask(200, "sk-canary-2")

	// A 401 has the file read again, even one that looks as before.
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, path, "sk-canary-3\n")
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	up.good.Store("sk-canary-3")
	ask(200, "sk-canary-2", "sk-canary-3")

	// With the same key in the file, the 401 is the client's.
	up.good.Store("sk-canary-4")
	ask(401, "sk-canary-3")

	// A file that changes all the time gets one more attempt, not many; and the
	// key that went up is not echoed, though it is no longer the current one.
	n := 4
	up.before = func() { n++; put(fmt.Sprint("..", n), fmt.Sprint("sk-canary-", n, "x")) }
	ask(401, "sk-canary-3", "sk-canary-5x")
	up.before = nil

	// A file that is gone, or empty while it is written, changes nothing.
	up.good.Store("sk-canary-6x")
	ask(200, "sk-canary-6x")
	if err := os.Remove(filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	ask(200, "sk-canary-6x")
	put("..7", "")
	ask(200, "sk-canary-6x")
	ask(200, "sk-canary-6x")
	if n := len(s.Log.Lines("the provider's key cannot be read, the old one stays")); n != 1 {
		t.Errorf("%d warnings, want one", n)
	}
	put("..8", "sk-canary-8")
	up.good.Store("sk-canary-8")
	ask(200, "sk-canary-8")
}

func TestReload_BudgetsAndPricesAct(t *testing.T) {
	_, upstream := sidecartest.Simulated(t, provider.Config{})
	file := sidecartest.WriteFile(t, "config.yaml", "sessions: [{match: \"agent-*\", budget: {tokens: 1, per: ever}}]\n")
	s := start(t, upstream, "CONFIG_FILE", file)
	ask := func() sidecartest.Answer {
		return sidecartest.Send(t, "POST", s.URL+"/v1/session/agent-1/chat/completions", sidecartest.Chat)
	}
	for range 2 { // the first may use it up, the next finds nothing left
		if a := ask(); a.StatusCode == 402 && sidecartest.ErrorOf(t, a) != "budget_exceeded" {
			t.Fatalf("refused with %s", a.Body)
		}
	}
	if a := ask(); a.StatusCode != 402 {
		t.Fatalf("a used up budget answers %d", a.StatusCode)
	}
	costs := func() string { return sidecartest.Send(t, "GET", s.URL+"/usage?by=model", "").Body }
	rewrite(t, file, "sessions: [{match: \"agent-*\", budget: {tokens: 1000000, per: ever}}]\n")
	if line := s.Hangup(true); fmt.Sprint(line["changed"]) != "[sessions]" {
		t.Errorf("the log says %v", line)
	}
	if a := ask(); a.StatusCode != 200 {
		t.Errorf("a raised budget answers %d: %s", a.StatusCode, a.Body)
	}
	if got := costs(); strings.Contains(got, `"EUR"`) {
		t.Errorf("there are no prices yet: %s", got)
	}
	rewrite(t, file, "currency: EUR\nprices: [{model: \"gpt-*\", input: \"1000\", output: \"2000\"}]\n")
	s.Hangup(true)
	if got := costs(); !strings.Contains(got, `"EUR"`) {
		t.Errorf("the new prices are not applied: %s", got)
	}
}

// TestReload_ChangesTheRate raises and lowers a limit under waiting requests,
// in virtual time.
func TestReload_ChangesTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := sidecartest.WriteFile(t, "config.yaml", "settings: {RATE_LIMIT_PER_MIN: 60}\n")
		b := newBubble(t, provider.Config{}, "CONFIG_FILE", file, "LEARN_LIMITS", "false")
		defer b.Stop()
		b.server.level = new(slog.LevelVar)
		began := time.Now()
		batch := func(n int) (wait func() time.Duration) {
			var calls sync.WaitGroup
			for i := range n {
				calls.Go(func() {
					if status, _, text, err := b.Ask(t.Context(), fmt.Sprint("s", i%7), sidecartest.Chat); err != nil || status != 200 {
						t.Errorf("call %d: %d %v %s", i, status, err, text)
					}
				})
			}
			return func() time.Duration { calls.Wait(); return time.Since(began) }
		}
		rate := func(want int64) {
			rewrite(t, file, fmt.Sprintf("settings: {RATE_LIMIT_PER_MIN: %d}\n", want))
			if b.server.reload(); b.server.cfg.Load().RequestsPerMinute != want {
				t.Fatalf("%d was not taken up", want)
			}
		}
		first := batch(150)
		time.Sleep(20 * time.Second) // virtual: some have left, most wait
		if n := b.server.limits.Waiting(); n < 50 || n > 140 {
			t.Fatalf("%d wait", n)
		}
		rate(600)
		if at := first(); at > 45*time.Second {
			t.Errorf("the last of 150 was answered after %v: the queue did not speed up", at)
		}
		rate(60)
		began = time.Now()
		if at := batch(60)(); at < 30*time.Second {
			t.Errorf("60 calls at 60 a minute, behind a full queue, took %v", at)
		}
	})
}

func TestReload_TellsSystemd(t *testing.T) {
	path, conn := sidecartest.NotifySocket(t)
	next := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if first, _, _ := strings.Cut(string(buf[:n]), "\n"); !strings.HasPrefix(first, "STATUS=") { // which comes by the clock
				if first != want {
					t.Errorf("told %q, want %s", buf[:n], want)
				}
				return
			}
		}
	}
	s := start(t, sidecartest.Scripted(t, func(http.ResponseWriter, *http.Request) {}), "NOTIFY_SOCKET", path)
	next("READY=1")
	s.Hangup(true)
	next("RELOADING=1")
	next("READY=1")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	next("STOPPING=1")
}
