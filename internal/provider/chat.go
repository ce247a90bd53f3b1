package provider

import (
	"encoding/json"
	"strings"
)

// toolArguments is what every simulated function call is called with.
const toolArguments = `{"input":"now"}`

type chatAnswer struct {
	ID                string          `json:"id"`
	Object            string          `json:"object"`
	Created           int64           `json:"created"`
	Model             string          `json:"model"`
	Choices           []any           `json:"choices"`
	Usage             json.RawMessage `json:"usage,omitempty"`
	ServiceTier       string          `json:"service_tier,omitempty"`
	SystemFingerprint string          `json:"system_fingerprint"`
}

type chatChoice struct {
	Index        int          `json:"index"`
	Message      *chatMessage `json:"message,omitempty"`
	Delta        any          `json:"delta,omitempty"`
	Logprobs     any          `json:"logprobs"`
	FinishReason *string      `json:"finish_reason"`
}

type chatMessage struct {
	Role        string     `json:"role"`
	Content     *string    `json:"content"`
	ToolCalls   []toolCall `json:"tool_calls,omitempty"`
	Refusal     *string    `json:"refusal"`
	Annotations []any      `json:"annotations"`
}

type toolCall struct {
	Index    *int         `json:"index,omitempty"` // in streams only
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"`
	Function toolFunction `json:"function"`
}

type toolFunction struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

func (g *generation) chatAnswer(object string, choices ...any) chatAnswer {
	if choices == nil {
		choices = []any{} // [] on the wire, not null
	}
	return chatAnswer{
		ID: "chatcmpl-" + g.id, Object: object, Created: g.entry.Time.Unix(), Model: g.Model,
		Choices: choices, ServiceTier: "default", SystemFingerprint: "fp_simulated",
	}
}

// finishReason tells why the answer ended.
func (g *generation) finishReason() *string {
	reason := "stop"
	switch {
	case g.tool != "":
		reason = "tool_calls"
	case g.cut:
		reason = "length"
	}
	return &reason
}

func (g *generation) text() string { return strings.Join(g.words, " ") }

// delta returns the text of the i-th token: joined, they are the text.
func (g *generation) delta(i int) string {
	if i == 0 {
		return g.words[i]
	}
	return " " + g.words[i]
}

// fragment returns the part of the function's arguments that the i-th of n tokens carries.
func fragment(i, n int) string {
	return toolArguments[i*len(toolArguments)/n : (i+1)*len(toolArguments)/n]
}

func (g *generation) chatBody() any {
	answer := g.chatAnswer("chat.completion")
	for i := range g.n {
		message := &chatMessage{Role: "assistant", Annotations: []any{}}
		if g.tool != "" {
			message.ToolCalls = []toolCall{{ID: "call_" + g.id, Type: "function", Function: toolFunction{g.tool, toolArguments}}}
		} else {
			text := g.text()
			message.Content = &text
		}
		answer.Choices = append(answer.Choices, chatChoice{Index: i, Message: message, FinishReason: g.finishReason()})
	}
	answer.Usage = g.usageShape(g.used, true)
	return answer
}

func (g *generation) streamChat() {
	type delta = map[string]any
	chunk := func(d delta, finish *string) {
		for i := range g.n {
			g.oldChunk(g.chatAnswer("chat.completion.chunk", chatChoice{Index: i, Delta: d, FinishReason: finish}))
		}
	}
	if !g.think() {
		return
	}
	if g.tool != "" {
		first := toolCall{Index: new(int), ID: "call_" + g.id, Type: "function", Function: toolFunction{Name: g.tool}}
		chunk(delta{"role": "assistant", "content": nil, "tool_calls": []toolCall{first}, "refusal": nil}, nil)
		n := int(g.perChoice() - g.reasoning)
		for i := range n {
			if !g.step() {
				return
			}
			chunk(delta{"tool_calls": []toolCall{{Index: new(int), Function: toolFunction{Arguments: fragment(i, n)}}}}, nil)
		}
	} else {
		chunk(delta{"role": "assistant", "content": "", "refusal": nil}, nil)
		for i := range g.words {
			if !g.step() {
				return
			}
			chunk(delta{"content": g.delta(i)}, nil)
		}
	}
	chunk(delta{}, g.finishReason())
	g.endOld(g.chatAnswer("chat.completion.chunk"))
}

// asked tells whether the client asked for the usage of its stream.
func (g *generation) asked() bool { return g.StreamOptions != nil && g.StreamOptions.IncludeUsage }

// oldChunk sends one chunk of a chat or completion. Where usage was asked for, all
// chunks but the last carry a null.
func (g *generation) oldChunk(a chatAnswer) {
	switch {
	case g.fault.usage == usageEverywhere:
		a.Usage = g.usageShape(g.used, true)
	case g.asked() && g.fault.usage != usageNone:
		a.Usage = null
	}
	g.event("", a)
}

// endOld sends the usage chunk, which has no choices, and [DONE].
func (g *generation) endOld(a chatAnswer) {
	a.Usage = g.usageShape(g.used, true)
	if g.asked() && a.Usage != nil {
		g.event("", a)
		if g.fault.usage == usageTwice {
			g.event("", a)
		}
	}
	g.end(func() { g.event("", "[DONE]") })
}
