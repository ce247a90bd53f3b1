package upstream

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
)

// A Lead is where a URL in an answer's header leads.
type Lead struct {
	Upstream bool // to the provider, past whoever stands before it
	Absolute bool // it names the host
	Secure   bool // to the provider's https, where we use http
	// Below is the escaped path below the base, with the query. "" = it is not below.
	Below string
	// Origin is likewise the path of Request.Origin: "openai/…".
	Origin string
	Text   string // scheme, host and path, for the log
	Path   string // of it
}

// Lead reads a URL as the client of an answer would: relative to what was asked for.
func (c *Client) Lead(resp *http.Response, location string) Lead {
	asked := c.cfg.Base
	if resp.Request != nil {
		asked = resp.Request.URL
	}
	// Browsers, and what follows their rules, take "\" for "/".
	path, query, queried := strings.Cut(strings.TrimSpace(location), "?")
	if path = strings.ReplaceAll(path, `\`, "/"); queried {
		path += "?" + query
	}
	named, err := url.Parse(path)
	if err != nil {
		// Another parser may make more of it.
		there := strings.Contains(strings.ToLower(location), strings.ToLower(c.cfg.Base.Hostname()))
		return Lead{Upstream: there, Absolute: there, Text: "an address that cannot be read"}
	}
	u := asked.ResolveReference(named)
	l := Lead{Absolute: named.Host != "", Path: u.EscapedPath(), Text: u.Scheme + "://" + u.Host + u.EscapedPath()}
	if u.Scheme != "http" && u.Scheme != "https" || !sameHost(u, c.cfg.Base) {
		return l
	}
	l.Upstream = true
	l.Secure = u.Scheme == "https" && c.cfg.Base.Scheme == "http"
	if u.RawQuery != "" {
		query = "?" + u.RawQuery
	} else {
		query = ""
	}
	if below, ok := strings.CutPrefix(l.Path, strings.TrimSuffix(c.cfg.Base.EscapedPath(), "/")+"/"); ok && below != "" {
		l.Below = below + query
	}
	if c.ServesOrigin() && strings.HasPrefix(l.Path, "/openai/") {
		l.Origin = l.Path[1:] + query
	}
	return l
}

// sameHost reports whether two URLs lead to one server: by name and port, or to its
// other scheme. Another port of the same scheme is another server.
func sameHost(a, b *url.URL) bool {
	return strings.EqualFold(strings.TrimSuffix(a.Hostname(), "."), strings.TrimSuffix(b.Hostname(), ".")) &&
		(a.Scheme != b.Scheme || portOf(a) == portOf(b))
}

func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}

// Greet asks the provider for something harmless, without a key, and returns the head of
// the answer. The error is as of Do.
func (c *Client) Greet(ctx context.Context) (*http.Response, error) {
	var written writes
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: written.begin})
	req, err := http.NewRequestWithContext(traced, http.MethodHead, c.target(Request{Path: "models"}), nil)
	if err != nil {
		return nil, &Error{Kind: Broken, Err: err}
	}
	req.Header.Set("Via", c.cfg.Via)
	resp, err := c.cfg.Transport.RoundTrip(req)
	if err != nil {
		return nil, errorOf(err, &written)
	}
	return resp, resp.Body.Close()
}

// Local reports whether the provider is on this machine.
func (c *Client) Local() bool {
	host := c.cfg.Base.Hostname()
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
