package upstream

import (
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
)

// A client's credentials let it in here, and are nobody's business behind us: the
// provider knows our key only. Those of a browser (cookies) and of a proxy between
// the client and us are of this kind.
var (
	credentialHeaders = []string{
		"Authorization", "Api-Key", "X-Api-Key", "X-Goog-Api-Key", "Ocp-Apim-Subscription-Key",
		"Cookie", "Cookie2", "Proxy-Authorization",
	}
	credentialParameters = []string{"key", "api_key", "api-key", "apikey", "access_token", "subscription-key"}
)

// scrubHeader takes the client's credentials out of h.
func (c *Client) scrubHeader(h http.Header) {
	secrets := c.secrets()
	lower := make([]string, len(secrets)) // a name's case is changed on its way
	for i, s := range secrets {
		lower[i] = strings.ToLower(s)
	}
	for name, values := range h {
		// Some servers read "_" and "-" alike.
		canonical := textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
		switch {
		case slices.Contains(credentialHeaders, canonical):
			delete(h, name)
		case canonical == protocolHeader:
			h[name] = withoutKeys(values, secrets)
			if len(h[name]) == 0 {
				delete(h, name)
			}
		case holdsAny(strings.ToLower(name), lower) || slices.ContainsFunc(values, func(v string) bool { return holdsAny(v, secrets) }):
			delete(h, name)
		}
	}
}

const protocolHeader = "Sec-Websocket-Protocol"

// withoutKeys takes out the websocket subprotocol that carries a browser's key. It
// was the client's key to us, if any.
func withoutKeys(lines, secrets []string) []string {
	var kept []string
	for _, line := range lines {
		for protocol := range strings.SplitSeq(line, ",") {
			protocol = textproto.TrimString(protocol)
			if protocol != "" && !strings.HasPrefix(strings.ToLower(protocol), "openai-insecure-api-key.") && !holdsAny(protocol, secrets) {
				kept = append(kept, protocol)
			}
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return []string{strings.Join(kept, ", ")}
}

// scrubQuery takes the client's credentials out of a query, and leaves every other
// byte of it as it came.
func (c *Client) scrubQuery(query string) string {
	if query == "" {
		return ""
	}
	secrets := c.secrets()
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		if !isCredential(part, secrets) {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "&")
}

// isCredential judges a parameter. Some servers split at ";" as well.
func isCredential(parameter string, secrets []string) bool {
	for part := range strings.SplitSeq(parameter, ";") {
		name, value, _ := strings.Cut(part, "=")
		if slices.Contains(credentialParameters, strings.ToLower(strings.TrimSpace(unescaped(name)))) || holdsAny(name, secrets) || holdsAny(value, secrets) {
			return true
		}
	}
	return false
}

func (c *Client) secrets() []string {
	if c.cfg.Secrets == nil {
		return nil
	}
	return c.cfg.Secrets()
}

// unescaped undoes percent signs, those of percent signs included: what is behind
// us may decode more than once.
func unescaped(text string) string {
	for range 3 {
		plain, err := url.QueryUnescape(text)
		if err != nil || plain == text {
			break
		}
		text = plain
	}
	return text
}

// holdsAny reports whether text holds one of the secrets, plain or escaped.
func holdsAny(text string, secrets []string) bool {
	if len(secrets) == 0 {
		return false
	}
	plain := unescaped(text)
	return slices.ContainsFunc(secrets, func(s string) bool { return holds(text, s) || plain != text && holds(plain, s) })
}

// longSecret is how many bytes a secret has that nobody writes by chance. A shorter
// one counts only where it stands alone: the key "test" must not cost a client
// the header that says "latest".
const longSecret = 16

func holds(text, secret string) bool {
	for from := 0; ; {
		at := strings.Index(text[from:], secret)
		if at < 0 {
			return false
		}
		start, end := from+at, from+at+len(secret)
		if len(secret) >= longSecret || !wordAt(text, start-1) && !wordAt(text, end) {
			return true
		}
		from = start + 1
	}
}

// wordAt reports whether the byte at i may belong to a longer word.
func wordAt(text string, i int) bool {
	if i < 0 || i >= len(text) {
		return false
	}
	b := text[i]
	return b == '-' || b == '_' || '0' <= b && b <= '9' || 'a' <= b|0x20 && b|0x20 <= 'z' || b >= 0x80
}
