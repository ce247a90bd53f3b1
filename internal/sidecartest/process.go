package sidecartest

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
)

// ProgramPath builds the program of the folder that the tests run in, once for all
// tests. RemoveProgram removes it.
var ProgramPath = sync.OnceValues(func() (path string, err error) {
	if ProgramDir, err = os.MkdirTemp("", "llm-queue-proxy-test-"); err != nil {
		return "", err
	}
	path = filepath.Join(ProgramDir, "llm-queue-proxy")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// ProgramDir is the folder of the program that was built.
var ProgramDir string

// RemoveProgram removes what was built; TestMain calls it at the end.
func RemoveProgram() { os.RemoveAll(ProgramDir) }

// A Process is the program in a process of its own.
type Process struct {
	t   *testing.T
	Cmd *exec.Cmd
	URL string // set by StartProcess
	Log *Log

	ended chan struct{} // closed when it has ended
	err   error         // how, once it has
}

// A Launch is what surrounds the program at its start.
type Launch struct {
	Sockets []*os.File // passed on as a service manager does
	Wrapper []string   // a command that sets limits, and then becomes the program
	Program string     // its path; "" = built of the folder that the tests run in
}

// Start runs the program, without waiting for it to serve; settings come as
// NAME, value pairs.
func (l Launch) Start(t *testing.T, upstream string, settings ...string) *Process {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("signals and sockets are passed on otherwise there")
	}
	path := l.Program
	if path == "" {
		var err error
		if path, err = ProgramPath(); err != nil {
			t.Fatal(err)
		}
	}
	p := &Process{t: t, Log: &Log{serving: make(chan string, 1)}, ended: make(chan struct{})}
	command := append(slices.Clone(l.Wrapper), "sh", "-c", `LISTEN_PID=$$ exec "$0"`, path)
	p.Cmd = exec.Command(command[0], command[1:]...)
	p.Cmd.Dir = t.TempDir()
	p.Cmd.Env = []string{
		"OPENAI_API_KEY=sk-upstream-canary", "OPENAI_BASE_URL=" + upstream, "PORT=0", "RATE_LIMIT_PER_MIN=0",
		"SHUTDOWN_GRACE=20s", "LOG_FORMAT=json", "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(),
	}
	if len(l.Sockets) > 0 {
		p.Cmd.Env = append(p.Cmd.Env, fmt.Sprint("LISTEN_FDS=", len(l.Sockets)))
	}
	for name, value := range Pairs(settings) {
		p.Cmd.Env = append(p.Cmd.Env, name+"="+value)
	}
	p.Cmd.ExtraFiles = l.Sockets
	stderr, err := p.Cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewReader(stderr); ; { // a line each, however the pipe cuts them
			line, err := lines.ReadBytes('\n')
			if !bytes.Contains(line, []byte(`"msg":"request"`)) { // those are many
				_, _ = p.Log.Write(line)
			}
			if err != nil {
				break
			}
		}
		p.err = p.Cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.Cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("the program's log:\n%s", p.Log)
		}
	})
	return p
}

// StartProcess launches the program and waits until it serves.
func StartProcess(t *testing.T, upstream string, settings ...string) *Process {
	t.Helper()
	p := Launch{}.Start(t, upstream, settings...)
	p.URL = "http://" + p.Serving(t)
	return p
}

// Child is StartProcess for tests that read Linux's /proc. The program has to
// end well at the end of the test.
func Child(t *testing.T, upstream string, settings ...string) *Process {
	t.Helper()
	return Launch{}.Child(t, upstream, settings...)
}

// Child is the function Child with what surrounds the program.
func (l Launch) Child(t *testing.T, upstream string, settings ...string) *Process {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	p := l.Start(t, upstream, append([]string{"SHUTDOWN_GRACE", "1s"}, settings...)...)
	p.URL = "http://" + p.Serving(t)
	t.Cleanup(func() {
		if err := p.Signal(t, syscall.SIGTERM); err != nil {
			t.Errorf("the program ended with %v", err)
		}
	})
	return p
}

// Serving waits for the program to serve, and returns its address.
func (p *Process) Serving(t *testing.T) string {
	t.Helper()
	select {
	case address := <-p.Log.serving:
		return address
	case <-p.ended:
		t.Fatalf("it ended with %v\n%s", p.err, p.Log)
		return ""
	}
}

// Wait waits for the program's end, and returns how it ended.
func (p *Process) Wait() error {
	<-p.ended
	return p.err
}

// Signal sends s, which must end the program, and waits for that.
func (p *Process) Signal(t *testing.T, s syscall.Signal) error {
	t.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	return p.Wait()
}

// NotifySocket is where a service manager listens, and its name.
func NotifySocket(t *testing.T) (name string, conn *net.UnixConn) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return name, conn
}
