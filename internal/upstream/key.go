package upstream

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
)

// Names of headers that carry a key; anything else in Config.KeyHeader is one, too.
const (
	Bearer       = "Authorization" // as a bearer token
	AzureKey     = "Api-Key"
	AnthropicKey = "X-Api-Key"
)

// setKey puts our key into h, for a request below path.
func (c *Client) setKey(h http.Header, r Request) {
	key, name := c.cfg.Key(), c.cfg.KeyHeader
	if r.KeyHeader != "" {
		name = r.KeyHeader
	}
	switch {
	case name == "", name == Bearer, IsToken(key),
		name == AnthropicKey && strings.HasPrefix(r.Path, "chat/completions"): // which Anthropic answers in OpenAI's way
		h.Set(Bearer, "Bearer "+key)
	default:
		h.Set(name, key)
	}
}

// KeyOf is the key that an answer's request was sent with. Since then the
// current key may have become another.
func (c *Client) KeyOf(resp *http.Response) string {
	if resp.Request == nil {
		return c.cfg.Key()
	}
	// The client's own credentials were taken out: what is there is ours.
	sent := resp.Request.Header
	if token, ok := strings.CutPrefix(sent.Get(Bearer), "Bearer "); ok {
		return token
	}
	for _, name := range []string{c.cfg.KeyHeader, AzureKey, AnthropicKey} {
		if key := sent.Get(name); name != "" && key != "" {
			return key
		}
	}
	return c.cfg.Key()
}

// IsToken reports whether a key is a token that was issued for a while, such as one of
// Microsoft Entra (a JWT) or of an Anthropic login. Those are bearer tokens, whatever
// header the provider wants its keys in.
func IsToken(key string) bool {
	if strings.HasPrefix(key, "sk-ant-oat") {
		return true
	}
	head, rest, ok := strings.Cut(key, ".")
	if !ok || strings.Count(rest, ".") < 1 {
		return false
	}
	plain, err := base64.RawURLEncoding.DecodeString(head)
	return err == nil && bytes.HasPrefix(plain, []byte("{")) && json.Valid(plain)
}
