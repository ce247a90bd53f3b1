package upstream

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// hopByHop lists the headers that belong to one connection (RFC 9110 §7.6.1,
// and what older peers send).
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// requestHeader is the client's header without what belongs to its connection,
// to us, or to its own authentication, and with our key.
func (c *Client) requestHeader(r Request) http.Header {
	h := r.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	removeHopByHop(h)
	for _, name := range c.cfg.Private {
		h.Del(name)
	}
	c.scrubHeader(h)
	h.Del("Host")
	h.Del("Content-Length") // the transport frames the body anew
	h.Del("Expect")         // answered by our own server; the transport would wait for the provider's
	if r.Websocket {
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "websocket")
	}
	if r.Identity {
		// Set, not removed: without the header some servers compress.
		h.Set("Accept-Encoding", "identity")
	}
	c.setKey(h, r)
	if c.cfg.Via != "" {
		h.Add("Via", c.cfg.Via)
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // or net/http would name itself
	}
	return h
}

// CopyHeader adds an answer's headers to dst, without those that belong to the
// provider's connection and without any that echoes our key.
func (c *Client) CopyHeader(dst http.Header, resp *http.Response) {
	src := resp.Header.Clone()
	removeHopByHop(src)
	copyHeader(dst, src, "", c.KeyOf(resp))
}

// CopyTrailer adds an answer's trailers to dst in the form that net/http sends
// as trailers, under the same rule. Its body must have been read.
func (c *Client) CopyTrailer(dst http.Header, resp *http.Response) {
	copyHeader(dst, resp.Trailer, http.TrailerPrefix, c.KeyOf(resp))
}

func copyHeader(dst, src http.Header, prefix, key string) {
	for name, values := range src {
		if key != "" && (slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, key) }) ||
			len(name) >= len(key) && strings.Contains(strings.ToLower(name), strings.ToLower(key))) { // a name's case is changed on its way
			continue
		}
		dst[prefix+name] = append(dst[prefix+name], values...)
	}
}

func removeHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			h.Del(textproto.TrimString(name))
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}
