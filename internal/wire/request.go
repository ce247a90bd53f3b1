package wire

import (
	"bytes"
	"math"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/responses"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// Request is a typed view beside the client's raw bytes. It never replaces
// them: what the view does not understand still goes up unchanged.
//
// Reading order: Decode, then the tables of fields.go that say what is done
// with each field, then Upstream in splice.go.
type Request struct {
	Endpoint Endpoint
	Raw      []byte // the client's bytes, not copied: the caller must not change them
	Valid    bool   // Raw is one JSON object; if not, everything below is zero

	Model      llm.Model
	Stream     bool
	MaxOutput  int64 // tokens: the largest of max_completion_tokens, max_tokens, max_output_tokens; 0 = none
	N, BestOf  int64 // 0 = not sent
	WantsUsage bool  // the client's own stream_options.include_usage is true

	// The SDK's own struct of the endpoint; the other three are nil. It holds the
	// small fields only: the spans below stay raw until one of the methods of
	// typed.go is asked for them. It must not be encoded: see TestDecode_WhatTheSDKLoses.
	Chat       *openai.ChatCompletionNewParams
	Completion *openai.CompletionNewParams
	Response   *responses.ResponseNewParams
	Embedding  *openai.EmbeddingNewParams

	// Spans of Raw, nil = absent or null. Their type is not checked.
	Messages, Prompt, Input, Instructions []byte
	Tools, Functions, ResponseFormat      []byte // ResponseFormat is text.format in Responses

	PreviousResponseID string
	OpaqueContext      bool   // context that the body only names: a conversation, a stored prompt, item references
	Effort             string // reasoning effort, "" = not sent

	streamEnd    int    // offset in Raw after the value of stream
	options      []byte // the value of stream_options, a span of Raw
	optionsAt    int    // its offset
	optionsAlias bool   // stream_options is there in a spelling that only some parsers take for it
	duplicate    string // a metered field inside a member, named twice
}

// A DuplicateFieldError says that a body names a metered field twice, so that
// two parsers would read two requests: encoding/json takes the last and ignores
// case, the openai-go SDK takes the first. It is to be answered with 400.
type DuplicateFieldError struct {
	Field string
}

func (e *DuplicateFieldError) Error() string {
	return "decode request: field " + e.Field + " is named twice"
}

// Decode reads a request body in one pass. A body that is not a JSON object,
// and a field of the wrong type, are no errors: the view says unknown and the
// upstream judges. The only error is a *DuplicateFieldError; the view beside it
// is then not to be used.
func Decode(ep Endpoint, body []byte) (*Request, error) {
	r := &Request{Endpoint: ep, Raw: body}
	fields := r.begin()
	if fields == nil {
		return r, nil
	}
	var (
		m         = membersOf(body)
		seen      uint64
		duplicate string
	)
	for m.next() {
		i, exact := fields.lookup(m.name)
		if i < 0 || !exact && !fields.list[i].metered {
			continue
		}
		f, bit := &fields.list[i], uint64(1)<<i
		if seen&bit != 0 {
			if f.metered && duplicate == "" {
				duplicate = f.name
			}
			continue // the first wins in the view, so a hostile body decodes each field once
		}
		seen |= bit
		if exact {
			f.set(r, m.value, m.at)
		} else if f.name == "stream_options" {
			r.optionsAlias = true
		}
	}
	// Validity first: what is not JSON names nothing twice, and goes up as it came.
	if !m.valid() {
		return &Request{Endpoint: ep, Raw: body}, nil
	}
	if duplicate == "" {
		duplicate = r.duplicate
	}
	if duplicate != "" {
		return nil, &DuplicateFieldError{Field: duplicate}
	}
	r.Valid = true
	return r, nil
}

// begin makes the SDK struct of the endpoint and returns the endpoint's fields.
func (r *Request) begin() *fieldTable {
	switch r.Endpoint {
	case Chat:
		r.Chat = new(openai.ChatCompletionNewParams)
		return chatFields
	case Completions:
		r.Completion = new(openai.CompletionNewParams)
		return completionFields
	case Responses:
		r.Response = new(responses.ResponseNewParams)
		return responseFields
	case Embeddings:
		r.Embedding = new(openai.EmbeddingNewParams)
		return embeddingFields
	default:
		return nil
	}
}

// setMaxOutput takes the largest of the caps a body names: which one an
// upstream obeys is its own affair, and a cap must not be a way to weigh less.
func (r *Request) setMaxOutput(v []byte) { r.MaxOutput = max(r.MaxOutput, countValue(v)) }

// countValue reads a count that an upstream could accept; 0 = unknown. The
// bound keeps products of two counts inside int64.
func countValue(v []byte) int64 {
	n, ok := intValue(v)
	if !ok || n < 0 || n > math.MaxInt32 {
		return 0
	}
	return n
}

// setStreamOptions notes where the member stands for Upstream.
func (r *Request) setStreamOptions(v []byte, at int) {
	r.options, r.optionsAt = v, at
	seen := false
	for m := membersOf(v); m.next(); {
		if !bytes.EqualFold(unescape(m.name), []byte(includeUsage)) {
			continue
		}
		if seen {
			r.duplicate = "stream_options." + includeUsage
		}
		seen = true
		if nameIs(m.name, includeUsage) {
			r.WantsUsage, _ = boolValue(m.value)
		}
	}
}

// span returns a heavy field's bytes, nil for null.
func span(v []byte) []byte {
	if isNull(v) {
		return nil
	}
	return v
}

// setInput also looks for items that only point at stored ones. The search may
// find the words in a member it does not mean; the estimate is then merely not
// learned from.
func (r *Request) setInput(v []byte) {
	r.Input = span(v)
	if bytes.Contains(v, []byte(`"item_reference"`)) {
		r.OpaqueContext = true
	}
}
