package httpapi

import (
	"net"
	"strings"
	"testing"
)

// FuzzHost takes any Host header that a client may send to a listener on loopback.
func FuzzHost(f *testing.F) {
	for _, seed := range []string{"127.0.0.1:80", "[::1]", "[::1", "localhost.", "evil.test:80:80", "\xff", "a\nb"} {
		f.Add(seed)
	}
	all := &Access{}
	f.Fuzz(func(t *testing.T, text string) {
		if all.hostAllowed(text, true) {
			host := text
			if h, _, err := net.SplitHostPort(text); err == nil {
				host = h
			}
			host = strings.ToLower(strings.Trim(host, "[]"))
			if ip := net.ParseIP(host); (ip == nil || !ip.IsLoopback()) && !strings.Contains(host, "localhost") && !strings.HasPrefix(host, "127.") && !strings.Contains(host, "::1") && !strings.Contains(host, "0:1") && !strings.Contains(host, "ffff:127.") && !strings.Contains(host, "ffff:7f") {
				t.Errorf("the host %q is let in", text)
			}
		}
	})
}
