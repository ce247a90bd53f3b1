package wire

import "github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"

// told is what the provider said besides the counts that are exact.
func (t *tally) told() llm.Told {
	return llm.Told{Total: t.n[saidTotal], Cost: t.cost, Currency: t.currency}
}

// usage is what the counts of a tally add up to; false: that cannot be known. generates says whether answers of the endpoint
// have output.
//
// In our sums the prompt includes what was read from and written to caches, and the output includes reasoning. Some
// dialects leave them out:
//
//   - The total decides, where there is one. What it has beyond prompt and output stands beside them: the caches, if it is
//     they that it has, else reasoning, which Gemini and xAI do not count as output.
//   - Without it the names decide: Anthropic's input_tokens are without the caches, if these have names of their own.
//   - A part that is larger than its whole is none of it.
func (t *tally) usage(generates bool) (u llm.Usage, known bool) {
	u = llm.Usage{Input: t.n[saidPrompt], Output: t.n[saidOutput]}
	if known = t.complete(&u, generates); !known {
		return llm.Usage{}, false
	}
	u.Input += t.n[saidTools]
	beyond := int64(0)
	if t.has[saidTotal] {
		beyond = max(0, t.n[saidTotal]-u.Input-u.Output)
	}
	beyond -= t.addCaches(&u, beyond)
	t.addReasoning(&u, beyond, generates)
	return u, true
}

// complete puts the total in the place of a sum that was not told; false: too little was.
func (t *tally) complete(u *llm.Usage, generates bool) bool {
	total := t.n[saidTotal]
	if u.Input == 0 && u.Output == 0 && total > 0 {
		u.Input = total // all of it, where there is no output
		return !generates
	}
	switch {
	case !t.has[saidPrompt] && !t.has[saidOutput] && !t.has[saidTotal]:
		return false
	case !t.has[saidPrompt] && total > u.Output:
		u.Input = total - u.Output
	case !t.has[saidOutput] && generates && total > u.Input:
		u.Output = total - u.Input
	}
	return true
}

// addCaches adds what was read from and written to caches to the prompt, if it stands beside that, and tells how much of the
// total it explains.
func (t *tally) addCaches(u *llm.Usage, beyond int64) (explained int64) {
	read, written, reasoning := t.n[saidCached], t.n[saidWritten], t.reasoning()
	both := read + written
	named := both > 0 && (t.apart[saidCached] || t.apart[saidWritten])
	switch {
	case both == 0:
	case beyond > 0 && (beyond == both || beyond == both+reasoning):
		explained = both
	case beyond > 0 && (beyond == written || beyond == written+reasoning) && written > 0 && read <= u.Input:
		explained = written
	case beyond > 0 && (beyond == read || beyond == read+reasoning) && read > 0 && written <= u.Input:
		explained = read
	case named && both > u.Input: // whoever made the total has left them out
		explained = both
	case t.has[saidTotal] && t.n[saidTotal] >= u.Input+u.Output: // they are in it
	case named && t.apart[saidPrompt]:
		explained = both
	}
	u.Input += explained
	u.Cached = min(read, u.Input)
	u.CacheWrite = min(written, u.Input-u.Cached)
	return explained
}

func (t *tally) reasoning() int64 { return max(t.n[saidReasoning], t.n[saidThoughts]) }

// addReasoning adds reasoning to the output, if it stands beside that. What a total has beyond all else can only be reasoning that
// nobody named.
func (t *tally) addReasoning(u *llm.Usage, beyond int64, generates bool) {
	u.Reasoning = t.reasoning()
	switch {
	case !generates:
	case beyond > 0:
		u.Output += beyond
		if u.Reasoning == 0 {
			u.Reasoning = beyond
		}
	case t.has[saidTotal] && !t.apart[saidReasoning]: // it is in it
	case u.Reasoning > u.Output, !t.has[saidTotal] && t.n[saidThoughts] > 0:
		u.Output += u.Reasoning
	}
	u.Reasoning = min(u.Reasoning, u.Output)
}
