package session

import (
	"errors"
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
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(u.Host, "*, ") {
		return "", errors.New("not an origin")
	}
	if port := u.Port(); port != "" && port == DefaultPorts[u.Scheme] {
		u.Host = strings.TrimSuffix(u.Host, ":"+port)
	}
	return u.Scheme + "://" + u.Host, nil
}

// DefaultPorts are those that origins leave out, by scheme.
var DefaultPorts = map[string]string{"http": "80", "https": "443"}
