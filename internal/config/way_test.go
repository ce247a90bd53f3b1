package config

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestProxy_IsFoundWhereItIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		settings []string
		want     string
	}{
		"the environment's":                 {[]string{"HTTPS_PROXY", "http://u:pass@p:3128"}, "http://u:pass@p:3128"},
		"in small letters":                  {[]string{"https_proxy", "p:3128"}, "http://p:3128"},
		"large letters win":                 {[]string{"https_proxy", "a:1", "HTTPS_PROXY", "b:1"}, "http://b:1"},
		"not for this host":                 {[]string{"HTTPS_PROXY", "http://p", "NO_PROXY", "other, .example.com"}, ""},
		"not for this network":              {[]string{"HTTPS_PROXY", "http://p", "no_proxy", "10.0.0.0/8", "OPENAI_BASE_URL", "https://10.1.2.3/v1"}, ""},
		"not for anybody":                   {[]string{"HTTPS_PROXY", "http://p", "NO_PROXY", "*"}, ""},
		"not for this machine":              {[]string{"HTTPS_PROXY", "http://p", "OPENAI_BASE_URL", "https://127.0.0.1:8443/v1"}, ""},
		"not for plain HTTP":                {[]string{"HTTPS_PROXY", "http://p", "HTTP_PROXY", "http://p", "OPENAI_BASE_URL", "http://llm.example.com/v1"}, ""},
		"off":                               {[]string{"HTTPS_PROXY", "http://p", "UPSTREAM_PROXY", "off"}, ""},
		"named":                             {[]string{"HTTPS_PROXY", "http://p", "UPSTREAM_PROXY", "socks5://named:1080"}, "socks5://named:1080"},
		"named for plain HTTP":              {[]string{"UPSTREAM_PROXY", "https://named", "OPENAI_BASE_URL", "http://llm.example.com/v1"}, "https://named"},
		"named although the host is exempt": {[]string{"NO_PROXY", "*", "UPSTREAM_PROXY", "http://named/"}, "http://named/"},
		"none":                              {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := load(append(c.settings, "OPENAI_API_KEY", "k", "OPENAI_BASE_URL", "https://llm.example.com/v1")...)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if cfg.Proxy != nil {
				got = cfg.Proxy.String()
			}
			if got != c.want || strings.Contains(cfg.ProxyText(), "pass") || (cfg.ProxyText() == "") != (got == "") {
				t.Errorf("the proxy is %q, shown as %q", got, cfg.ProxyText())
			}
		})
	}
}

func TestProxy_FaultsShowNoPassword(t *testing.T) {
	for _, settings := range [][]string{
		{"UPSTREAM_PROXY", "ftp://u:secret@p"},
		{"UPSTREAM_PROXY", "u:secret@p:3128"},
		{"UPSTREAM_PROXY", "http://u:secret@p/path"},
		{"UPSTREAM_PROXY", "http://u:secret@p?x"},
		{"UPSTREAM_PROXY", "http://u:secret@%zz"},
		{"UPSTREAM_PROXY", "http://"},
		{"HTTPS_PROXY", "ftp://u:secret@p"},
		{"HTTPS_PROXY", "http://u:secret@%zz"},
	} {
		_, err := load(append([]string{"OPENAI_API_KEY", "k"}, settings...)...)
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), settings[0]) || !strings.Contains(err.Error(), "want ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v", settings, err)
		}
	}
	path := filepath.Join(t.TempDir(), "proxy")
	if err := os.WriteFile(path, []byte("http://u:secret@p:3128\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	env := map[string]string{"OPENAI_API_KEY": "k", "UPSTREAM_PROXY_FILE": path}
	if err := Print(&out, nil, func(name string) string { return env[name] }); err != nil || strings.Contains(out.String(), "secret") || !strings.Contains(out.String(), "@p:3128") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestCAFile_IsTrustedBesideTheSystems(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	cfg, err := load("OPENAI_API_KEY", "k", "UPSTREAM_CA_FILE", good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Certificate().Verify(x509.VerifyOptions{Roots: cfg.Way().Roots}); err != nil {
		t.Error(err)
	}
	for what, path := range map[string]string{
		"no such file": filepath.Join(dir, "none.pem"), "it holds none": write("empty.pem", nil), "holds none": write("key.pem", []byte("no certificate")),
		"directory": dir,
	} {
		_, err := load("OPENAI_API_KEY", "k", "UPSTREAM_CA_FILE", path)
		if err == nil || !strings.Contains(err.Error(), "UPSTREAM_CA_FILE") || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", path, err)
		}
	}
	before, _ := load("OPENAI_API_KEY", "k", "UPSTREAM_CA_FILE", good)
	if !cfg.SameWay(before) {
		t.Error("the same file makes another way")
	}
	other, _ := load("OPENAI_API_KEY", "k")
	if cfg.SameWay(other) {
		t.Error("without the file the way is the same")
	}
}
