package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// What a provider tells of an answer is in its row as it was told, and beside our cost in /usage.
func TestUsage_RowsKeepWhatWasTold(t *testing.T) {
	answers := map[string]string{
		"xai":      `{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":3100,"completion_tokens_details":{"reasoning_tokens":2000}}`,
		"router":   `{"prompt_tokens":1000,"completion_tokens":0,"total_tokens":1000,"cost":0.00014775,"prompt_tokens_details":{"cached_tokens":200,"cache_write_tokens":300}}`,
		"euro":     `{"prompt_tokens":10,"completion_tokens":0,"cost":"0.10","currency":"EUR"}`,
		"nameless": `{"total_tokens":1100}`,
	}
	base := sidecartest.Scripted(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		for model, usage := range answers {
			if strings.Contains(string(body), `"`+model+`"`) {
				_, _ = io.WriteString(w, `{"id":"x","model":"`+model+`","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":`+usage+`}`)
			}
		}
	})
	for name, settings := range map[string][]string{"memory": nil, "sqlite": sidecartest.SQLite(t)} {
		t.Run(name, func(t *testing.T) {
			s := start(t, base, append(settings, withFile(t, `prices: [{model: "*", input: "1", cached_input: "0.1", cache_write: "1.25", output: "2", reasoning: "3"}]`)...)...)
			for model := range answers {
				body := strings.Replace(sidecartest.Chat, "gpt-4o", model, 1)
				wantAnswered(t, sidecartest.Send(t, "POST", s.URL+"/v1/session/"+model+"/chat/completions", body))
			}
			for model, want := range map[string]string{ // prompt completion cached written reasoning cost; told total, cost, currency
				"xai":      "1000 2100 0 0 2000 0.0072 3100 - -",
				"router":   "1000 0 200 300 0 0.000895 1000 0.00014775 -",
				"euro":     "10 0 0 0 0 0.00001 - 0.1 EUR",
				"nameless": "- - - - - - 1100 - -",
			} {
				r := s.Rows(model)[0]
				got := strings.Join([]string{
					shown(r.PromptTokens), shown(r.CompletionTokens), shown(r.CachedTokens), shown(r.CacheWriteTokens), shown(r.ReasoningTokens),
					shown(r.Cost), shown(r.ToldTotalTokens), shown(r.ToldCost), shown(r.ToldCurrency),
				}, " ")
				if got != want {
					t.Errorf("%s: %s; want %s", model, got, want)
				}
				for _, query := range []string{"by=model", "by=model&session=" + model} {
					for _, row := range s.Usage(query).Rows {
						told := map[string]string{"router": "0.00014775"}[model]
						if *row.Model == model && (shown(row.ToldCost) != told && told != "" || told == "" && row.ToldCost != nil || row.CacheWriteTokens != deref(r.CacheWriteTokens)) {
							t.Errorf("%s, %s: told %s, written %d", model, query, shown(row.ToldCost), row.CacheWriteTokens)
						}
					}
				}
			}
			if rows := s.SessionsPage(); len(rows) != len(answers) {
				t.Errorf("%d sessions", len(rows))
			}
		})
	}
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// shown is a member of JSON as text; "-" is null.
func shown[T any](p *T) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprint(*p)
}
