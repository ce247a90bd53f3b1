package main

import (
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// asHost is a proxy that answers for every host itself, by answer, and keeps the headers
// of what it was asked; the look that a sidecar takes at its start excepted.
func asHost(t *testing.T, answer http.HandlerFunc) (proxy string, seen func() []http.Header) {
	t.Helper()
	var mu sync.Mutex
	var all []http.Header
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			return
		}
		mu.Lock()
		all = append(all, r.Header.Clone())
		mu.Unlock()
		answer(w, r)
	})
	return strings.TrimSuffix(base, "/v1"), func() []http.Header {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

func entraToken(name string) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"typ":"JWT","alg":"RS256"}`)) + "." + part([]byte(`{"sub":"`+name+`"}`)) + ".c2lnbmF0dXJlLWNhbmFyeQ"
}

// TestKey_GoesInTheHeaderThatTheHostWants asks hosts of which the name says what they
// want.
func TestKey_GoesInTheHeaderThatTheHostWants(t *testing.T) {
	const key = "sk-upstream-canary"
	for name, c := range map[string]struct {
		base, path, key, header string
		settings                []string
	}{
		"Azure OpenAI":          {"http://r.openai.azure.com/openai/v1", "/v1/chat/completions", key, "Api-Key", nil},
		"its classic paths":     {"http://r.openai.azure.com", "/openai/deployments/d/chat/completions?api-version=x", key, "Api-Key", nil},
		"a resource of several": {"http://R.CognitiveServices.Azure.com:443/openai/v1", "/v1/chat/completions", key, "Api-Key", nil},
		"Foundry":               {"http://r.services.ai.azure.com/openai/v1", "/v1/chat/completions", key, "Api-Key", nil},
		"the US' cloud":         {"http://r.openai.azure.us/openai/v1", "/v1/chat/completions", key, "Api-Key", nil},
		"Foundry there":         {"http://r.services.ai.azure.us/openai/v1", "/v1/chat/completions", key, "Api-Key", nil},
		"China's cloud":         {"http://r.openai.azure.cn/openai/v1", "/v1/chat/completions", key, "Api-Key", nil},
		"a name like Azure's":   {"http://openai.azure.com.example.com/v1", "/v1/chat/completions", key, "Authorization", nil},
		"another profile":       {"http://r.openai.azure.com/openai/v1", "/v1/chat/completions", key, "Authorization", []string{"PROVIDER_PROFILE", "openai"}},
		"the profile says it":   {"http://gateway.example.com/v1", "/v1/chat/completions", key, "Api-Key", []string{"PROVIDER_PROFILE", "azure"}},
		"an Entra token":        {"http://r.openai.azure.com/openai/v1", "/v1/chat/completions", entraToken("a"), "Authorization", nil},
		"and by the profile":    {"http://gateway.example.com/v1", "/v1/chat/completions", entraToken("a"), "Authorization", []string{"PROVIDER_PROFILE", "azure"}},
		"Anthropic":             {"http://api.anthropic.com/v1", "/v1/messages", key, "X-Api-Key", nil},
		"OpenAI":                {"http://api.openai.com/v1", "/v1/chat/completions", key, "Authorization", nil},
	} {
		t.Run(name, func(t *testing.T) {
			proxy, seen := asHost(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
			s := start(t, c.base, append(c.settings, "OPENAI_API_KEY", c.key, "UPSTREAM_PROXY", proxy)...)
			sidecartest.Send(t, "POST", s.URL+c.path, sidecartest.Chat, "Authorization", "Bearer client", "Api-Key", "client", "X-Api-Key", "client")
			if len(seen()) != 1 {
				t.Fatalf("%d requests", len(seen()))
			}
			for _, header := range []string{"Authorization", "Api-Key", "X-Api-Key"} {
				want := ""
				if header == c.header {
					if want = c.key; header == "Authorization" {
						want = "Bearer " + c.key
					}
				}
				if got := seen()[0].Get(header); got != want {
					t.Errorf("%s: %q, want %q", header, got, want)
				}
			}
		})
	}
}

// TestKey_ATokenTakesTheKeysPlace rotates from a key to a token, and to the next one.
func TestKey_ATokenTakesTheKeysPlace(t *testing.T) {
	path := sidecartest.WriteFile(t, "key", "key-canary-0")
	proxy, seen := asHost(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	s := start(t, "http://r.openai.azure.com/openai/v1", "OPENAI_API_KEY", "", "OPENAI_API_KEY_FILE", path, "UPSTREAM_PROXY", proxy)
	s.Ask("s")
	for _, token := range []string{entraToken("first"), entraToken("the second one")} {
		if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Ask("s")
		if h := seen()[len(seen())-1]; h.Get("Authorization") != "Bearer "+token || h.Get("Api-Key") != "" {
			t.Errorf("sent %v", h)
		}
	}
	if h := seen()[0]; h.Get("Api-Key") != "key-canary-0" || h.Get("Authorization") != "" {
		t.Errorf("sent first %v", h)
	}
}

// TestKey_GatewaysOfAzureAreAskedInTheirWay has a gateway whose name says nothing, but
// whose refusal does: it is asked again, once, and then remembered.
func TestKey_GatewaysOfAzureAreAskedInTheirWay(t *testing.T) {
	for name, c := range map[string]struct {
		header   string // of refusals
		takes    bool   // api-key
		requests int    // for two calls
		status   int
		settings []string
	}{
		"Azure's":                   {"Apim-Request-Id", true, 3, 200, nil},
		"Azure's, the key is wrong": {"Apim-Request-Id", false, 4, 401, nil},
		"another's":                 {"X-Request-Id", true, 2, 401, nil},
		"the profile says no":       {"Apim-Request-Id", true, 2, 401, []string{"PROVIDER_PROFILE", "openai"}},
	} {
		t.Run(name, func(t *testing.T) {
			proxy, seen := asHost(t, func(w http.ResponseWriter, r *http.Request) {
				if c.takes && r.Header.Get("Api-Key") == "sk-upstream-canary" && r.Header.Get("Authorization") == "" {
					_, _ = io.WriteString(w, "{}")
					return
				}
				w.Header().Set(c.header, "1")
				w.WriteHeader(401)
			})
			s := start(t, "http://gateway.example.com/v1", append(c.settings, "UPSTREAM_PROXY", proxy)...)
			for range 2 {
				if a := s.Ask("s"); a.StatusCode != c.status {
					t.Errorf("%d %s", a.StatusCode, a.Body)
				}
			}
			if n := len(seen()); n != c.requests {
				t.Errorf("%d requests, want %d", n, c.requests)
			}
		})
	}
}
