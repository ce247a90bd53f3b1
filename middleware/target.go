package middleware

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

var (
	// ErrInvalidSession says that a session id is not one that the sidecar takes.
	// Nothing was sent.
	ErrInvalidSession = errors.New(`a session id is 1 to 128 bytes of printable UTF-8 without / \ ? # and neither "." nor ".."`)

	// ErrBaseURL says that the sidecar's URL, or the base URL given to the SDK,
	// leads nowhere. Nothing was sent.
	ErrBaseURL = errors.New("wrong base URL")

	// ErrUnreachable says that no connection to the sidecar could be made.
	ErrUnreachable = errors.New("no sidecar answers")
)

// target is the sidecar as its URL describes it.
type target struct {
	scheme, host, port string
	prefix             string // path in front of "/v1", "" unless behind a path-routing proxy
	base               string // the right base URL, for advice
}

// parseTarget reads the URL of a sidecar. It tolerates what base URLs end in.
func parseTarget(raw string) (target, error) {
	u, err := url.Parse(raw)
	// The URL is not printed as it came, since a rejected one may hold a password.
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return target{}, fmt.Errorf(`middleware: %w: want one like "http://127.0.0.1:8080/v1"`, ErrBaseURL)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return target{}, fmt.Errorf("middleware: %w: the sidecar's URL has no user, query or fragment", ErrBaseURL)
	}
	t := target{scheme: u.Scheme, host: strings.ToLower(u.Hostname()), port: portOf(u)}
	path := strings.TrimRight(u.EscapedPath(), "/")
	t.prefix = path
	for _, root := range [...]string{"/v1/", "/session/", "/openai/"} {
		if at := strings.Index(t.prefix+"/", root); at >= 0 {
			t.prefix = t.prefix[:at]
		}
	}
	t.base = u.Scheme + "://" + u.Host + t.prefix + "/v1"
	_, err = t.checkPath(u)
	return t, err
}

// portOf makes the default ports explicit, as two spellings of one origin must
// compare equal.
func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// owns reports whether u is of the sidecar's origin. "localhost" and a loopback
// address are the same host: mixing the two spellings is common, and to lose the
// session over it would be silent.
func (t target) owns(u *url.URL) bool {
	if u == nil || u.Scheme != t.scheme || portOf(u) != t.port {
		return false
	}
	host := strings.ToLower(u.Hostname())
	return host == t.host ||
		host == "localhost" && net.ParseIP(t.host).IsLoopback() ||
		t.host == "localhost" && net.ParseIP(host).IsLoopback()
}

// checkPath looks for base URLs that can only fail, and reports whether the path
// names the session by itself ("/v1/session/{id}/…" or "/session/{id}/…").
func (t target) checkPath(u *url.URL) (session bool, err error) {
	path, ok := strings.CutPrefix(u.EscapedPath()+"/", t.prefix+"/")
	if !ok {
		return false, nil
	}
	after, named := strings.CutPrefix(path, "session/")
	if !named {
		after, named = strings.CutPrefix(path, "v1/session/")
	}
	if !named {
		switch {
		case isEndpoint(path):
			return false, t.wrongBase(`lacks "/v1"`)
		case strings.HasPrefix(path, "v1/v1/"):
			return false, t.wrongBase(`holds "/v1" twice`)
		}
		return false, nil // the sidecar's own routes among them
	}
	escaped, rest, _ := strings.Cut(after, "/")
	id, err := url.PathUnescape(escaped)
	switch {
	case err != nil || !validID(id):
		return false, fmt.Errorf("middleware: session %.140q in the path: %w", escaped, ErrInvalidSession)
	case strings.HasPrefix(rest, "v1/v1/"):
		return true, t.wrongBase(`holds "/v1" twice`)
	}
	return true, nil
}

func (t target) wrongBase(fault string) error {
	return fmt.Errorf("middleware: %w: it %s: use %q", ErrBaseURL, fault, t.base)
}

// isEndpoint knows the endpoints that SDKs put right behind their base URL. None
// of them is a route of the sidecar.
func isEndpoint(path string) bool {
	for _, endpoint := range [...]string{"chat/completions/", "completions/", "responses/", "embeddings/", "models/"} {
		if strings.HasPrefix(path, endpoint) {
			return true
		}
	}
	return false
}
