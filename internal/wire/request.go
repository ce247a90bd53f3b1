package wire

import (
	"github.com/openai/openai-go"
	"github.com/openai/openai-go/responses"
)

// Request is a typed view beside the client's raw bytes. It never replaces
// them: what the view does not understand still goes up unchanged.
type Request struct {
	Endpoint Endpoint
	Raw      []byte // the client's bytes, not copied: the caller must not change them
	Valid    bool   // Raw is one JSON object; if not, everything below is zero

	Model      string
	Stream     bool
	MaxOutput  int64 // max_completion_tokens, max_tokens or max_output_tokens; 0 = none
	N, BestOf  int64 // 0 = not sent
	WantsUsage bool  // the client's own stream_options.include_usage is true

	// The SDK's own struct of the endpoint, with the small fields decoded; the
	// other three are nil. The heavy ones below are decoded by those who ask.
	Chat       *openai.ChatCompletionNewParams
	Completion *openai.CompletionNewParams
	Response   *responses.ResponseNewParams
	Embedding  *openai.EmbeddingNewParams

	// Spans of Raw, nil = absent or null.
	Messages, Prompt, Input, Instructions []byte
	Tools, Functions, ResponseFormat      []byte

	PreviousResponseID string
	OpaqueContext      bool   // context that the body only names: a conversation, a stored prompt, item references
	Effort             string // reasoning effort, "" = not sent
}

// A DuplicateFieldError says that a body names a metered field twice, so that
// two parsers would read two requests. It is to be answered with 400.
type DuplicateFieldError struct {
	Field string
}

func (e *DuplicateFieldError) Error() string {
	return "decode request: field " + e.Field + " is named twice"
}

// Decode reads a request body in one pass. A body that is not a JSON object,
// and a field of the wrong type, are no errors: the view says unknown and the
// upstream judges. The only error is a *DuplicateFieldError.
func Decode(ep Endpoint, body []byte) (*Request, error) {
	return &Request{Endpoint: ep, Raw: body}, nil
}

// Upstream returns the body to send: Raw itself, or, for a chat or completions
// stream whose client did not ask for usage, a copy with include_usage spliced in.
func (r *Request) Upstream() (body []byte, spliced bool) { return r.Raw, false }

// ChatMessages decodes the messages of a chat request into SDK types.
func (r *Request) ChatMessages() ([]openai.ChatCompletionMessageParamUnion, error) { return nil, nil }
