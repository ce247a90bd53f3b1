package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

func TestShutdown_LameDuckServesWhoIsConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, provider.Config{}, "SHUTDOWN_GRACE", "10s")
		get := func(path string) (int, bool) {
			t.Helper()
			resp, err := b.Client.Get("http://127.0.0.1" + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
			return resp.StatusCode, resp.Close
		}
		if status, closes := get("/readyz"); status != 200 || closes {
			t.Errorf("before: %d, closes: %v", status, closes)
		}
		conn, err := b.Dial(t.Context()) // a load balancer's, say
		if err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		b.Cancel()
		synctest.Wait()
		for range 3 { // new connections each, as the answers say
			if status, closes := get("/readyz"); status != 503 || !closes {
				t.Errorf("readiness while draining: %d, closes: %v", status, closes)
			}
			if status, _, _, err := b.Ask(t.Context(), "s", sidecartest.Chat); status != 200 {
				t.Errorf("a request while draining: %d, %v", status, err)
			}
		}
		conn.Close()
		b.Stop()
		if took := time.Since(started); took > 10*time.Millisecond {
			t.Errorf("it took %v with nobody connected", took)
		}
	})
	t.Run("an idle connection is waited for a tenth of the grace", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, provider.Config{}, "SHUTDOWN_GRACE", "10s")
			conn, err := b.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			reader := bufio.NewReader(conn)
			_, _ = io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
			if resp, err := http.ReadResponse(reader, nil); err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			} else {
				_, _ = io.Copy(io.Discard, resp.Body)
			}
			started := time.Now()
			b.Stop()
			if took := time.Since(started); took < time.Second || took > 1100*time.Millisecond {
				t.Errorf("stopped after %v, want a second", took)
			}
		})
	})
	t.Run("nobody is not waited for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, provider.Config{}, "SHUTDOWN_GRACE", "10s")
			started := time.Now()
			b.Stop()
			if took := time.Since(started); took != 0 {
				t.Errorf("an idle sidecar took %v to stop", took)
			}
		})
	})
}

// TestShutdown_QueueIsServedWhileItCanFinish has a place free up during the grace.
func TestShutdown_QueueIsServedWhileItCanFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, provider.Config{TTFT: 6 * time.Second}, "SHUTDOWN_GRACE", "20s", "MAX_CONCURRENT_REQUESTS", "1")
		var statuses [4]int
		var calls sync.WaitGroup
		for i := range statuses {
			calls.Go(func() { statuses[i], _, _, _ = b.Ask(t.Context(), "s", sidecartest.Chat) })
		}
		synctest.Wait()
		b.Cancel()
		calls.Wait() // of six seconds each two are over before the last fifth, and a third is on its way
		b.Stop()
		served := 0
		for _, status := range statuses {
			if status == 200 {
				served++
			} else if status != 503 {
				t.Errorf("status %d", status)
			}
		}
		if served != 3 {
			t.Errorf("%d of 4 were served, want 3", served)
		}
	})
}

// passedSocket is a listener as a service manager holds it, and its address.
func passedSocket(t *testing.T) (*os.File, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file, l.Addr().String()
}

// TestSocketActivation_RestartRefusesNobody keeps connecting while processes
// take the socket over, overlapping and with a gap between them.
func TestSocketActivation_RestartRefusesNobody(t *testing.T) {
	t.Parallel()
	_, base := sidecartest.Simulated(t, provider.Config{})
	main, address := passedSocket(t)
	admin, adminAddress := passedSocket(t)
	sockets := []*os.File{admin, main}
	names := []string{"LISTEN_FDNAMES", "admin:api"}

	first := sidecartest.Launch{Sockets: sockets}.Start(t, base, names...)
	if got := first.Serving(t); got != address {
		t.Fatalf("serving on %s, the socket is %s", got, address)
	}
	if a := sidecartest.Send(t, "GET", "http://"+adminAddress+"/sessions/status", ""); a.StatusCode != 200 {
		t.Errorf("the admin socket answers %d", a.StatusCode)
	}
	if a := sidecartest.Send(t, "GET", "http://"+address+"/sessions/status", ""); a.StatusCode != 404 {
		t.Errorf("the API's socket answers %d for an admin route", a.StatusCode)
	}

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	var answered atomic.Int64
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				resp, err := client.Post("http://"+address+"/v1/chat/completions", "application/json", strings.NewReader(sidecartest.Chat))
				if err != nil {
					t.Errorf("after %d answers: %v", answered.Load(), err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("after %d answers: %d, %v", answered.Load(), resp.StatusCode, err)
					return
				}
				answered.Add(1)
			}
		})
	}
	more := func() {
		for until := answered.Load() + 50; answered.Load() < until && !t.Failed(); {
			<-time.After(time.Millisecond)
		}
	}
	end := func(p *sidecartest.Process) {
		_ = p.Cmd.Process.Signal(syscall.SIGTERM)
		if err := p.Wait(); err != nil {
			t.Errorf("ended with %v\n%s", err, p.Log)
		}
	}
	more()
	second := sidecartest.Launch{Sockets: sockets}.Start(t, base, names...)
	second.Serving(t)
	more()
	end(first) // the second has the socket already
	more()
	end(second) // nobody has it but its holder: connections wait in its backlog
	third := sidecartest.Launch{Sockets: sockets}.Start(t, base, names...)
	third.Serving(t)
	more()
	cancel()
	callers.Wait()
	end(third)
	t.Logf("%d answers over three processes", answered.Load())
}

