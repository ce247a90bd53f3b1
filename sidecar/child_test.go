package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

var (
	discardLog = log.New(io.Discard, "", 0)
	quiet      = slog.New(slog.DiscardHandler)
)

// A socket of a process; addresses are as in /proc/net/tcp.
type socket struct{ network, local, remote string }

func (p *process) sockets() []socket {
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
