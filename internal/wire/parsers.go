package wire

import (
	"github.com/openai/openai-go"
	"github.com/openai/openai-go/responses"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// The parsers of the endpoints. Small fields are decoded into the SDK's struct,
// and the view is read from that. Heavy fields stay spans. The SDK's structs
// have no stream, and of stream_options the splice needs the place: both are
// read from the bytes.

type (
	chatReading       = reading[openai.ChatCompletionNewParams]
	completionReading = reading[openai.CompletionNewParams]
	responseReading   = reading[responses.ResponseNewParams]
	embeddingReading  = reading[openai.EmbeddingNewParams]
)

var chatParser = newParser([]field[openai.ChatCompletionNewParams]{
	{"model", func(c *chatReading) { setEnum(&c.params.Model, c.value) }},
	{"messages", func(c *chatReading) { c.Messages = span(c.value) }},
	{"stream", func(c *chatReading) { c.setStream() }},
	{"stream_options", func(c *chatReading) { c.setStreamOptions() }},
	{"max_completion_tokens", func(c *chatReading) { setInt(&c.params.MaxCompletionTokens, c.value) }},
	{"max_tokens", func(c *chatReading) { setInt(&c.params.MaxTokens, c.value) }},
	{"n", func(c *chatReading) { setInt(&c.params.N, c.value) }},
	{"tools", func(c *chatReading) { c.Tools = span(c.value) }},
	{"functions", func(c *chatReading) { c.Functions = span(c.value) }},
	{"response_format", func(c *chatReading) { c.ResponseFormat = span(c.value) }},
	{"reasoning_effort", func(c *chatReading) { setEnum(&c.params.ReasoningEffort, c.value) }},
}, func(c *chatReading) {
	c.Model, c.Effort = llm.Model(c.params.Model), string(c.params.ReasoningEffort)
	c.Choices = count(c.params.N)
	// Which cap an upstream obeys is its own affair, and a cap must not be a way to
	// weigh less.
	c.MaxOutput = max(count(c.params.MaxCompletionTokens), count(c.params.MaxTokens))
})

var completionParser = newParser([]field[openai.CompletionNewParams]{
	{"model", func(c *completionReading) { setEnum(&c.params.Model, c.value) }},
	{"prompt", func(c *completionReading) { c.Prompt = span(c.value) }},
	{"stream", func(c *completionReading) { c.setStream() }},
	{"stream_options", func(c *completionReading) { c.setStreamOptions() }},
	{"max_tokens", func(c *completionReading) { setInt(&c.params.MaxTokens, c.value) }},
	{"n", func(c *completionReading) { setInt(&c.params.N, c.value) }},
	{"best_of", func(c *completionReading) { setInt(&c.params.BestOf, c.value) }},
}, func(c *completionReading) {
	c.Model = llm.Model(c.params.Model)
	c.Choices = max(count(c.params.N), count(c.params.BestOf))
	c.MaxOutput = count(c.params.MaxTokens)
})

var responseParser = newParser([]field[responses.ResponseNewParams]{
	{"model", func(c *responseReading) { setEnum(&c.params.Model, c.value) }},
	{"input", func(c *responseReading) { c.setItems() }},
	{"instructions", func(c *responseReading) { c.Instructions = span(c.value) }},
	{"stream", func(c *responseReading) { c.setStream() }},
	{"max_output_tokens", func(c *responseReading) { setInt(&c.params.MaxOutputTokens, c.value) }},
	{"tools", func(c *responseReading) { c.Tools = span(c.value) }},
	{"text", func(c *responseReading) { c.ResponseFormat = span(memberOf(c.value, "format")) }},
	{"previous_response_id", func(c *responseReading) { setString(&c.params.PreviousResponseID, c.value) }},
	{"conversation", func(c *responseReading) { c.setContext() }},
	{"prompt", func(c *responseReading) { c.setContext() }},
	{"reasoning", func(c *responseReading) { setSDK(&c.params.Reasoning, c.value) }},
}, func(c *responseReading) {
	c.Model, c.Effort = llm.Model(c.params.Model), string(c.params.Reasoning.Effort)
	c.MaxOutput = count(c.params.MaxOutputTokens)
	c.PreviousResponseID = c.params.PreviousResponseID.Value
})

var embeddingParser = newParser([]field[openai.EmbeddingNewParams]{
	{"model", func(c *embeddingReading) { setEnum(&c.params.Model, c.value) }},
	{"input", func(c *embeddingReading) { c.Prompt = span(c.value) }},
}, func(c *embeddingReading) {
	c.Model = llm.Model(c.params.Model)
})
