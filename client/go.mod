module github.com/llm-queue-proxy/llm-queue-proxy/client

go 1.23
