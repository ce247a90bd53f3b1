package wire

// Usage is the exact usage an upstream reported, in LLM tokens. Cached and
// AudioIn are parts of Prompt; Reasoning and AudioOut are parts of Completion.
type Usage struct {
	Prompt, Completion, Total int64
	Cached, Reasoning         int64
	AudioIn, AudioOut         int64
}
