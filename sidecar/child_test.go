package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
)

var (
	discardLog = log.New(io.Discard, "", 0)
	quiet      = slog.New(slog.DiscardHandler)
)

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
