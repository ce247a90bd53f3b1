package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
)

// Validate checks what settings mean together; each fault is one line.
func (c *Config) Validate() []string {
	var faults []string
	if !Loopback(c.ListenAddr) && len(c.ClientKeys) == 0 && !c.AllowUnauthenticated {
		faults = append(faults, fmt.Sprintf("LISTEN_ADDR=%q: not a loopback address; want CLIENT_API_KEYS or ALLOW_UNAUTHENTICATED=true beside it", c.ListenAddr))
	}
	if c.AdminAddr != "" && !Loopback(c.AdminAddr) && len(c.ClientKeys)+len(c.AdminKeys) == 0 && !c.AllowUnauthenticated {
		faults = append(faults, fmt.Sprintf("ADMIN_ADDR=%q: not a loopback address; want ADMIN_API_KEYS, CLIENT_API_KEYS or ALLOW_UNAUTHENTICATED=true beside it", c.AdminAddr))
	}
	if slices.Contains(c.AllowedOrigins, "*") && len(c.ClientKeys) == 0 && !c.AllowUnauthenticated {
		faults = append(faults, `ALLOWED_ORIGINS="*": every web page could use the key; want CLIENT_API_KEYS or ALLOW_UNAUTHENTICATED=true beside it`)
	}
	if c.AdminAddr != "" && c.AdminAddr == c.ListenAddr && !strings.HasSuffix(c.AdminAddr, ":0") {
		faults = append(faults, fmt.Sprintf("ADMIN_ADDR=%q: LISTEN_ADDR is the same; want another port", c.AdminAddr))
	}
	if c.BaseURL != nil && (pointsAt(c.BaseURL, c.ListenAddr) || pointsAt(c.BaseURL, c.AdminAddr)) {
		faults = append(faults, fmt.Sprintf("OPENAI_BASE_URL=%q: this is our own listener; want the provider's address", c.BaseURL))
	}
	if c.RepositoryType == "postgres" && c.PostgresDSN == "" {
		faults = append(faults, "POSTGRES_DSN: not set; want a Postgres connection URL with REPOSITORY_TYPE=postgres")
	} else if c.RepositoryType == "postgres" {
		if err := ledger.CheckPostgresDSN(string(c.PostgresDSN)); err != nil {
			faults = append(faults, "POSTGRES_DSN: "+err.Error())
		}
	}
	return append(faults, c.File.validate(c.ClientKeys)...)
}

// Loopback reports whether a listen address is reachable from this host only.
func Loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true // already a fault of its own
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// pointsAt reports whether u is the listener at address. Names other than
// localhost are not resolved: a request that comes round all the same is
// recognised by its Via header.
func pointsAt(u *url.URL, address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return false
	}
	upstreamPort := u.Port()
	if upstreamPort == "" {
		upstreamPort = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if upstreamPort != port {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
	everywhere := slices.Contains([]string{"", "0.0.0.0", "::"}, host)
	return u.Hostname() == host || local && (everywhere || Loopback(address))
}
