module github.com/llm-queue-proxy/llm-queue-proxy/middleware

go 1.23
