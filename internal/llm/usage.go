package llm

// MaxTokens bounds each count of one request. It keeps sums of nine million records inside an int64.
const MaxTokens = 1 << 40

// Usage is what a provider says that one request used, in tokens. All but Input and
// Output are parts of these sums and are not added to them.
type Usage struct {
	Input     int64 // prompt tokens, Cached and CacheWrite included
	Output    int64 // completion tokens over all choices, Reasoning included
	Cached    int64 // of Input: served from the provider's prompt cache
	Reasoning int64 // of Output: thought, and not shown

	CacheWrite int64 // of Input: written to the provider's prompt cache, which some bill above Input
}

// Add adds o to u; with a sign of −1 it takes o off.
func (u *Usage) Add(o Usage, sign int64) {
	u.Input += sign * o.Input
	u.Output += sign * o.Output
	u.Cached += sign * o.Cached
	u.Reasoning += sign * o.Reasoning
	u.CacheWrite += sign * o.CacheWrite
}

// Least and Most are the smallest and the largest of the counts.
func (u Usage) Least() int64 { return min(u.Input, u.Output, u.Cached, u.Reasoning, u.CacheWrite) }

// Most is the largest of the counts.
func (u Usage) Most() int64 { return max(u.Input, u.Output, u.Cached, u.Reasoning, u.CacheWrite) }

// Total is what most limits, and budgets in tokens, count.
func (u Usage) Total() int64 { return u.Input + u.Output }

// Demand is what one request is expected to use, in tokens. It is the same at
// every provider; how a provider charges for it is the matter of a lane.
type Demand struct {
	Input     int64 // prompt tokens, estimated
	Output    int64 // completion tokens expected, over all choices
	MaxOutput int64 // completion tokens that the client allows, over all choices; 0 = no cap
	Chars     int64 // prompt characters, for providers that charge by them; 0 = unknown
}

// A Load is the sum of several demands, in the figures that a provider may
// charge by. Loads can be added and taken off; demands cannot, for a missing cap
// and a cap of zero are not the same.
type Load struct {
	Requests int64
	Input    int64 // prompt tokens, estimated
	Output   int64 // completion tokens expected
	Reserve  int64 // completion tokens allowed; where there is no cap, expected
	Capped   int64 // completion tokens allowed; where there is no cap, none
	Guess    int64 // prompt tokens as a provider guesses them: a quarter of the characters
}

// Load is d as a sum of one.
func (d Demand) Load() Load {
	l := Load{Requests: 1, Input: max(0, d.Input), Output: max(0, d.Output)}
	if d.MaxOutput > 0 {
		l.Output = min(l.Output, d.MaxOutput)
		l.Reserve, l.Capped = d.MaxOutput, d.MaxOutput
	} else {
		l.Reserve = l.Output
	}
	if l.Guess = (d.Chars + 3) / 4; d.Chars <= 0 {
		l.Guess = l.Input
	}
	return l
}

// Add adds o to l; with a sign of −1 it takes o off.
func (l *Load) Add(o Load, sign int64) {
	l.Requests += sign * o.Requests
	l.Input += sign * o.Input
	l.Output += sign * o.Output
	l.Reserve += sign * o.Reserve
	l.Capped += sign * o.Capped
	l.Guess += sign * o.Guess
}

// Tokens is what l may come to at most: its prompts, and the answers as allowed.
func (l Load) Tokens() int64 { return l.Input + l.Reserve }
