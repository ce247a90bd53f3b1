package upstream

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// FuzzCredentials holds that no query and no header carries a client's key further,
// and that nothing is made up.
func FuzzCredentials(f *testing.F) {
	const secret = "key-canary-0123456789"
	c := &Client{cfg: Config{Secrets: func() []string { return []string{secret, "tok-1"} }}}
	for _, query := range []string{"", "a=1&key=2", "%6bey=1;x", "a=" + secret, "a=%256bey-canary-0123456789&b", "&&=&;", "a=%zz&api%5Fkey"} {
		f.Add(query, query)
	}
	f.Fuzz(func(t *testing.T, query, value string) {
		got := c.scrubQuery(query)
		for part := range strings.SplitSeq(got, "&") {
			if got != "" && !slices.Contains(strings.Split(query, "&"), part) {
				t.Fatalf("%q has become %q", query, got)
			}
		}
		if plain, err := url.QueryUnescape(got); err == nil && strings.Contains(plain, secret) || strings.Contains(got, secret) {
			t.Fatalf("%q has become %q", query, got)
		}
		h := http.Header{"X-Any": {value}, "Cookie": {value}, "Sec-Websocket-Protocol": {value}}
		c.scrubHeader(h)
		if strings.Contains(fmt.Sprint(h), secret) || h["Cookie"] != nil {
			t.Fatalf("%q stays in %v", value, h)
		}
	})
}

// FuzzLead holds that an address which leads to the provider is known for one, however
// it is written, and that paths below the base are the provider's own.
func FuzzLead(f *testing.F) {
	base, _ := url.Parse("https://llm.example.com/openai/v1")
	c := New(Config{Base: base, Transport: http.DefaultTransport})
	for _, seed := range []string{
		"/openai/v1/x", "https://LLM.example.com.:443/openai/v1/x?y#z", `\\llm.example.com\openai/v1/x`, "//llm.example.com/../openai/v1/%2e%2e/x",
		"http://llm.example.com/", "https://files.example.com/x", "x/../y", "?q", "mailto:x", "https://me:pw@llm.example.com", "http://[::1", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, location string) {
		asked, _ := url.Parse("https://llm.example.com/openai/v1/files/1")
		l := c.Lead(&http.Response{Request: &http.Request{URL: asked}}, location)
		if (l.Below != "" || l.Origin != "") && !l.Upstream {
			t.Errorf("%q: %+v", location, l)
		}
		u, err := asked.Parse(strings.TrimSpace(location)) // as header fields are read
		if err != nil || u.Scheme != "http" && u.Scheme != "https" {
			return
		}
		if strings.EqualFold(u.Host, base.Host) && !l.Upstream && !strings.Contains(location, `\`) {
			t.Errorf("%q leads to %s: %+v", location, u, l)
		}
		if plain, _, _ := strings.Cut(l.Below, "?"); plain != "" && !strings.HasSuffix(l.Path, "/openai/v1/"+plain) {
			t.Errorf("%q is not below the base: %+v", location, l)
		}
	})
}