func TestSocketActivation_KeepsTheRules(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := sidecartest.Launch{Sockets: []*os.File{file}}.Start(t, base)
	var exit *exec.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitConfig || !strings.Contains(p.Log.String(), "not a loopback address") {
		t.Errorf("a socket open to all, without keys: %v\n%s", err, p.Log)
	}
}

func TestSystemd_IsTold(t *testing.T) {
	up, base := sidecartest.NewStepwise(t)
	name, conn := sidecartest.NotifySocket(t)
	told := func() string {
		t.Helper()
		b := make([]byte, 4096)
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	p := sidecartest.Launch{}.Start(t, base, "NOTIFY_SOCKET", name, "WATCHDOG_USEC", "20000", "SHUTDOWN_GRACE", "7s")
	if got := told(); got != "READY=1\nSTATUS=serving: 0 waiting, 0 in flight" {
		t.Errorf("told %q", got)
	}
	url := "http://" + p.Serving(t)
	resp := sidecartest.Open(t, t.Context(), url+"/v1/chat/completions", sidecartest.ChatStream)
	up.Pieces <- eventA
	sidecartest.Read(t, resp.Body, len(eventA))
	for !strings.Contains(told(), "1 in flight\nWATCHDOG=1") {
	}
	_ = p.Cmd.Process.Signal(syscall.SIGTERM)
	for text := told(); text != "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=17000000"; text = told() {
		if !strings.Contains(text, "WATCHDOG=1") {
			t.Fatalf("told %q", text)
		}
	}
	for !strings.Contains(told(), "STATUS=draining: 0 waiting, 1 in flight\nWATCHDOG=1") {
	}
	// A second signal does not wait for the stream.
	_ = p.Cmd.Process.Signal(syscall.SIGTERM)
	var exit *exec.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("after the second signal: %v", err)
	}
}

func TestSystemd_Reload(t *testing.T) {
	name, conn := sidecartest.NotifySocket(t)
	n, err := newSystemd(func(key string) string { return map[string]string{"NOTIFY_SOCKET": name}[key] })
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	before := monotonic()
	n.reloading()
	b := make([]byte, 4096)
	size, err := conn.Read(b)
	var usec int64
	if _, scanned := fmt.Sscanf(string(b[:size]), "RELOADING=1\nMONOTONIC_USEC=%d", &usec); err != nil || scanned != nil {
		t.Fatalf("told %q, %v", b[:size], err)
	}
	if at := time.Duration(usec) * time.Microsecond; at < before.Truncate(time.Microsecond) || at > monotonic() {
		t.Errorf("it began at %v, not after %v", at, before)
	}
}

func TestProcess_FilesAreItsUsers(t *testing.T) {
	t.Parallel()
	_, base := sidecartest.Simulated(t, provider.Config{})
	dir := t.TempDir()
	file := filepath.Join(dir, "sub.db")
	p := sidecartest.Launch{}.Start(t, base, "REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", file)
	address := p.Serving(t)
	sidecartest.Send(t, "POST", "http://"+address+"/v1/session/s/chat/completions", sidecartest.Chat)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, %v", entry.Name(), info.Mode(), err)
		}
	}
	if runtime.GOOS == "linux" {
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.Cmd.Process.Pid))
		if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
			t.Errorf("core dumps are allowed: %v", err)
		}
	}
	_ = p.Cmd.Process.Signal(syscall.SIGTERM)
	if err := p.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}
