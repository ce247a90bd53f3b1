package wire

// Usage is the exact usage an upstream reported, in LLM tokens. Cached and
// AudioIn are parts of Prompt; Reasoning and AudioOut are parts of Completion.
// The names input and output of Responses mean prompt and completion.
type Usage struct {
	Prompt, Completion, Total int64
	Cached, Reasoning         int64
	AudioIn, AudioOut         int64
}

// parseUsage reads a usage object. It is data when it holds at least one of the
// three sums, all of them plain counts; zeros are counts too. Whatever else is
// no usage: a made-up number must not reach the ledger as exact.
func parseUsage(b []byte) (u Usage, ok bool) {
	var prompt, completion, total, bad bool
	sum := func(n *int64, found *bool, v []byte) {
		if isNull(v) {
			return
		}
		var count bool
		if *n, count = intValue(v); !count || *n < 0 {
			bad = true
		}
		*found = true
	}
	m := membersOf(b)
	for m.next() {
		switch string(m.name) {
		case "prompt_tokens", "input_tokens":
			sum(&u.Prompt, &prompt, m.value)
		case "completion_tokens", "output_tokens":
			sum(&u.Completion, &completion, m.value)
		case "total_tokens":
			sum(&u.Total, &total, m.value)
		case "prompt_tokens_details", "input_tokens_details":
			parseDetails(m.value, "cached_tokens", &u.Cached, &u.AudioIn)
		case "completion_tokens_details", "output_tokens_details":
			parseDetails(m.value, "reasoning_tokens", &u.Reasoning, &u.AudioOut)
		case "prompt_cache_hit_tokens": // DeepSeek
			u.Cached = max(u.Cached, detail(m.value))
		}
	}
	if !m.valid() || bad || !prompt && !completion && !total {
		return Usage{}, false
	}
	if !total {
		u.Total = u.Prompt + u.Completion
	}
	return u, true
}

func parseDetails(v []byte, name string, n, audio *int64) {
	for m := membersOf(v); m.next(); {
		switch string(m.name) {
		case name:
			*n = max(*n, detail(m.value))
		case "audio_tokens":
			*audio = max(*audio, detail(m.value))
		}
	}
}

// detail reads a part of a sum; one that makes no sense is left out, the sums stand.
func detail(v []byte) int64 {
	n, ok := intValue(v)
	if !ok || n < 0 {
		return 0
	}
	return n
}
