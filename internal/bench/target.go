//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What this program is when it is started again, as a process of its own.
const (
	roleProvider = "provider"
	rolePlain    = "plain"
)

// The names of the targets.
const (
	direct = "direct"
	plain  = "plain proxy"
	memory = "sidecar, memory"
	sqlite = "sidecar, SQLite"

	besideMemory = "beside, memory" // another build of the sidecar
	besideSQLite = "beside, SQLite"
)

// A target is a process under load.
type target struct {
	name   string
	url    string // base URL of an SDK
	pid    int
	client *http.Client
	sent   atomic.Int64 // requests that were answered in whole
	idle   int64        // bytes resident before the first request
}

// A process is a target that is to be started.
type process struct {
	name string
	env  []string
	argv []string
}

// startTargets starts the processes; stop ends them. A build to compare with is at
// beside, "" = none.
func startTargets(ctx context.Context, program, beside string, secure bool) (targets []*target, stop func(), err error) {
	dir, err := os.MkdirTemp("", "llm-queue-proxy-bench-")
	if err != nil {
		return nil, nil, err
	}
	var children []*exec.Cmd
	stop = func() {
		for _, t := range targets {
			t.client.CloseIdleConnections()
		}
		for _, c := range children {
			_ = c.Process.Signal(syscall.SIGTERM)
			_ = c.Wait()
		}
		os.RemoveAll(dir)
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	if program == "" {
		program = filepath.Join(dir, "sidecar")
		build := exec.CommandContext(ctx, "go", "build", "-o", program, "./sidecar")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return nil, stop, fmt.Errorf("build the sidecar (run this in the repository's root): %w", err)
		}
	}
	if program, err = filepath.Abs(program); err != nil {
		return nil, stop, err
	}
	if beside != "" {
		if beside, err = filepath.Abs(beside); err != nil {
			return nil, stop, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, stop, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
	scheme, certificate, key := "http", "", ""
	if secure {
		scheme, certificate, key = "https", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		trusted, err := makeCertificate(certificate, key)
		if err != nil {
			return nil, stop, err
		}
		transport.TLSClientConfig, transport.ForceAttemptHTTP2 = &tls.Config{RootCAs: trusted}, true
	}
	start := func(name, scheme string, env []string, argv ...string) error {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), env...)
		cmd.Dir = dir
		stderr, err := cmd.StderrPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		children = append(children, cmd)
		address, err := served(stderr)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		targets = append(targets, &target{
			name: name, url: scheme + "://" + address + "/v1", pid: cmd.Process.Pid,
			client: &http.Client{Transport: transport.Clone(), Timeout: time.Minute},
		})
		return nil
	}
	if err := start(direct, scheme, nil, self, roleProvider, certificate, key); err != nil {
		return nil, stop, err
	}
	base := targets[0].url
	trust := []string{"SSL_CERT_FILE=" + certificate}
	settings := []string{
		"SSL_CERT_FILE=" + certificate, "OPENAI_API_KEY=sk-bench", "OPENAI_BASE_URL=" + base, "PORT=0", "LISTEN_ADDR=127.0.0.1:0",
		"RATE_LIMIT_PER_MIN=1000000000", "TOKEN_LIMIT_PER_MIN=1000000000000", "LOG_FORMAT=json",
	}
	inMemory := slices.Concat(settings, []string{"REPOSITORY_TYPE=memory"})
	inFile := func(name string) []string {
		return slices.Concat(settings, []string{"REPOSITORY_TYPE=sqlite", "SQLITE_DSN=" + filepath.Join(dir, name)})
	}
	processes := []process{
		{plain, trust, []string{self, rolePlain, base}},
		{memory, inMemory, []string{program}},
		{sqlite, inFile("bench.db"), []string{program}},
	}
	if beside != "" {
		processes = append(processes, process{besideMemory, inMemory, []string{beside}}, process{besideSQLite, inFile("beside.db"), []string{beside}})
	}
	for _, s := range processes {
		if err := start(s.name, "http", s.env, s.argv...); err != nil {
			return nil, stop, err
		}
	}
	for _, t := range targets {
		t.idle = t.resident()
	}
	return targets, stop, nil
}

// served waits for the log line that tells the address, and reads the rest away.
func served(stderr io.Reader) (address string, err error) {
	lines := bufio.NewScanner(stderr)
	var said []string
	for lines.Scan() {
		var line struct{ Msg, Addr string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			go func() {
				for lines.Scan() {
				}
			}()
			return line.Addr, nil
		}
		said = append(said, lines.Text())
	}
	return "", fmt.Errorf("it ended: %s", strings.Join(said, "; "))
}

// cpu is the CPU time that the process has used. The clock of another process is
// named by its pid (CPUCLOCK_SCHED, clock_getcpuclockid(3)).
func (t *target) cpu() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^t.pid)<<3|2, &ts); err != nil {
		panic(err) // the process is our child
	}
	return time.Duration(ts.Nano())
}

// resident is the process's resident memory in bytes.
func (t *target) resident() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	kB, _ := strconv.ParseInt(strings.Fields(after + " 0")[0], 10, 64)
	return kB << 10
}
