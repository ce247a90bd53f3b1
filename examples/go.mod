module github.com/llm-queue-proxy/llm-queue-proxy/examples

go 1.26.0
