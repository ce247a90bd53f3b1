package llm

// A Dimension is one kind of limit. A request is charged in all of them at once.
type Dimension uint8

// The dimensions. Their order is the order of status pages. Nobody limits images
// and audio here yet; they have their places so that a Vector need not change.
const (
	None         Dimension = iota // unknown, or no limit at all
	Requests                      // a minute
	Tokens                        // a minute, input and output
	InputTokens                   // a minute
	OutputTokens                  // a minute
	Images                        // a minute
	AudioSeconds                  // a minute
	RequestsDay
	TokensDay
	Concurrent // requests in flight
	NumDimensions
)

var dimensionNames = [NumDimensions]string{
	"",
	"requests_per_minute",
	"tokens_per_minute",
	"input_tokens_per_minute",
	"output_tokens_per_minute",
	"images_per_minute",
	"audio_seconds_per_minute",
	"requests_per_day",
	"tokens_per_day",
	"concurrent",
}

// String is the word that settings, status pages and metrics use; "" for None.
func (d Dimension) String() string {
	if d >= NumDimensions {
		return ""
	}
	return dimensionNames[d]
}

// Daily reports whether d is a limit per day.
func (d Dimension) Daily() bool { return d == RequestsDay || d == TokensDay }

// A Vector is an amount in each dimension: requests, tokens, images, seconds of
// audio, places.
type Vector [NumDimensions]float64

// Add adds o to v; with a sign of −1 it takes o off.
func (v *Vector) Add(o Vector, sign float64) {
	for d := range v {
		v[d] += sign * o[d]
	}
}
