package tokens

import "github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"

// The framing that chat formats add, in tokens. Messages: openai-cookbook,
// How_to_count_tokens_with_tiktoken.ipynb. Tools are rendered as type definitions
// whose form is not published; the figures lie within a tenth of counts that
// others have measured (TestRequest_Tools).
const (
	perMessage = 4 // <|start|>role ... <|end|>
	perName    = 1
	perReply   = 3 // the answer is primed with <|start|>assistant
	perTools   = 9 // once
	perObject  = 4 // of a schema or a call
)

// parts is what a walk over a request has found.
type parts struct {
	text     text
	overhead int64
	media    int64
	model    llm.Model // whose image prices apply
	opaque   bool      // a reference to content kept elsewhere
}

// weigh walks all spans of a request.
func weigh(model llm.Model, r Request) parts {
	p := parts{model: model}
	if r.Body != nil {
		p.text = text{cost: int64(len(r.Body)) * (unit / 4), chars: int64(len(r.Body))}
		return p
	}
	if r.Messages != nil {
		p.overhead += perReply
		p.messages(&cursor{b: r.Messages})
	}
	if r.Prompt != nil {
		p.prompt(&cursor{b: r.Prompt})
	}
	if r.Instructions != nil {
		p.overhead += perMessage
		p.leaf(&cursor{b: r.Instructions})
	}
	if r.Tools != nil {
		p.tools(&cursor{b: r.Tools})
	}
	if r.Functions != nil {
		p.tools(&cursor{b: r.Functions})
	}
	if r.ResponseFormat != nil {
		p.tree(&cursor{b: r.ResponseFormat})
	}
	return p
}

// string weighs the JSON string at the cursor as text of its own.
func (p *parts) string(c *cursor) {
	c.i++
	c.i += p.text.scan(c.b[c.i:])
	if c.i < len(c.b) {
		c.i++
	}
}

// messages weighs an array of chat messages or of Responses items, or a string
// that stands for one message.
func (p *parts) messages(c *cursor) {
	if c.peek() == '"' {
		p.overhead += perMessage
		p.string(c)
		return
	}
	if !c.enter('[') {
		c.skip()
		return
	}
	for c.more(']') {
		switch c.peek() {
		case '{':
			p.overhead += perMessage
			p.message(c)
		default:
			p.content(c)
		}
	}
}

// message weighs one message or item. Members are known by name alone, so their
// order does not matter and no look ahead is needed.
func (p *parts) message(c *cursor) {
	c.i++
	for c.more('}') {
		switch string(c.key()) {
		case "content", "output", "summary":
			p.content(c)
		case "name":
			p.overhead += perName
			p.leaf(c)
		case "refusal", "arguments", "input", "text":
			p.leaf(c)
		case "tool_calls":
			p.calls(c)
		case "function_call":
			p.tree(c)
		case "encrypted_content", "file_id":
			p.opaque = p.opaque || c.peek() == '"'
			c.skip()
		case "type":
			if string(c.value()) == `"item_reference"` {
				p.opaque = true
			}
		default:
			c.skip()
		}
	}
}

// leaf weighs a string and skips anything else.
func (p *parts) leaf(c *cursor) {
	if c.peek() == '"' {
		p.string(c)
		return
	}
	c.skip()
}

// content weighs a message's content: a string, an array of parts, or one part
// (the screenshot of a computer_call_output).
func (p *parts) content(c *cursor) {
	switch c.peek() {
	case '"':
		p.string(c)
	case '{':
		p.part(c)
	case '[':
		c.i++
		for c.more(']') {
			switch c.peek() {
			case '"':
				p.string(c)
			case '{':
				p.part(c)
			default:
				c.skip()
			}
		}
	default:
		c.skip()
	}
}

// part weighs one content part.
func (p *parts) part(c *cursor) {
	var img image
	c.i++
	for c.more('}') {
		switch string(c.key()) {
		case "text", "refusal":
			p.leaf(c)
		case "image_url", "source":
			img.read(c)
		case "detail":
			img.low = string(c.value()) == `"low"`
		case "input_audio":
			p.media += audioTokens(c)
		case "video_url":
			p.media += fileRemote
			c.skip()
		case "file":
			p.file(c)
		case "file_data", "file_url":
			p.media += fileTokens(c)
		case "file_id":
			p.opaque = p.opaque || c.peek() == '"'
			c.skip()
		default:
			c.skip()
		}
	}
	if img.found {
		p.media += priceOf(p.model).cost(img)
	}
}

// file weighs {"file_data": ...} or {"file_id": ...}.
func (p *parts) file(c *cursor) {
	if !c.enter('{') {
		c.skip()
		return
	}
	for c.more('}') {
		switch string(c.key()) {
		case "file_data":
			p.media += fileTokens(c)
		case "file_id":
			p.opaque = true
			c.skip()
		default:
			c.skip()
		}
	}
}

// calls weighs the tool calls of an assistant message.
func (p *parts) calls(c *cursor) {
	if !c.enter('[') {
		c.skip()
		return
	}
	for c.more(']') {
		if !c.enter('{') {
			c.skip()
			continue
		}
		for c.more('}') {
			switch string(c.key()) {
			case "function", "custom":
				p.tree(c)
			default:
				c.skip()
			}
		}
	}
}
