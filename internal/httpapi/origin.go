package httpapi

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
)

// Origins are the web pages that may call the API: session.AnyOrigin, or what
// session.ParseOrigin returns.
type Origins []string

// ours reports whether an origin is a page of the sidecar itself. On a listener
// that takes any host, that is the one that the request was sent to.
func (a *Access) ours(origin, host string, local bool) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if len(a.Hosts) > 0 || local {
		return a.hostAllowed(u.Host, local)
	}
	return sameHost(u.Host, host, session.DefaultPorts[strings.ToLower(u.Scheme)])
}

// sameHost compares two addresses whose port may be left out.
func sameHost(a, b, port string) bool {
	full := func(hostport string) string {
		if _, _, err := net.SplitHostPort(hostport); err != nil {
			return hostport + ":" + port
		}
		return hostport
	}
	return strings.EqualFold(full(a), full(b))
}

// allowed reports whether a web page may send r. Operators' routes are for no page.
func (o Origins) allowed(r *http.Request) bool {
	if len(o) == 0 || !session.IsAPI(r.URL.Path) {
		return false
	}
	origin, err := session.ParseOrigin(r.Header.Get("Origin"))
	return err == nil && (slices.Contains(o, session.AnyOrigin) || origin != session.AnyOrigin && slices.Contains(o, origin))
}

// The headers of CORS (fetch.spec.whatwg.org) and of private network access.
const (
	allowOrigin  = "Access-Control-Allow-Origin"
	exposed      = "Access-Control-Expose-Headers"
	corsPrefix   = "Access-Control-"
	askedMethod  = "Access-Control-Request-Method"
	askedHeaders = "Access-Control-Request-Headers"
	askedPrivate = "Access-Control-Request-Private-Network"
)

// allow lets an allowed page read the answer, whatever that will be.
func (o Origins) allow(h http.Header, r *http.Request) {
	if len(o) == 0 || !session.IsAPI(r.URL.Path) {
		return
	}
	if slices.Contains(o, session.AnyOrigin) {
		if r.Header.Get("Origin") == "" {
			return
		}
		h.Set(allowOrigin, session.AnyOrigin)
	} else {
		h.Add("Vary", "Origin") // a cache must not show one page what was allowed to another
		if !o.allowed(r) {
			return
		}
		h.Set(allowOrigin, r.Header.Get("Origin"))
	}
	h.Set(exposed, "*")
}

// KeepOrigin runs add, which adds the headers of the provider's answer to h. Where
// a page was allowed by us, the provider does not allow it as well: two answers to
// that question are none.
func KeepOrigin(h http.Header, add func()) {
	origin, exposes := h.Get(allowOrigin), h.Get(exposed)
	add()
	if origin == "" {
		return
	}
	for name := range h {
		if strings.HasPrefix(name, corsPrefix) {
			h.Del(name)
		}
	}
	h.Set(allowOrigin, origin)
	h.Set(exposed, exposes)
}

// isPreflight reports whether a browser asks if a page may send a request.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get(askedMethod) != ""
}

// preflight answers a browser's question about a page, and reports whether it did:
// without a key, because browsers send none with it, and without a place of the
// limit. Pages of our own host that nobody has listed go up, as they did before
// pages could be listed.
func (a *Access) preflight(w http.ResponseWriter, r *http.Request, local bool) bool {
	if !a.hostAllowed(r.Host, local) || !a.Origins.allowed(r) {
		return false // admit says what is wrong
	}
	h := w.Header()
	h.Add("Vary", askedMethod+", "+askedHeaders)
	h.Del(exposed)
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
	if asked := r.Header.Values(askedHeaders); len(asked) > 0 {
		h.Set("Access-Control-Allow-Headers", strings.Join(asked, ", ")) // "*" would not hold Authorization
	}
	if r.Header.Get(askedPrivate) == "true" {
		h.Set("Access-Control-Allow-Private-Network", "true")
	}
	h.Set("Access-Control-Max-Age", "7200") // the most that browsers keep it
	w.WriteHeader(http.StatusNoContent)
	return true
}
