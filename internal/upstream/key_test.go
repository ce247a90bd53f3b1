package upstream

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"testing"
)

// jwt is a token as Microsoft Entra makes them.
func jwt() string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"typ":"JWT","alg":"RS256"}`)) + "." + part([]byte(`{"aud":"https://cognitiveservices.azure.com"}`)) + "." + part([]byte("signature"))
}

func TestDo_SendsTheKeyAsItIsWanted(t *testing.T) {
	var got http.Header
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer server.Close()
	for name, c := range map[string]struct {
		config, request, path, key string
		want                       string
	}{
		"by default":                {"", "", "models", "k", "Authorization"},
		"as a bearer token":         {Bearer, "", "models", "k", "Authorization"},
		"Azure's":                   {AzureKey, "", "models", "k", "Api-Key"},
		"a key with dots":           {AzureKey, "", "models", "a.b.c", "Api-Key"},
		"a key like a token's":      {AzureKey, "", "models", "eyJx.eyJ9.x", "Api-Key"},
		"an Entra token":            {AzureKey, "", "models", jwt(), "Authorization"},
		"what this request wants":   {Bearer, AzureKey, "models", "k", "Api-Key"},
		"Anthropic's":               {AnthropicKey, "", "messages", "sk-ant-api03-x", "X-Api-Key"},
		"Anthropic's, OpenAI's way": {AnthropicKey, "", "chat/completions", "sk-ant-api03-x", "Authorization"},
		"a login at Anthropic":      {AnthropicKey, "", "messages", "sk-ant-oat01-x", "Authorization"},
	} {
		t.Run(name, func(t *testing.T) {
			up := client(t, server.URL, func(cfg *Config) {
				cfg.KeyHeader, cfg.Key = c.config, func() string { return c.key }
			})
			resp, err := up.Do(context.Background(), Request{Method: "GET", Path: c.path, KeyHeader: c.request, Header: http.Header{
				"Authorization": {"Bearer client"}, "Api-Key": {"client"}, "X-Api-Key": {"client"},
			}})
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			for _, header := range []string{"Authorization", "Api-Key", "X-Api-Key"} {
				want := ""
				if header == c.want {
					if want = c.key; header == "Authorization" {
						want = "Bearer " + c.key
					}
				}
				if got.Get(header) != want {
					t.Errorf("%s: %q, want %q", header, got.Get(header), want)
				}
			}
			if up.KeyOf(resp) != c.key {
				t.Errorf("it was sent with %q", up.KeyOf(resp))
			}
		})
	}
}
