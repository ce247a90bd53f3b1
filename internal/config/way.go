package config

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// The way to the upstream: through which proxy, and by whose word it is trusted.

// A reason is an error that belongs into the fault of a setting, beside its form.
type reason struct{ error }

// because is the reason of a setting's error, "" if the accepted form says it all.
func because(err error) string {
	if why := (reason{}); errors.As(err, &why) {
		return ": " + why.Error()
	}
	return ""
}

// setProxy checks a proxy. What "env" means, proxyOf finds out.
func setProxy(c *Config, v string) error {
	c.UpstreamProxy = v
	if v == "env" || v == "off" {
		return nil
	}
	_, err := parseProxy(v)
	return err
}

func parseProxy(v string) (*url.URL, error) {
	u, err := url.Parse(v)
	if err != nil || !isProxy(u) || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errForm
	}
	return u, nil
}

func isProxy(u *url.URL) bool {
	return u.Host != "" && slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme)
}

// proxyOf finds the proxy that the upstream is reached through; nil: none. The
// environment's is for https only: through an http one the key would be readable.
func (c *Config) proxyOf(getenv func(string) string) (proxy *url.URL, fault string) {
	switch {
	case c.UpstreamProxy == "off" || c.BaseURL == nil:
		return nil, ""
	case c.UpstreamProxy != "env" && c.UpstreamProxy != "":
		proxy, _ = parseProxy(c.UpstreamProxy)
		return proxy, ""
	}
	either := func(upper, lower string) string {
		if v := getenv(upper); v != "" {
			return v
		}
		return getenv(lower)
	}
	value := either("HTTPS_PROXY", "https_proxy")
	// It only judges whether one is used: of a URL that is wrong it says nothing.
	env := httpproxy.Config{HTTPSProxy: "http://some", NoProxy: either("NO_PROXY", "no_proxy")}
	if some, err := env.ProxyFunc()(c.BaseURL); value == "" || some == nil || err != nil {
		return nil, ""
	}
	if proxy, err := parseProxy(value); err == nil {
		return proxy, ""
	}
	if proxy, err := parseProxy("http://" + value); err == nil && !strings.Contains(value, "://") {
		return proxy, "" // host:port, as many write it
	}
	return nil, "HTTPS_PROXY: value not accepted; want a proxy's URL, or UPSTREAM_PROXY=off"
}

// ProxyText names the proxy without what it must not show; "" = there is none.
func (c *Config) ProxyText() string {
	if c.Proxy == nil {
		return ""
	}
	return c.Proxy.Scheme + "://" + c.Proxy.Host
}

// setCAFile reads certificates that are trusted beside the system's.
func setCAFile(c *Config, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return reason{errors.Unwrap(err)}
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(text) {
		return reason{errors.New("it holds none")}
	}
	c.roots, c.rootsText = roots, text
	return nil
}

// Way is the upstream's part of the settings.
func (c *Config) Way() upstream.Way { return upstream.Way{Proxy: c.Proxy, Roots: c.roots} }

// SameWay reports whether two settings lead to the upstream alike.
func (c *Config) SameWay(other *Config) bool {
	return fmt.Sprint(c.Proxy) == fmt.Sprint(other.Proxy) && bytes.Equal(c.rootsText, other.rootsText)
}
