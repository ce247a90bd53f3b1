package provider

import (
	"maps"
)

// object is a JSON object of the Responses API, whose shapes share most members.
type object = map[string]any

// maxContexts bounds the conversations remembered for previous_response_id.
const maxContexts = 10_000

// conversation returns the tokens of the conversation that id continues; 0 when unknown.
func (s *Server) conversation(id string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.contexts[id]
}

// remember keeps this answer's conversation for a later previous_response_id.
func (g *generation) remember() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.contexts) >= maxContexts {
		clear(g.contexts)
	}
	g.contexts["resp_"+g.id] = g.used.Input + g.used.Output
}

// response is the response object in one of its states.
func (g *generation) response(status string, output []any) object {
	r := object{
		"id": "resp_" + g.id, "object": "response", "created_at": g.entry.Time.Unix(), "status": status,
		"model": g.Model, "output": output, "error": nil, "incomplete_details": nil, "instructions": nil,
		"max_output_tokens": nil, "metadata": object{}, "parallel_tool_calls": true, "temperature": 1.0, "top_p": 1.0,
		"tool_choice": "auto", "tools": g.Tools, "previous_response_id": nil, "truncation": "disabled", "usage": nil,
	}
	if g.Tools == nil {
		r["tools"] = []any{}
	}
	if g.Instructions != "" {
		r["instructions"] = g.Instructions
	}
	if g.PreviousResponseID != "" {
		r["previous_response_id"] = g.PreviousResponseID
	}
	if g.limit > 0 {
		r["max_output_tokens"] = g.limit
	}
	if status == "incomplete" {
		r["incomplete_details"] = object{"reason": "max_output_tokens"}
	}
	return r
}

// finalStatus is completed, or incomplete when max_output_tokens ended it.
func (g *generation) finalStatus() string {
	if g.cut {
		return "incomplete"
	}
	return "completed"
}

func (g *generation) finalResponse() object {
	r := g.response(g.finalStatus(), []any{g.outputItem(g.finalStatus(), g.text(), toolArguments)})
	if usage := g.usageShape(g.used, false); usage != nil {
		r["usage"] = usage
	}
	return r
}

func (g *generation) responseBody() any { return g.finalResponse() }

// outputItem is the one thing the model says: a message or a function call.
func (g *generation) outputItem(status, text, arguments string) object {
	if g.tool != "" {
		return object{
			"id": "fc_" + g.id, "type": "function_call", "status": status,
			"call_id": "call_" + g.id, "name": g.tool, "arguments": arguments,
		}
	}
	content := []any{}
	if status != "in_progress" {
		content = append(content, textPart(text))
	}
	return object{"id": "msg_" + g.id, "type": "message", "status": status, "role": "assistant", "content": content}
}

func textPart(text string) object {
	return object{"type": "output_text", "text": text, "annotations": []any{}, "logprobs": []any{}}
}

func (g *generation) streamResponse() {
	sequence := 0
	send := func(name string, members object) {
		e := object{"type": name, "sequence_number": sequence}
		maps.Copy(e, members)
		sequence++
		g.event(name, e)
	}
	send("response.created", object{"response": g.response("in_progress", []any{})})
	send("response.in_progress", object{"response": g.response("in_progress", []any{})})
	if !g.think() {
		return
	}
	item := g.outputItem("in_progress", "", "")
	at := object{"item_id": item["id"], "output_index": 0}
	with := func(members object) object {
		all := maps.Clone(at)
		maps.Copy(all, members)
		return all
	}
	send("response.output_item.added", object{"output_index": 0, "item": item})
	if g.tool != "" {
		n := int(g.perChoice() - g.reasoning)
		for i := range n {
			if !g.step() {
				return
			}
			send("response.function_call_arguments.delta", with(object{"delta": fragment(i, n)}))
		}
		send("response.function_call_arguments.done", with(object{"arguments": toolArguments}))
	} else {
		at["content_index"] = 0
		send("response.content_part.added", with(object{"part": textPart("")}))
		for i := range g.words {
			if !g.step() {
				return
			}
			send("response.output_text.delta", with(object{"delta": g.delta(i), "logprobs": []any{}}))
		}
		send("response.output_text.done", with(object{"text": g.text(), "logprobs": []any{}}))
		send("response.content_part.done", with(object{"part": textPart(g.text())}))
	}
	send("response.output_item.done", object{"output_index": 0, "item": g.outputItem(g.finalStatus(), g.text(), toolArguments)})
	g.remember() // before the client can know the id's answer is complete
	g.end(func() { send("response."+g.finalStatus(), object{"response": g.finalResponse()}) })
}
