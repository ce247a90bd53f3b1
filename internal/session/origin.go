package session

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
)

// AnyOrigin stands for every web page.
const AnyOrigin = "*"

// ParseOrigin returns an origin as browsers send it: "null", AnyOrigin, or scheme
// and host in lower case, without the scheme's own port.
func ParseOrigin(text string) (string, error) {
	if text == AnyOrigin || text == "null" {
		return text, nil
	}
	u, err := url.Parse(strings.ToLower(strings.TrimSuffix(text, "/")))
	if err != nil || u.Scheme == "" || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || !isHost(u.Host, u.Hostname()) {
		return "", errors.New("not an origin")
	}
	if port := u.Port(); port == "" || port == DefaultPorts[u.Scheme] {
		u.Host = strings.TrimSuffix(u.Host, ":"+port)
	}
	return u.Scheme + "://" + u.Host, nil
}

// isHost judges what stands after the scheme: a name in ASCII, as browsers write other
// scripts too ("xn--"), or an address, that of IPv6 in brackets.
func isHost(hostport, name string) bool {
	if strings.ContainsFunc(hostport, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("*,%", r) }) {
		return false
	}
	if strings.ContainsAny(name, ":[]") || strings.HasPrefix(hostport, "[") {
		_, err := netip.ParseAddr(name)
		return err == nil && strings.HasPrefix(hostport, "[")
	}
	return true
}

// DefaultPorts are those that origins leave out, by scheme.
var DefaultPorts = map[string]string{"http": "80", "https": "443"}
