// A module of its own: version 3 of openai-go takes minutes and 2.4 GB of memory
// to compile, which nobody who runs the other examples should pay for. It is not
// in go.work either: use it with GOWORK=off.
module github.com/llm-queue-proxy/llm-queue-proxy/examples/openai-go-v3

go 1.26.0

require (
	github.com/llm-queue-proxy/llm-queue-proxy/middleware v0.0.0
	github.com/openai/openai-go/v3 v3.96.0
)

require (
	github.com/coder/websocket v1.8.15 // indirect
	github.com/tidwall/gjson v1.20.0 // indirect
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.1 // indirect
	github.com/tidwall/sjson v1.2.5 // indirect
)

replace github.com/llm-queue-proxy/llm-queue-proxy/middleware => ../../middleware
