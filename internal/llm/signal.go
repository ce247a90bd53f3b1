package llm

import "time"

// A Level is one limit as an answer's headers describe it.
type Level struct {
	Limit, Remaining                 int64
	Reset                            time.Duration // until the limit is full again
	HasLimit, HasRemaining, HasReset bool
}

// A Signal is what an answer says about the provider's limits: the headers of
// any answer, and of a 429 also the numbers in its text. What is absent is zero.
type Signal struct {
	Levels [NumDimensions]Level

	RetryAfter    time.Duration
	HasRetryAfter bool

	Dimension              Dimension // of a 429: the limit that it is about; None = not said
	Group                  Model     // of a 429: whose limit it is, as the provider calls it; aliases of one limit share it
	Limit, Used, Requested int64     // of a 429: the numbers in its text; 0 = not said

	// Profile is "openai", "azure" or "anthropic" where host or headers show whose
	// dialect the answer speaks; "" = they do not.
	Profile string
}
