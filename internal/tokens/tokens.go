package tokens

import "github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"

// Key says whose request it is. Model alone selects the tokenizer's ratio; Client
// and Session narrow it to one conversation. A client's requests without a
// session share the empty one.
type Key struct {
	Model           llm.Model
	Client, Session string
}

// Request is what a request carries: raw JSON values, cut out of its body as they
// came, and the few numbers that bound its answer. A nil span means the field was
// absent. Spans are read, never kept and never changed.
type Request struct {
	Messages       []byte // chat: array of messages; responses: string or items
	Prompt         []byte // completions and embeddings: string, strings, tokens or arrays of tokens
	Instructions   []byte // responses: string
	Tools          []byte // chat and responses: array of tool definitions
	Functions      []byte // chat, the older spelling of tools
	ResponseFormat []byte // chat: response_format; responses: text.format

	// Body is set instead of all others when the body is no JSON object and can
	// only be weighed by its size.
	Body []byte

	NoOutput  bool  // no completion is produced
	MaxOutput int64 // the client's own cap per choice in tokens, 0 for none
	Choices   int64 // n, or best_of where that is larger; 0 counts as 1

	PreviousResponseID string // responses: context kept by the upstream
	OpaqueContext      bool   // other context out of sight: conversation, prompt template, file ids
	Effort             string // reasoning effort; it shifts the expected completion
}

// Estimate is what a request is expected to cost, in tokens. Raw, Overhead and
// Media are what was seen in the request, before calibration. The Demand's Input
// is all three, calibrated to the model and session. No field is ever negative.
type Estimate struct {
	Raw      int64 // text, by the byte heuristic
	Overhead int64 // what the formats add: message framing, token arrays, remembered context
	Media    int64 // images, audio and files, by their documented prices

	llm.Demand

	// Unknown marks a prompt with context that cannot be seen from here. Such a
	// request teaches nothing about the tokenizer.
	Unknown bool

	wide    int64  // the part of Raw beyond ASCII
	hidden  int64  // the part of Overhead that only guesses at context out of sight
	choices int64  // what Observe needs to know of the request
	effort  string //
}
