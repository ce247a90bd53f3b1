package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

var (
	discardLog = log.New(io.Discard, "", 0)
	quiet      = slog.New(slog.DiscardHandler)
)

const childVariable = "LLM_QUEUE_PROXY_TEST_CHILD"

// TestChild is no test: it is the program, in a process of its own that child starts.
func TestChild(t *testing.T) {
	if os.Getenv(childVariable) == "" {
		t.Skip("started by other tests")
	}
	os.Args = os.Args[:1]
	main()
}

// A childProcess is the program in a process of its own, where its sockets, files and
// limits can be looked at.
type childProcess struct {
	t   *testing.T
	URL string
	cmd *exec.Cmd
}

// child starts the program against upstream. It is Linux's /proc that these tests read.
func child(t *testing.T, upstream string, settings ...string) *childProcess {
	t.Helper()
	return childUnder(t, nil, upstream, settings...)
}

// childUnder starts it under a program that sets limits, and then becomes it. SIDECAR
// names the binary; without it this test binary plays the program.
func childUnder(t *testing.T, wrapper []string, upstream string, settings ...string) *childProcess {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	program := []string{os.Args[0], "-test.run=^TestChild$"}
	if binary := os.Getenv("SIDECAR"); binary != "" {
		program = []string{binary}
	}
	program = append(slices.Clone(wrapper), program...)
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{
		childVariable + "=1", "OPENAI_API_KEY=sk-upstream-canary", "OPENAI_BASE_URL=" + upstream, "PORT=0", "RATE_LIMIT_PER_MIN=0",
		"LOG_FORMAT=json", "SHUTDOWN_GRACE=1s", "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(),
	}
	for name, value := range pairs(settings) {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &childProcess{t: t, cmd: cmd}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		var line struct{ Msg, Addr string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			p.URL = "http://" + line.Addr
			break
		}
	}
	read := make(chan struct{})
	go func() { defer close(read); _, _ = io.Copy(io.Discard, stderr) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("the program ended with %v", err)
		}
	})
	if p.URL == "" {
		t.Fatal("the program did not start")
	}
	return p
}

// A socket of a process; addresses are as in /proc/net/tcp.
type socket struct{ network, local, remote string }

func (p *childProcess) sockets() []socket {
	p.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	var inodes []string
	for _, file := range files {
		target, _ := os.Readlink(file)
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes = append(inodes, strings.TrimSuffix(inode, "]"))
		}
	}
	var found []socket
	for _, network := range []string{"tcp", "tcp6", "udp", "udp6"} {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.cmd.Process.Pid, network))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 9 && slices.Contains(inodes, f[9]) {
				found = append(found, socket{network, f[1], f[2]})
			}
		}
	}
	return found
}

// hexAddress is an IPv4 address as /proc/net/tcp prints it, on a little-endian machine.
func hexAddress(t *testing.T, hostport string) string {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp4", hostport)
	if err != nil {
		t.Fatal(err)
	}
	ip := slices.Clone(addr.IP.To4())
	slices.Reverse(ip)
	return fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(ip)), addr.Port)
}

// allocated is the bytes ever allocated by this process.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
