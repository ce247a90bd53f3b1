package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

const page = "https://chat.example"

// preflight asks as a browser does before it lets a page send a request.
func preflight(t *testing.T, url, origin string, headers ...string) sidecartest.Answer {
	t.Helper()
	return sidecartest.Send(t, "OPTIONS", url, "", append([]string{
		"Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type",
	}, headers...)...)
}

func TestBrowser_PreflightNeedsNoKeyAndNoPlace(t *testing.T) {
	rec, base := sidecartest.Record(t)
	s := start(t, base, "CLIENT_API_KEYS", "web=key-canary-1", "ALLOWED_ORIGINS", page+"/, app://obsidian.md,https://chat.example:8443")
	for _, path := range []string{"/v1/chat/completions", "/v1/session/s/responses", "/session/s/v1/messages", "/openai/deployments/d/chat/completions", "/v1/models"} {
		for _, origin := range []string{page, "app://obsidian.md", "https://chat.example:8443"} {
			a := preflight(t, s.URL+path, origin, "Access-Control-Request-Private-Network", "true")
			if a.StatusCode != 204 || a.Header.Get("Access-Control-Allow-Origin") != origin || a.Header.Get("Access-Control-Allow-Headers") != "authorization,content-type" ||
				!strings.Contains(a.Header.Get("Access-Control-Allow-Methods"), "POST") || a.Header.Get("Access-Control-Allow-Private-Network") != "true" ||
				a.Header.Get("Access-Control-Max-Age") == "" || !strings.Contains(strings.Join(a.Header["Vary"], ","), "Origin") || a.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s from %s: %d %v", path, origin, a.StatusCode, a.Header)
			}
		}
		for _, origin := range []string{"https://evil.test", "http://chat.example", "https://chat.example:444", "https://chat.example.evil.test", "https://x.chat.example", "null", "https://chat.example/x"} {
			if a := preflight(t, s.URL+path, origin); a.StatusCode != 403 || a.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s from %s: %d %v", path, origin, a.StatusCode, a.Header)
			}
		}
	}
	if a := preflight(t, s.URL+"/v1/models", page); a.Header.Get("Access-Control-Allow-Private-Network") != "" {
		t.Error("private network access is allowed to who has not asked for it")
	}
	if a := preflight(t, s.URL+"/v1/models", page, "Host", "evil.test"); a.StatusCode != 421 {
		t.Errorf("as evil.test: %d", a.StatusCode)
	}
	if seen := rec.Seen(); len(seen) != 0 {
		t.Errorf("the provider saw %q", seen)
	}
	// An OPTIONS that is no preflight needs a key.
	if a := sidecartest.Send(t, "OPTIONS", s.URL+"/v1/models", "", "Origin", page); a.StatusCode != 401 {
		t.Errorf("a plain OPTIONS: %d", a.StatusCode)
	}
}

// The provider's own word on pages is replaced: two answers to one question are none.
func TestBrowser_AnswersAndErrorsAreReadable(t *testing.T) {
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "https://provider.example")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("Access-Control-Expose-Headers", "X-Request-ID")
		w.Header().Set("Vary", "Accept")
		if strings.HasSuffix(r.URL.Path, "missing") {
			w.WriteHeader(404)
		}
		_, _ = w.Write([]byte(`{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`))
	})
	key := []string{"Authorization", "Bearer key-canary-1"}
	s := start(t, base, "CLIENT_API_KEYS", "web=key-canary-1", "ALLOWED_ORIGINS", page)
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
	}{
		{"an answer", "POST", "/v1/chat/completions", sidecartest.Chat, key, 200},
		{"an unread answer", "GET", "/v1/models", "", key, 200},
		{"the provider's error", "GET", "/v1/missing", "", key, 404},
		{"no key", "POST", "/v1/chat/completions", sidecartest.Chat, nil, 401},
		{"a bad path", "GET", "/v1/a/../b", "", key, 400},
		{"a bad session", "POST", "/v1/session/a%2Fb/chat/completions", sidecartest.Chat, key, 400},
		{"twice the version", "GET", "/v1/v1/models", "", key, 404},
	} {
		a := sidecartest.Send(t, c.method, s.URL+c.path, c.body, append([]string{"Origin", page}, c.headers...)...)
		if a.StatusCode != c.status || strings.Join(a.Header["Access-Control-Allow-Origin"], " ") != page || a.Header.Get("Access-Control-Allow-Credentials") != "" ||
			a.Header.Get("Access-Control-Expose-Headers") != "*" || !strings.Contains(strings.Join(a.Header["Vary"], ","), "Origin") {
			t.Errorf("%s: %d %v", c.name, a.StatusCode, a.Header)
		}
	}
	// Without a page, the provider's headers pass as they are.
	if a := sidecartest.Send(t, "GET", s.URL+"/v1/models", "", key...); a.Header.Get("Access-Control-Allow-Origin") != "https://provider.example" {
		t.Errorf("without an origin: %v", a.Header)
	}
	if a := sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat, append([]string{"Origin", "https://evil.test"}, key...)...); a.StatusCode != 403 || a.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another page: %d %v", a.StatusCode, a.Header)
	}
}

