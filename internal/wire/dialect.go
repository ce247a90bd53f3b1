package wire

import (
	"net/http"
	"strings"
)

// dialectOf says whose answer this is: "openai", "azure" or "anthropic"; "" if
// nothing proves it. host is the upstream's, without a port. A wrong answer costs
// the client 429s or half of its limit, so a sign that others copy proves nothing:
//
//   - Names of limits: OpenAI's are everybody's.
//   - openai-version: Anthropic's compatible endpoint sends it.
//   - openai-processing-ms: Azure and llama.cpp's Python server send it.
//   - x-ms-client-request-id, x-ms-request-id, azureml-*: any service of Azure's
//     sends them, a rented vLLM behind Azure ML included.
//   - *.azure-api.net: this gateway stands before any provider, and lets its headers through.
//   - llm_provider-*: LiteLLM renames what it passes on, because its own limits come first.
//
// A name that only its owner sends counts from behind other hosts too: gateways
// that pass it on pass the owner's limits on.
func dialectOf(host string, h http.Header) string {
	byHost := DialectOfHost(host)
	switch {
	case byHost == "openai", byHost == "anthropic":
		return byHost
	case fromAnthropic(h): // Azure sells Anthropic's models as well
		return "anthropic"
	case byHost == "azure", sent(h, "Apim-Request-Id"), sent(h, "X-Ms-Region"):
		return "azure"
	case sent(h, "Openai-Organization") && sent(h, "Openai-Processing-Ms"):
		return "openai"
	}
	return ""
}

// dialectHosts are the hosts that belong to one provider, subdomains included.
var dialectHosts = []struct{ domain, dialect string }{
	{"api.openai.com", "openai"},
	{"anthropic.com", "anthropic"},
	{"openai.azure.com", "azure"},
	{"cognitiveservices.azure.com", "azure"},
	{"services.ai.azure.com", "azure"},
	{"api.cognitive.microsoft.com", "azure"},
	{"openai.azure.us", "azure"},
	{"cognitiveservices.azure.us", "azure"},
	{"services.ai.azure.us", "azure"},
	{"openai.azure.cn", "azure"},
	{"cognitiveservices.azure.cn", "azure"},
	{"services.ai.azure.cn", "azure"},
}

// DialectOfHost says which provider a host belongs to, as dialectOf does; "" if it may
// be anybody's.
func DialectOfHost(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, d := range dialectHosts {
		if rest, ok := strings.CutSuffix(host, d.domain); ok && (rest == "" || rest[len(rest)-1] == '.') {
			return d.dialect
		}
	}
	return ""
}

// fromAnthropic looks for the names of Anthropic's own headers of answers.
func fromAnthropic(h http.Header) bool {
	const limits = "Anthropic-Ratelimit-"
	for name := range h {
		if len(name) > len(limits) && strings.EqualFold(name[:len(limits)], limits) {
			return true
		}
	}
	return sent(h, "Anthropic-Organization-Id")
}

func sent(h http.Header, name string) bool { return h.Get(name) != "" }
