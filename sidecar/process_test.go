package main

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

// programPath builds the program once for all tests; TestMain removes programDir.
var programPath = sync.OnceValues(func() (path string, err error) {
	if programDir, err = os.MkdirTemp("", "llm-queue-proxy-test-"); err != nil {
		return "", err
	}
	path = filepath.Join(programDir, "llm-queue-proxy")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

var programDir string

// A process is the program in a process of its own.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	URL string // set by startProcess
	log *logBuffer

	ended chan struct{} // closed when it has ended
	err   error         // how, once it has
}

// A launch is what surrounds the program at its start.
type launch struct {
	sockets []*os.File // passed on as a service manager does
	wrapper []string   // a command that sets limits, and then becomes the program
}

// start runs the program, without waiting for it to serve; settings come as
// NAME, value pairs.
func (l launch) start(t *testing.T, upstream string, settings ...string) *process {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("signals and sockets are passed on otherwise there")
	}
	path, err := programPath()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, log: &logBuffer{serving: make(chan string, 1)}, ended: make(chan struct{})}
	command := append(slices.Clone(l.wrapper), "sh", "-c", `LISTEN_PID=$$ exec "$0"`, path)
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = []string{
		"OPENAI_API_KEY=sk-upstream-canary", "OPENAI_BASE_URL=" + upstream, "PORT=0", "RATE_LIMIT_PER_MIN=0",
		"SHUTDOWN_GRACE=20s", "LOG_FORMAT=json", "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(),
	}
	if len(l.sockets) > 0 {
		p.cmd.Env = append(p.cmd.Env, fmt.Sprint("LISTEN_FDS=", len(l.sockets)))
	}
	for name, value := range pairs(settings) {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	p.cmd.ExtraFiles = l.sockets
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewReader(stderr); ; { // a line each, however the pipe cuts them
			line, err := lines.ReadBytes('\n')
			if !bytes.Contains(line, []byte(`"msg":"request"`)) { // those are many
				_, _ = p.log.Write(line)
			}
			if err != nil {
				break
			}
		}
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("the program's log:\n%s", p.log)
		}
	})
	return p
}

// startProcess launches the program and waits until it serves.
func startProcess(t *testing.T, upstream string, settings ...string) *process {
	t.Helper()
	p := launch{}.start(t, upstream, settings...)
	p.URL = "http://" + p.serving(t)
	return p
}

// child is startProcess for tests that read Linux's /proc. The program has to
// end well at the end of the test.
func child(t *testing.T, upstream string, settings ...string) *process {
	t.Helper()
	return launch{}.child(t, upstream, settings...)
}

func (l launch) child(t *testing.T, upstream string, settings ...string) *process {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	p := l.start(t, upstream, append([]string{"SHUTDOWN_GRACE", "1s"}, settings...)...)
	p.URL = "http://" + p.serving(t)
	t.Cleanup(func() {
		if err := p.signal(t, syscall.SIGTERM); err != nil {
			t.Errorf("the program ended with %v", err)
		}
	})
	return p
}

// serving waits for the program to serve, and returns its address.
func (p *process) serving(t *testing.T) string {
	t.Helper()
	select {
	case address := <-p.log.serving:
		return address
	case <-p.ended:
		t.Fatalf("it ended with %v\n%s", p.err, p.log)
		return ""
	}
}

// wait waits for the program's end, and returns how it ended.
func (p *process) wait() error {
	<-p.ended
	return p.err
}

// signal sends s, which must end the program, and waits for that.
func (p *process) signal(t *testing.T, s syscall.Signal) error {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	return p.wait()
}

// notifySocket is where a service manager listens, and its name.
func notifySocket(t *testing.T) (name string, conn *net.UnixConn) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return name, conn
}