// No page has business with operators' routes, not even one that may call the API.
func TestBrowser_OperatorsRoutesAreForNoPage(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	for _, origins := range []string{page, "*"} {
		s := start(t, base, "ALLOW_UNAUTHENTICATED", "true", "ALLOWED_ORIGINS", origins)
		for _, path := range []string{"/sessions/status", "/sessions", "/usage", "/queue/status", "/metrics", "/"} {
			for _, method := range []string{"GET", "OPTIONS", "DELETE"} {
				a := sidecartest.Send(t, method, s.URL+path, "", "Origin", page, "Access-Control-Request-Method", "GET")
				if a.StatusCode != 403 || a.Header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("%s: %s %s: %d %v", origins, method, path, a.StatusCode, a.Header)
				}
			}
		}
	}
}

func TestBrowser_AnyPage(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "ALLOW_UNAUTHENTICATED", "true", "ALLOWED_ORIGINS", "*")
	for _, origin := range []string{page, "null", "chrome-extension://abc", "http://localhost:3000"} {
		if a := preflight(t, s.URL+"/v1/chat/completions", origin); a.StatusCode != 204 || a.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("preflight of %s: %d %v", origin, a.StatusCode, a.Header)
		}
		if a := sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat, "Origin", origin); a.StatusCode != 200 || a.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %v", origin, a.StatusCode, a.Header)
		}
	}
	if a := sidecartest.Send(t, "GET", s.URL+"/v1/models", ""); a.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("a program is told about pages")
	}
}

func TestBrowser_OnAnyHostAPageMustBeOurOwn(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "LISTEN_ADDR", "0.0.0.0:0", "CLIENT_API_KEYS", "web=key-canary-1")
	url := strings.Replace(s.URL, "[::]", "127.0.0.1", 1)
	for origin, want := range map[string]int{"http://llm.example:8080": 200, "https://evil.test": 403, "http://llm.example:81": 403, "null": 403, "": 200} {
		headers := []string{"Host", "llm.example:8080", "Authorization", "Bearer key-canary-1"}
		if origin != "" {
			headers = append(headers, "Origin", origin)
		}
		if a := sidecartest.Send(t, "GET", url+"/v1/models", "", headers...); a.StatusCode != want {
			t.Errorf("%q: %d, want %d", origin, a.StatusCode, want)
		}
	}
}

func TestHosts_NamedOnesStandBesideTheLoopbackNames(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "ALLOWED_HOSTS", "llm.example")
	for host, want := range map[string]int{"llm.example": 200, "LLM.example:80": 200, "localhost:8080": 200, "127.0.0.1": 200, "[::1]:8080": 200, "evil.test": 421, "x.llm.example": 421} {
		if a := sidecartest.Send(t, "GET", s.URL+"/v1/models", "", "Host", host); a.StatusCode != want {
			t.Errorf("%s: %d, want %d", host, a.StatusCode, want)
		}
	}
}
