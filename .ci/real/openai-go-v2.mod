// Version 2 of openai-go, for the check: the programs are those of version 3.
module github.com/llm-queue-proxy/llm-queue-proxy/examples/openai-go-v2

go 1.26.0

require (
	github.com/llm-queue-proxy/llm-queue-proxy/middleware v0.0.0
	github.com/openai/openai-go/v2 v2.7.1
)

require (
	github.com/tidwall/gjson v1.20.0 // indirect
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.1 // indirect
	github.com/tidwall/sjson v1.2.5 // indirect
)

replace github.com/llm-queue-proxy/llm-queue-proxy/middleware => ../../middleware
