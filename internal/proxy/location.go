package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// Answers can hold addresses that their clients go to next. One of the provider's own
// would lead past us: without a place in the queue, without our key, and with the
// client's. Three kinds are told apart:
//
//   - Addresses elsewhere, such as a signed one to download a file from, pass.
//   - A redirect that names the provider's host is refused: the settings, or the path
//     that was asked for, are wrong, and clients would not notice.
//   - Relative redirects, and the addresses of what a request has made (operations), are
//     made ours.

// followed are the headers of answers whose addresses SDKs ask next.
var followed = []string{"Location", "Operation-Location", "Azure-Asyncoperation"}

func redirects(status int) bool {
	return slices.Contains([]int{301, 302, 303, 307, 308}, status)
}

// checkRedirect refuses an answer that would lead the client past us.
func (x *exchange) checkRedirect(resp *http.Response) error {
	if !redirects(resp.StatusCode) {
		return nil
	}
	for _, location := range resp.Header["Location"] {
		lead := x.p.upstream.Lead(resp, location)
		if lead.Upstream && (lead.Absolute || x.ours(lead) == "") {
			resp.Body.Close()
			return redirected(lead, x.ours(lead))
		}
	}
	return nil
}

// redirected words the refusal. Instead is the path to ask for, if there is one.
func redirected(lead upstream.Lead, instead string) *httpapi.Error {
	e := &httpapi.Error{Status: http.StatusBadGateway, Code: "upstream_redirect", Final: true, Cause: fmt.Errorf("the upstream redirects to %s", lead.Text)}
	switch {
	case lead.Secure:
		e.Message = "the provider redirects to its https address: OPENAI_BASE_URL has to begin with https://"
	case instead != "":
		e.Message = "the provider redirects to another of its paths, which would lead past the sidecar: ask for " + shortened(instead)
	default:
		e.Message = "the provider redirects to " + shortened(lead.Path) + " of its own, which would lead past the sidecar: OPENAI_BASE_URL, or the path that was asked for, is wrong"
	}
	return e
}

// Greet looks at the provider once, without a key, and logs what is wrong with the way
// there. One on this machine is left alone.
func (p *Proxy) Greet(ctx context.Context) {
	if p.upstream.Local() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	resp, err := p.upstream.Greet(ctx) //nolint:bodyclose // Greet has closed it
	fault := (*upstream.Error)(nil)
	switch {
	case errors.As(err, &fault) && fault.Kind == upstream.Unreachable:
		p.logger.Warn("upstream unreachable", "class", string(fault.Class), "error", err.Error())
	case err == nil && redirects(resp.StatusCode):
		if lead := p.upstream.Lead(resp, resp.Header.Get("Location")); lead.Upstream {
			e := redirected(lead, "")
			p.logger.Error("upstream redirects", "to", lead.Text, "advice", e.Message)
		}
	}
}

const greetTime = 20 * time.Second

// shortened is a path without its query, of a length fit for a message.
func shortened(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path[:min(len(path), 200)]
}

// ours is the path by which the client gets through us to where a lead leads; "" if
// there is none.
func (x *exchange) ours(lead upstream.Lead) string {
	root, below := "", "/v1/"
	for _, prefix := range []string{"/v1/session/", "/session/"} {
		if after, ok := strings.CutPrefix(x.req.r.URL.EscapedPath(), prefix); ok {
			id, _, _ := strings.Cut(after, "/")
			if root = prefix + id; prefix == "/v1/session/" {
				below = "/"
			}
			break
		}
	}
	var path string
	switch {
	case lead.Below != "" && !strings.HasPrefix(lead.Below, "v1/") && !strings.HasPrefix(lead.Below, "session/"):
		path = root + below + lead.Below
	case lead.Origin != "":
		path = root + "/" + lead.Origin
	default:
		return ""
	}
	if plain, _, _ := strings.Cut(path, "?"); session.CheckPath(plain) != nil {
		return ""
	}
	return path
}

// makeOurs has the addresses in an answer's header lead through us. Those that cannot
// be ours stay as they came.
func (x *exchange) makeOurs(h http.Header, resp *http.Response) {
	for _, name := range followed {
		values := h[name]
		for i, value := range values {
			lead := x.p.upstream.Lead(resp, value)
			if !lead.Upstream {
				continue
			}
			path := x.ours(lead)
			switch {
			case path == "":
			case !lead.Absolute && !strings.HasPrefix(value, "/"): // relative to the path asked for: the same here
			case lead.Absolute:
				values[i] = x.origin() + path
			default:
				values[i] = path
			}
		}
	}
}

// origin is how the client has addressed us.
func (x *exchange) origin() string {
	r, scheme := x.req.r, "http"
	if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}
