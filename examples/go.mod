module github.com/llm-queue-proxy/llm-queue-proxy/examples

go 1.26.0

require (
	github.com/llm-queue-proxy/llm-queue-proxy v0.0.0
	github.com/llm-queue-proxy/llm-queue-proxy/client v0.0.0
	github.com/llm-queue-proxy/llm-queue-proxy/middleware v0.0.0
	github.com/openai/openai-go v1.12.0
	github.com/sashabaranov/go-openai v1.43.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	go.opentelemetry.io/auto/sdk v1.2.1 // indirect
	go.opentelemetry.io/otel v1.47.0
	go.opentelemetry.io/otel/log v1.47.0 // indirect
	go.opentelemetry.io/otel/metric v1.47.0 // indirect
	go.opentelemetry.io/otel/trace v1.47.0
	go.uber.org/goleak v1.3.0
)

require (
	github.com/tidwall/gjson v1.14.4 // indirect
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.1 // indirect
	github.com/tidwall/sjson v1.2.5 // indirect
)

replace (
	github.com/llm-queue-proxy/llm-queue-proxy => ../
	github.com/llm-queue-proxy/llm-queue-proxy/client => ../client
	github.com/llm-queue-proxy/llm-queue-proxy/middleware => ../middleware
)
