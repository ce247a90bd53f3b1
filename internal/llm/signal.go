package llm

import "time"

// A Level is one limit as an answer's headers describe it.
type Level struct {
	Limit, Remaining                 int64
	Reset                            time.Duration // until the limit is full again
	Period                           time.Duration // that the limit is for; 0 = the answer does not say
	HasLimit, HasRemaining, HasReset bool
}

// A Signal is what an answer says about the provider's limits: the headers of
// any answer, and of a 429 also the numbers in its text. What is absent is zero.
type Signal struct {
	Levels [NumDimensions]Level

	RetryAfter    time.Duration
	HasRetryAfter bool

	Dimension              Dimension     // of a 429: the limit that it is about; None = not said
	Group                  Model         // of a 429: whose limit it is, as the provider calls it; aliases of one limit share it
	Period                 time.Duration // of a 429: of the limit that it is about; 0 = not said
	Limit, Used, Requested int64         // of a 429: the numbers in its text; 0 = not said
	Said                   string        // of a 429: the provider's word, shortened, without secrets, on one line

	// Profile is "openai", "azure" or "anthropic" where host or headers show whose
	// dialect the answer speaks; "" = they do not.
	Profile string
}
