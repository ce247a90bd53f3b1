package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

const lockHolderEnv = "SIDECAR_TEST_HOLD_LOCK"

// holdLock has the write lock of a database until standard input ends.
func holdLock(path string) int {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	if err == nil {
		db.SetMaxOpenConns(1)
		_, err = db.ExecContext(context.Background(), "BEGIN EXCLUSIVE")
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("locked")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// lockedByOther has a second process lock the database.
func lockedByOther(t *testing.T, path string) (release func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), lockHolderEnv+"="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("second process: %q, %v", line, err)
	}
	release = sync.OnceFunc(func() {
		in.Close()
		_ = cmd.Wait()
	})
	t.Cleanup(release)
	return release
}

// readiness is what /readyz says.
func readiness(t *testing.T, url string) (code int, status string) {
	t.Helper()
	a := sidecartest.Send(t, "GET", url+"/readyz", "")
	var shape struct{ Status string }
	_ = json.Unmarshal([]byte(a.Body), &shape)
	return a.StatusCode, shape.Status
}

// booking sends n requests of a session, ten at a time, half of them streams; none may
// be refused.
func booking(t *testing.T, url, session string, n int) {
	t.Helper()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 10 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				a, err := sidecartest.Try(t.Context(), "POST", url+"/v1/session/"+session+"/chat/completions", []string{sidecartest.Chat, sidecartest.ChatStream}[i%2])
				if err != nil || a.StatusCode != http.StatusOK {
					t.Errorf("request failed: %v %s", err, a.Body)
				}
			}
		})
	}
	wg.Wait()
}

// booked demands that the session's totals and rows are those of the provider's own ledger, every answer once.
func booked(t *testing.T, url, session string, sim *provider.Server) {
	t.Helper()
	want := sim.Totals()
	var got admin.SessionStatus
	var a sidecartest.Answer
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the provider: %+v; the sidecar: %s", want, a.Body)
		}
	})
	sidecartest.Eventually(t, "every answer is booked", func() bool {
		a = sidecartest.Send(t, "GET", url+"/sessions/"+session+"/status", "")
		return json.Unmarshal([]byte(a.Body), &got) == nil && got.RequestCount >= want.Delivered
	})
	if got.RequestCount != want.Delivered || got.PromptTokens != want.PromptTokens || got.CompletionTokens != want.CompletionTokens {
		t.Errorf("booked %+v; the provider delivered %d, %d + %d tokens", got, want.Delivered, want.PromptTokens, want.CompletionTokens)
	}
	rows := 0
	for cursor := ""; ; {
		var page struct {
			Requests   []admin.RequestRow
			NextCursor *string `json:"next_cursor"`
		}
		a := sidecartest.Send(t, "GET", url+"/sessions/"+session+"/requests?limit=500&cursor="+cursor, "")
		if err := json.Unmarshal([]byte(a.Body), &page); err != nil {
			t.Fatalf("%v: %s", err, a.Body)
		}
		rows += len(page.Requests)
		if page.NextCursor == nil {
			break
		}
		cursor = *page.NextCursor
	}
	if int64(rows) != want.Delivered {
		t.Errorf("%d rows; want %d", rows, want.Delivered)
	}
}

