package wire

import "github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"

// parseUsage reads a usage object. It is data if it holds at least one of the
// three sums, all of them plain counts; zeros are counts too. Whatever else is
// no usage: a made-up number must not reach the ledger as exact. The total itself
// is not kept, because nobody charges by it.
func parseUsage(b []byte) (u llm.Usage, ok bool) {
	var total int64
	var prompt, completion, totalled, bad bool
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
			sum(&u.Input, &prompt, m.value)
		case "completion_tokens", "output_tokens":
			sum(&u.Output, &completion, m.value)
		case "total_tokens":
			sum(&total, &totalled, m.value)
		case "prompt_tokens_details", "input_tokens_details":
			u.Cached = max(u.Cached, detail(m.value, "cached_tokens"))
		case "completion_tokens_details", "output_tokens_details":
			u.Reasoning = max(u.Reasoning, detail(m.value, "reasoning_tokens"))
		case "prompt_cache_hit_tokens": // DeepSeek
			u.Cached = max(u.Cached, part(m.value))
		}
	}
	if !m.valid() || bad || !prompt && !completion && !totalled {
		return llm.Usage{}, false
	}
	return u, true
}

// detail reads the part of a sum that has this name, 0 if there is none.
func detail(v []byte, name string) (n int64) {
	for m := membersOf(v); m.next(); {
		if string(m.name) == name {
			n = max(n, part(m.value))
		}
	}
	return n
}

// part reads a part of a sum. One that makes no sense is left out; the sums stand.
func part(v []byte) int64 {
	n, ok := intValue(v)
	if !ok || n < 0 {
		return 0
	}
	return n
}
