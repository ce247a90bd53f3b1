package provider_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// The handler's own cost: what a load test pays on the far side.
func BenchmarkServer_chat(b *testing.B) {
	for name, body := range map[string]string{"json": hello, "stream": streamed} {
		b.Run(name, func(b *testing.B) {
			s := provider.New(provider.Config{MaxEntries: 1000})
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(body))
				s.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}
