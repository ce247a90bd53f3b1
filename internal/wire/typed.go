package wire

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/responses"
)

// The heavy spans as SDK types, decoded when asked for. They cost what the SDK
// costs, some ten to fifteen times the span in garbage, and lose what it loses:
// they are for reading. An absent span is no error and decodes to nothing.

// errLossy says that the SDK dropped what it could not place, without an error of its own.
var errLossy = errors.New("the SDK's types do not hold it")

// ChatMessages decodes the messages of a chat request.
func (r *Request) ChatMessages() ([]openai.ChatCompletionMessageParamUnion, error) {
	return decodeSpan[[]openai.ChatCompletionMessageParamUnion]("messages", r.Messages)
}

// ChatTools decodes the tools of a chat request.
func (r *Request) ChatTools() ([]openai.ChatCompletionToolParam, error) {
	return decodeSpan[[]openai.ChatCompletionToolParam]("tools", r.Tools)
}

// CompletionPrompt decodes the prompt of a completions request: a text, texts,
// tokens or arrays of tokens.
func (r *Request) CompletionPrompt() (openai.CompletionNewParamsPromptUnion, error) {
	return decodeSpan[openai.CompletionNewParamsPromptUnion]("prompt", r.Prompt)
}

// EmbeddingInput decodes the input of an embeddings request, of the same four forms.
func (r *Request) EmbeddingInput() (openai.EmbeddingNewParamsInputUnion, error) {
	return decodeSpan[openai.EmbeddingNewParamsInputUnion]("input", r.Input)
}

// ResponseTools decodes the tools of a responses request.
func (r *Request) ResponseTools() ([]responses.ToolUnionParam, error) {
	return decodeSpan[[]responses.ToolUnionParam]("tools", r.Tools)
}

// ResponseInput decodes the input of a responses request. The SDK's own decoder
// drops a whole input whose items carry no "type", the usual form of messages,
// so the items are decoded one by one and such an item as the message it is.
func (r *Request) ResponseInput() (responses.ResponseNewParamsInputUnion, error) {
	var u responses.ResponseNewParamsInputUnion
	if len(r.Input) == 0 || r.Input[0] != '[' {
		return decodeSpan[responses.ResponseNewParamsInputUnion]("input", r.Input)
	}
	var items []json.RawMessage
	if err := json.Unmarshal(r.Input, &items); err != nil {
		return u, fmt.Errorf("decode input: %w", err)
	}
	u.OfInputItemList = make(responses.ResponseInputParam, 0, len(items))
	for i, raw := range items {
		item, err := responseItem(raw)
		if err != nil {
			return u, fmt.Errorf("decode input item %d: %w", i, err)
		}
		u.OfInputItemList = append(u.OfInputItemList, item)
	}
	return u, nil
}

func responseItem(raw []byte) (item responses.ResponseInputItemUnionParam, err error) {
	typed := false
	for m := membersOf(raw); m.next(); {
		typed = typed || nameIs(m.name, "type")
	}
	if !typed {
		item.OfMessage = new(responses.EasyInputMessageParam)
		return item, json.Unmarshal(raw, item.OfMessage)
	}
	if err = json.Unmarshal(raw, &item); err == nil && item == (responses.ResponseInputItemUnionParam{}) {
		err = errLossy
	}
	return item, err
}

func decodeSpan[T any](name string, span []byte) (t T, err error) {
	if span == nil {
		return t, nil
	}
	if err = json.Unmarshal(span, &t); err != nil {
		return t, fmt.Errorf("decode %s: %w", name, err)
	}
	return t, nil
}
