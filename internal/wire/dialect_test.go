package wire

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// The header sets are those that answers were seen with, shortened.
var (
	openAIHeaders = `
		content-type: application/json
		x-ratelimit-limit-requests: 500
		x-ratelimit-remaining-requests: 499
		x-ratelimit-reset-requests: 120ms
		openai-organization: org-x
		openai-processing-ms: 342
		openai-version: 2020-10-01
		x-request-id: req_1
		cf-ray: 8a1`
	azureHeaders = `
		apim-request-id: bb943c68-99ed-46ab-bda9-a5efbdf5897a
		x-ms-region: North Central US
		x-ms-client-request-id: bb943c68-99ed-46ab-bda9-a5efbdf5897a
		x-ms-rai-invoked: true
		x-ratelimit-remaining-requests: 79
		x-ratelimit-remaining-tokens: 61353
		azureml-model-session: d008-20240215231538
		openai-processing-ms: 512
		x-request-id: 3a8b1a44-a02c-4a07-b51d-1c88acec4c4f`
	anthropicHeaders = `
		anthropic-ratelimit-requests-limit: 50
		anthropic-ratelimit-requests-remaining: 49
		anthropic-ratelimit-input-tokens-limit: 30000
		anthropic-organization-id: 0f1e
		request-id: req_018EeWyXxfu5pfWkrYcMdjWG
		via: 1.1 google`
	// Anthropic's endpoint for OpenAI's SDKs, as its documentation lists them.
	anthropicCompatible = `
		x-ratelimit-limit-requests: 50
		x-ratelimit-remaining-tokens: 29000
		openai-version: 2020-10-01
		openai-processing-ms:
		anthropic-organization-id: 0f1e
		request-id: req_1`
)

func headers(lines string) http.Header {
	h := http.Header{}
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		h.Add(name, strings.TrimSpace(value))
	}
	return h
}

func TestDialect_IsProvedByHostOrByOnesOwnHeaders(t *testing.T) {
	for _, tt := range []struct{ name, host, headers, want string }{
		{"openai", "api.openai.com", openAIHeaders, "openai"},
		{"openai in Europe", "eu.api.openai.com", "", "openai"},
		{"openai says nothing of itself", "api.openai.com", "server: cloudflare", "openai"},
		{"openai behind a gateway that passes all on", "gateway.ai.cloudflare.com", openAIHeaders + "\ncf-aig-cache-status: MISS", "openai"},

		{"azure", "name.openai.azure.com", azureHeaders, "azure"},
		{"azure without headers, as of a broken deployment", "name.openai.azure.com", "", "azure"},
		{"azure's other hosts", "name.cognitiveservices.azure.com", "", "azure"},
		{"azure's foundry", "name.services.ai.azure.com", "", "azure"},
		{"azure for governments", "name.openai.azure.us", "", "azure"},
		{"azure's host in capitals and with its dot", "Name.OpenAI.Azure.com.", "", "azure"},
		{"azure behind API management", "name.azure-api.net", "x-ms-region: East US\nx-ms-deployment-name: gpt-4.1-mini\nx-ratelimit-limit-tokens: 100000", "azure"},
		{"azure behind one's own proxy", "llm.internal", azureHeaders, "azure"},
		{"azure with one header left", "llm.internal", "apim-request-id: 1249216d", "azure"},

		{"anthropic", "api.anthropic.com", anthropicHeaders, "anthropic"},
		{"anthropic without headers", "api.anthropic.com", "", "anthropic"},
		{"anthropic for OpenAI's SDKs", "api.anthropic.com", anthropicCompatible, "anthropic"},
		{"the same behind one's own proxy", "llm.internal", anthropicCompatible, "anthropic"},
		{"anthropic behind one's own proxy", "llm.internal", anthropicHeaders, "anthropic"},
		{"a subscription of anthropic's", "llm.internal", "anthropic-ratelimit-unified-status: allowed", "anthropic"},
		{"anthropic's models at azure", "name.services.ai.azure.com", anthropicHeaders + "\napim-request-id: 1", "anthropic"},

		{"nothing", "", "", ""},
		{"a server of one's own", "localhost", "server: uvicorn\nx-request-id: 1", ""},
		{"llama.cpp's python server", "localhost", "server: uvicorn\nopenai-processing-ms: 812", ""},
		{"a server that copies the version too", "localhost", "openai-processing-ms: 812\nopenai-version: 2020-10-01", ""},
		{"an organization without a name", "localhost", "openai-processing-ms: 812\nopenai-organization:", ""},
		{"groq", "api.groq.com", "x-groq-region: us-west-1\nx-ratelimit-limit-requests: 14400\nx-ratelimit-limit-tokens: 18000\nx-request-id: req_1\nvia: 1.1 google\ncf-ray: 8a1", ""},
		{"openrouter with a model of anthropic's", "openrouter.ai", "x-ratelimit-limit: 20\nx-clerk-auth-status: signed-out\ncf-ray: 8a1", ""},
		{"bedrock", "bedrock-runtime.us-east-1.amazonaws.com", "x-amzn-requestid: 1\nx-amzn-bedrock-invocation-latency: 512", ""},
		{
			"litellm before openai", "litellm.internal", "x-litellm-model-api-base: https://api.openai.com\nllm_provider-openai-organization: org-x\n" +
				"llm_provider-openai-processing-ms: 342\nx-ratelimit-remaining-requests: 99", "",
		},
		{
			"litellm before azure", "litellm.internal", "x-litellm-model-api-base: https://name.openai.azure.com\nllm_provider-x-ms-region: East US\n" +
				"llm_provider-apim-request-id: 1", "",
		},
		{"litellm before anthropic", "litellm.internal", "llm_provider-anthropic-ratelimit-requests-limit: 50\nllm_provider-request-id: req_1", ""},
		{"vllm in azure's machine learning", "name.eastus.inference.ml.azure.com", "azureml-model-deployment: blue\nx-ms-client-request-id: 1\nx-ms-request-id: 1\nx-ms-server-version: azmlinfsrv/1", ""},
		{"vllm behind API management", "name.azure-api.net", "request-context: appId=cid-v1:1\nx-ms-request-id: 1", ""},
		{"a request's header that comes back", "localhost", "anthropic-version: 2023-06-01\nanthropic-beta: x", ""},
		{"a host that ends alike", "notanthropic.com", "", ""},
		{"a host that begins alike", "api.openai.com.evil.example", "", ""},
		{"openai's website", "openai.com", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := headers(tt.headers)
			if got := ParseRateLimit(tt.host, h, time.Time{}).Profile; got != tt.want {
				t.Errorf("an answer is of %q, want %q", got, tt.want)
			}
			if _, got := ParseThrottle(tt.host, h, nil, time.Time{}); got.Profile != tt.want {
				t.Errorf("a 429 is of %q, want %q", got.Profile, tt.want)
			}
		})
	}
}