func metric(t *testing.T, url, name string) string {
	t.Helper()
	for line := range strings.Lines(sidecartest.Send(t, "GET", url+"/metrics", "").Body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func TestStoreFault_LockedByAnotherProcess(t *testing.T) {
	sim, upstream := sidecartest.Simulated(t, provider.Config{})
	settings := append(sidecartest.SQLite(t), "LEDGER_ON_FAILURE", "refuse")
	s := start(t, upstream, settings...)
	booking(t, s.URL, "a", 10)
	release := lockedByOther(t, settings[3])
	booking(t, s.URL, "a", 40)
	if code, status := readiness(t, s.URL); code != 200 || status != "degraded" {
		t.Errorf("ready: %d %s; want degraded, for the journal takes the records", code, status)
	}
	if got := metric(t, s.URL, "llm_queue_proxy_ledger_journaled"); got != "40" {
		t.Errorf("%s records in the journal; want 40", got)
	}
	if a := sidecartest.Send(t, "DELETE", s.URL+"/sessions/a", ""); a.StatusCode != 503 || sidecartest.ErrorOf(t, a) != "ledger_unavailable" {
		t.Errorf("delete meanwhile: %d %s", a.StatusCode, a.Body)
	}
	release()
	booked(t, s.URL, "a", sim)
	sidecartest.Eventually(t, "the sidecar is ready again", func() bool { _, status := readiness(t, s.URL); return status == "ok" })
	if got := metric(t, s.URL, "llm_queue_proxy_ledger_journaled"); got != "0" {
		t.Errorf("%s records in the journal; want none", got)
	}
}

// What is in the journal survives kill -9, and is booked once, however often the process dies over it.
func TestStoreFault_KilledWithAJournal(t *testing.T) {
	sim, upstream := sidecartest.Simulated(t, provider.Config{})
	settings := sidecartest.SQLite(t)
	p := sidecartest.StartProcess(t, upstream, settings...)
	booking(t, p.URL, "a", 10)
	release := lockedByOther(t, settings[3])
	booking(t, p.URL, "a", 30)
	_ = p.Signal(t, syscall.SIGKILL)
	release()
	for range 2 {
		p = sidecartest.StartProcess(t, upstream, settings...)
		booked(t, p.URL, "a", sim)
		_ = p.Signal(t, syscall.SIGKILL)
	}
}

func TestStoreFault_DiskFull(t *testing.T) {
	const mebibyte = 1 << 20
	t.Run("the journal has room", func(t *testing.T) {
		sim, upstream := sidecartest.Simulated(t, provider.Config{})
		dir := smallDisk(t, mebibyte)
		s := start(t, upstream, "REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", filepath.Join(dir, "sessions.db"))
		booking(t, s.URL, "a", 20)
		ballast := fill(t, dir)
		booking(t, s.URL, "a", 200)
		if code, status := readiness(t, s.URL); code != 200 || status != "degraded" {
			t.Errorf("ready: %d %s; want degraded", code, status)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		booked(t, s.URL, "a", sim)
		sidecartest.Eventually(t, "the sidecar is ready again", func() bool { _, status := readiness(t, s.URL); return status == "ok" })
		if lines := s.Log.Lines("usage not recorded"); len(lines) > 0 {
			t.Errorf("%d records were given up: %v", len(lines), lines[0])
		}
	})
	t.Run("the process is killed", func(t *testing.T) {
		sim, upstream := sidecartest.Simulated(t, provider.Config{})
		dir := smallDisk(t, mebibyte)
		settings := []string{"REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", filepath.Join(dir, "sessions.db")}
		p := sidecartest.StartProcess(t, upstream, settings...)
		booking(t, p.URL, "a", 20)
		ballast := fill(t, dir)
		booking(t, p.URL, "a", 200)
		_ = p.Signal(t, syscall.SIGKILL)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		p = sidecartest.StartProcess(t, upstream, settings...)
		booked(t, p.URL, "a", sim)
	})
	t.Run("neither store nor journal has room", func(t *testing.T) {
		for _, onFailure := range []string{"serve", "refuse"} {
			t.Run(onFailure, func(t *testing.T) {
				sim, upstream := sidecartest.Simulated(t, provider.Config{})
				dir := smallDisk(t, mebibyte)
				keep := filepath.Join(dir, "keep") // so that the journal can reserve but little
				if err := os.WriteFile(keep, make([]byte, mebibyte*6/10), 0o600); err != nil {
					t.Fatal(err)
				}
				s := start(t, upstream, "REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", filepath.Join(dir, "sessions.db"), "LEDGER_ON_FAILURE", onFailure)
				booking(t, s.URL, "a", 10)
				ballast := fill(t, dir)
				var refused atomic.Int64
				var wg sync.WaitGroup
				full := func() bool { return len(s.Log.Lines("usage not recorded")) > 0 }
				for range 20 {
					wg.Go(func() {
						for !full() {
							a, err := sidecartest.Try(t.Context(), "POST", s.URL+"/v1/session/a/chat/completions", sidecartest.Chat)
							switch {
							case err != nil:
								t.Error(err)
							case a.StatusCode == http.StatusServiceUnavailable && sidecartest.ErrorOf(t, a) == "ledger_unavailable":
								refused.Add(1)
							case a.StatusCode != http.StatusOK:
								t.Errorf("answer: %d %s", a.StatusCode, a.Body)
							}
						}
					})
				}
				wg.Wait()
				a := sidecartest.Send(t, "POST", s.URL+"/v1/session/a/chat/completions", sidecartest.Chat)
				code, status := readiness(t, s.URL)
				if onFailure == "refuse" {
					if a.StatusCode != http.StatusServiceUnavailable || sidecartest.ErrorOf(t, a) != "ledger_unavailable" || code != http.StatusServiceUnavailable {
						t.Errorf("answer %d %s, ready %d; want that the sidecar refuses", a.StatusCode, a.Body, code)
					}
				} else if a.StatusCode != http.StatusOK || code != 200 || status != "degraded" || refused.Load() > 0 {
					t.Errorf("answer %d, ready %d %s, %d refused; want that the sidecar serves", a.StatusCode, code, status, refused.Load())
				}
				lost := s.Log.Lines("usage not recorded")
				if record, _ := json.Marshal(lost[0]["record"]); !strings.Contains(string(record), `"prompt_tokens":`) {
					t.Errorf("the log does not hold the record: %s", record)
				}
				if got := metric(t, s.URL, "llm_queue_proxy_records_failed_total"); got == "0" || got == "" {
					t.Errorf("records_failed_total = %q", got)
				}
				for _, name := range []string{ballast, keep} {
					if err := os.Remove(name); err != nil {
						t.Fatal(err)
					}
				}
				booked(t, s.URL, "a", sim) // what waited in memory comes through in the end
			})
		}
	})
}

// smallDisk is a file system of its own, as large as told.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	if os.Getenv("TEST_MOUNTS") == "" {
		t.Skip("mounts file systems: run by .ci/mounts, which sets TEST_MOUNTS")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", size), "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// fill takes all the room that is left.
func fill(t *testing.T, dir string) (ballast string) {
	t.Helper()
	ballast = filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			return ballast
		}
	}
}

// A usage that no store can hold is no usage. Its request is booked all the same, and its neighbours do not notice.
func TestStoreFault_Poison(t *testing.T) {
	upstream := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		prompt := "7"
		if strings.Contains(string(body), "poison") {
			prompt = "4611686018427387"
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"x","model":"m","choices":[],"usage":{"prompt_tokens":%s,"completion_tokens":1,"total_tokens":8}}`, prompt)
	})
	s := start(t, upstream, append(sidecartest.SQLite(t), "LEDGER_ON_FAILURE", "refuse")...)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			body := sidecartest.Chat
			if i%5 == 0 {
				body = strings.Replace(sidecartest.Chat, "say 5 words", "poison", 1)
			}
			if a, err := sidecartest.Try(t.Context(), "POST", s.URL+"/v1/session/a/chat/completions", body); err != nil || a.StatusCode != 200 {
				t.Errorf("%v %d %s", err, a.StatusCode, a.Body)
			}
		})
	}
	wg.Wait()
	unknown := 0
	rows := s.Rows("a")
	for _, row := range rows {
		if row.UsageSource == "none" {
			unknown++
		}
	}
	if got := s.Status()["a"]; len(rows) != 20 || unknown != 4 || got.RequestCount != 20 || got.PromptTokens != 16*7 {
		t.Errorf("%d rows, %d of unknown usage, %+v; want 20, 4, and 112 prompt tokens", len(rows), unknown, got)
	}
}

func TestStoreFault_RefusesToStart(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes")
	}
	path, err := sidecartest.ProgramPath()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(sidecartest.ProgramDir, 0o755); err != nil { // for the user below
		t.Fatal(err)
	}
	_, upstream := sidecartest.Simulated(t, provider.Config{})
	settings := sidecartest.SQLite(t)
	s := start(t, upstream, settings...)
	booking(t, s.URL, "a", 100)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(settings[3])
	if err != nil {
		t.Fatal(err)
	}
	damaged := append([]byte{}, whole...)
	for i := len(damaged) / 3; i < len(damaged); i++ {
		damaged[i] = 0xA5
	}
	for name, c := range map[string]struct {
		prepare func(dir, file string) error
		want    string
	}{
		"a database file that may not be written": {func(_, file string) error {
			return errors.Join(os.WriteFile(file, whole, 0o600), os.Chmod(file, 0o444))
		}, "permission denied"},
		"a directory that may not be written": {func(dir, _ string) error { return os.Chmod(dir, 0o555) }, "permission denied"},
		"a damaged file": {func(_, file string) error {
			return errors.Join(os.WriteFile(file, damaged, 0o600), os.Chmod(file, 0o666))
		}, "damaged"},
		"what is no database": {func(_, file string) error {
			return errors.Join(os.WriteFile(file, []byte(strings.Repeat("hello\n", 1000)), 0o600), os.Chmod(file, 0o666))
		}, "not a database"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o777)); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "sessions.db")
			if err := c.prepare(dir, file); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(dir, 0o777) })
			cmd := exec.Command(path)
			cmd.Env = []string{"OPENAI_API_KEY=sk-canary", "OPENAI_BASE_URL=" + upstream, "PORT=0", "REPOSITORY_TYPE=sqlite", "SQLITE_DSN=" + file}
			asNobody(cmd)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != exitConfig {
				t.Fatalf("exit %v; want %d\n%s", err, exitConfig, out)
			}
			text := strings.TrimSpace(string(out))
			if !strings.Contains(text, c.want) || !strings.Contains(text, "SQLITE_DSN=") || strings.Contains(text, "\n") {
				t.Errorf("said %q; want one line about SQLITE_DSN with %q", text, c.want)
			}
		})
	}
}
