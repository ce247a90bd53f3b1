package sidecartest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Socket of a process; addresses are as in /proc/net/tcp.
type Socket struct{ Network, Local, Remote string }

// Sockets lists the process's sockets of TCP and UDP.
func (p *Process) Sockets() []Socket {
	p.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.Cmd.Process.Pid))
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
	var found []Socket
	for _, network := range []string{"tcp", "tcp6", "udp", "udp6"} {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.Cmd.Process.Pid, network))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 9 && slices.Contains(inodes, f[9]) {
				found = append(found, Socket{network, f[1], f[2]})
			}
		}
	}
	return found
}

// Resident is the process's memory that is its own, in bytes.
func (p *Process) Resident() int64 {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "RssAnon:")
	kB, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return kB << 10
}

// Descriptors counts the process's open files.
func (p *Process) Descriptors() int {
	p.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(entries)
}

// Series reads one series of the process's metrics.
func (p *Process) Series(name string) float64 {
	p.t.Helper()
	for line := range strings.Lines(Send(p.t, "GET", p.URL+"/metrics", "").Body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return n
		}
	}
	p.t.Fatalf("no series %s", name)
	return 0
}

// Until polls a condition of the process.
func (p *Process) Until(what string, ok func() bool) {
	p.t.Helper()
	for range 1200 {
		if ok() {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	p.t.Fatalf("never: %s", what)
}
