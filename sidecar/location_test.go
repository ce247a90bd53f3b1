package main

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// redirecting is an upstream that answers everything with this status and header, in
// which HOST stands for its own host and PORT for its port.
func redirecting(t *testing.T, status int, header, value string) (base string) {
	return sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		_, port, _ := strings.Cut(r.Host, ":")
		w.Header().Set(header, strings.NewReplacer("HOST", r.Host, "PORT", port).Replace(value))
		w.WriteHeader(status)
	})
}

// headOf asks without following redirects.
func headOf(t *testing.T, method, target string) (a sidecartest.Answer) {
	t.Helper()
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(sidecartest.Chat))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := make([]byte, 4096)
	n, _ := resp.Body.Read(body)
	return sidecartest.Answer{Response: resp, Body: string(body[:n])}
}

// TestLocation_NoRedirectLeadsPastUs has a provider redirect in every way: what names
// its host is refused, what is relative is made ours, what leads elsewhere passes.
func TestLocation_NoRedirectLeadsPastUs(t *testing.T) {
	const refused = ""
	for name, c := range map[string]struct {
		location, want, says string
	}{
		"its https":                  {"https://HOST/v1/chat/completions", refused, "https://"},
		"its https, on another port": {"https://127.0.0.1:8443/v1/chat/completions", refused, "https://"},
		"a trailing slash":           {"http://HOST/v1/chat/completions/", refused, "/v1/session/s%20t/chat/completions/"},
		"another path":               {"http://HOST/login?next=secret-canary", refused, "/login"},
		"without a scheme":           {"//HOST/v1/x", refused, "/v1/session/s%20t/x"},
		"in a browser's way":         {`/\HOST/v1/x`, refused, "/v1/session/s%20t/x"},
		"with a user":                {"http://me@HOST/v1/x", refused, "/v1/session/s%20t/x"},
		"what is no URL":             {"http://HOST/%zz", refused, ""},
		"a relative one, outside":    {"/login", refused, "/login"},
		"a relative one":             {"/v1/chat/completions/?a=1", "/v1/session/s%20t/chat/completions/?a=1", ""},
		"relative to the path":       {"completions/", "completions/", ""},
		"Azure's relative one":       {"/openai/operations/1", "/v1/session/s%20t/openai/operations/1", ""},
		"another host":               {"https://files.example.com/f?sig=a%2Fb", "https://files.example.com/f?sig=a%2Fb", ""},
		"another port":               {"http://127.0.0.1:9/f", "http://127.0.0.1:9/f", ""},
		"a host of the same suffix":  {"http://x.HOST/f", "http://x.HOST/f", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, status := range []int{301, 302, 303, 307, 308} {
				base := redirecting(t, status, "Location", c.location)
				host := strings.TrimSuffix(strings.TrimPrefix(base, "http://"), "/v1")
				s := start(t, base)
				for _, method := range []string{"POST", "GET"} {
					a := headOf(t, method, s.URL+"/v1/session/s%20t/chat/completions")
					switch want := strings.ReplaceAll(c.want, "HOST", host); {
					case c.want != refused && (a.StatusCode != status || a.Header.Get("Location") != want):
						t.Errorf("%s %d: %d to %q, want %q", method, status, a.StatusCode, a.Header.Get("Location"), want)
					case c.want == refused && (a.StatusCode != 502 || sidecartest.ErrorOf(t, a) != "upstream_redirect" || a.Header.Get("Location") != "" ||
						a.Header.Get("X-Should-Retry") != "false" || !strings.Contains(a.Body, c.says) || strings.Contains(a.Body, "127.0.0.1")):
						t.Errorf("%s %d: %d %v %s", method, status, a.StatusCode, a.Header, a.Body)
					}
				}
			}
		})
	}
}

// TestLocation_OfWhatWasMadeLeadsThroughUs: SDKs ask for an operation at the address that
// its answer named.
func TestLocation_OfWhatWasMadeLeadsThroughUs(t *testing.T) {
	for _, header := range []string{"Location", "Operation-Location", "Azure-AsyncOperation"} {
		for value, want := range map[string]string{
			"http://HOST/v1/operations/1?api-version=x":         "US/session/s/v1/operations/1?api-version=x",
			"https://127.0.0.1:PORT/openai/operations/images/1": "US/session/s/openai/operations/images/1",
			"/v1/operations/1":         "/session/s/v1/operations/1",
			"operations/1":             "operations/1",
			"http://HOST/elsewhere/1":  "http://HOST/elsewhere/1", // no path of ours leads there
			"https://example.com/op/1": "https://example.com/op/1",
		} {
			for _, status := range []int{200, 201, 202} {
				base := redirecting(t, status, header, value)
				host := strings.TrimSuffix(strings.TrimPrefix(base, "http://"), "/v1")
				s := start(t, base)
				a := headOf(t, "POST", s.URL+"/session/s/v1/images/generations")
				if got := a.Header.Get(header); a.StatusCode != status || got != strings.NewReplacer("US", s.URL, "HOST", host).Replace(want) {
					t.Errorf("%d %s: %s became %s", status, header, value, got)
				}
			}
		}
	}
}

// TestLocation_IsFollowedThroughUs lets an SDK's client follow: it must not meet the
// provider itself.
func TestLocation_IsFollowedThroughUs(t *testing.T) {
	var direct atomic.Int64
	s := start(t, sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Via") == "" {
			direct.Add(1)
		}
		if !strings.HasSuffix(r.URL.Path, "/") {
			w.Header().Set("Location", r.URL.Path+"/")
			w.WriteHeader(307)
		}
	}))
	if a := sidecartest.Send(t, "GET", s.URL+"/v1/session/s/models", ""); a.StatusCode != 200 || direct.Load() != 0 || a.Request.URL.Path != "/v1/session/s/models/" {
		t.Errorf("%d at %s, %d requests past us", a.StatusCode, a.Request.URL, direct.Load())
	}
}

// TestGreet_NamesAWrongAddressAtTheStart has addresses that are wrong in ways that the
// first look at them shows. They have a name, for loopback addresses are left alone.
func TestGreet_NamesAWrongAddressAtTheStart(t *testing.T) {
	var keys atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization")+r.Header.Get("Api-Key") != "" {
			keys.Add(1)
		}
		http.Redirect(w, r, "https://"+r.Host+r.URL.Path, http.StatusMovedPermanently)
	}))
	defer proxy.Close()
	u, _ := url.Parse(proxy.URL)
	s := start(t, "http://llm.example.com/v1", "UPSTREAM_PROXY", u.String())
	if line := s.Log.Await(t, "upstream redirects", 1)[0]; line["to"] != "https://llm.example.com/v1/models" || !strings.Contains(line["advice"].(string), "OPENAI_BASE_URL") {
		t.Errorf("logged %v", line)
	}
	s = start(t, "http://no-such-host.invalid/v1")
	if line := s.Log.Await(t, "upstream unreachable", 1)[0]; line["class"] != "dns" {
		t.Errorf("logged %v", line)
	}
	if keys.Load() != 0 {
		t.Error("the key was shown")
	}
}
