package wire

import (
	"bytes"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// Request is a typed view beside the client's raw bytes. It never replaces
// them: what the view does not understand still goes up unchanged.
//
// Reading order: Decode, then fields.go, which walks the body, then the tables
// of parsers.go that say what is done with each field, then Splice in splice.go.
type Request struct {
	Endpoint Endpoint
	Raw      []byte // the client's bytes, not copied: the caller must not change them
	Valid    bool   // Raw is one JSON object; if not, everything below is zero

	Model              llm.Model
	Stream             bool
	MaxOutput          int64  // tokens of each choice: the largest cap that the body names; 0 = none
	Choices            int64  // n, or best_of if that is larger; 0 = not sent
	Effort             string // reasoning effort, "" = not sent
	PreviousResponseID string
	OpaqueContext      bool // context that the body only names: a conversation, a stored prompt, item references

	// Spans of Raw that the prompt's tokens are in, nil = absent or null. Their
	// type is not checked.
	Messages       []byte // messages; input of Responses
	Prompt         []byte // prompt of completions; input of embeddings
	Instructions   []byte
	Tools          []byte
	Functions      []byte
	ResponseFormat []byte // text.format in Responses

	// What the splice needs.
	wantsUsage   bool   // the client's own stream_options.include_usage is true
	streamEnd    int    // offset in Raw after the value of stream
	options      member // stream_options
	optionsAlias bool   // stream_options is there in a spelling that only some parsers take for it
	duplicate    string // a field inside a member, named twice
}

// A DuplicateFieldError says that a body names a field twice that we act on. Two
// parsers would then read two requests: encoding/json takes the last and ignores
// case, the openai-go SDK takes the first. It is to be answered with 400.
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
	r := &Request{Endpoint: ep, Raw: body}
	if !ep.Decoded() {
		return r, nil
	}
	duplicate, ok := ep.format().parse(r)
	switch {
	case !ok: // it names nothing twice, and goes up as it came
		return &Request{Endpoint: ep, Raw: body}, nil
	case duplicate != "":
		return nil, &DuplicateFieldError{Field: duplicate}
	}
	r.Valid = true
	return r, nil
}

// setStream believes the literal true only. Some servers also take 1 or "true";
// their streams then come without a usage chunk, and their usage is unknown.
func (c *reading[P]) setStream() {
	c.Stream, _ = boolValue(c.value)
	c.streamEnd = c.at + len(c.value)
}

// setStreamOptions notes where the member stands for Splice.
func (c *reading[P]) setStreamOptions() {
	c.options = c.member
	seen := false
	for m := membersOf(c.value); m.next(); {
		if !bytes.EqualFold(unescape(m.name), []byte(includeUsage)) {
			continue
		}
		if seen {
			c.duplicate = "stream_options." + includeUsage
		}
		seen = true
		if nameIs(m.name, includeUsage) {
			c.wantsUsage, _ = boolValue(m.value)
		}
	}
}

// setItems takes the input of Responses, and looks for items that only point at
// stored ones. The search may find the words in a member it does not mean; the
// estimate is then merely not learned from.
func (c *reading[P]) setItems() {
	c.Messages = span(c.value)
	if bytes.Contains(c.value, []byte(`"item_reference"`)) {
		c.OpaqueContext = true
	}
}

// setContext notes a member that names context which the body does not hold.
func (c *reading[P]) setContext() { c.OpaqueContext = c.OpaqueContext || !isNull(c.value) }
