package provider_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// FuzzServer_metered: whatever the body, the answer is 200 with the usage that Expect
// foretold and the ledger holds, or an OpenAI-shaped error.
func FuzzServer_metered(f *testing.F) {
	paths := []string{"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"}
	for _, body := range []string{
		hello,
		`{"model":"m","prompt":["say 2 words","b"],"n":2,"max_tokens":1e0}`,
		`{"model":"m","prompt":[[1,2],[3]],"best_of":2}`,
		`{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"say -3 words"}]},{"type":"function_call_output","output":"x"}]}`,
		`{"model":"m","input":[1,2,3],"encoding_format":"base64","dimensions":2}`,
		`{"model":"m","messages":[{"content":null}],"tools":[{"function":{"name":"f"}}],"tool_choice":"required"}`,
		`{"model":"m","tools":[1],"tool_choice":"required","input":"x"}`,
		`{"model":5}`, `[]`, "\xff", "",
	} {
		for i := range paths {
			f.Add(byte(i), body)
		}
	}
	f.Fuzz(func(t *testing.T, route byte, body string) {
		path := paths[int(route)%len(paths)]
		s := provider.New(provider.Config{})
		want, expectErr := s.Expect(path, []byte(body))
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("POST", path, strings.NewReader(body)))
		e := s.Ledger()[0]
		if w.Code != 200 {
			var answer struct {
				Error *struct{ Message, Type *string }
			}
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Error == nil || answer.Error.Message == nil || answer.Error.Type == nil {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if expectErr == nil || e.Accepted || w.Code != 400 {
				t.Fatalf("%d %s, but Expect says %+v", w.Code, w.Body, want)
			}
			return
		}
		got := provider.Used{Input: e.PromptTokens, Cached: e.CachedTokens, Output: e.CompletionTokens}
		if expectErr != nil || got != want || !e.Delivered {
			t.Fatalf("expected %+v (%v), ledger has %+v", want, expectErr, e)
		}
		if want.Input < 0 || want.Output < 0 || want.Cached > want.Input {
			t.Fatalf("usage %+v", want)
		}
	})
}
