package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fixed parts of a prompt's token count.
const (
	replyTokens   = 3   // once per chat, primes the reply
	messageTokens = 3   // per message or input item
	imageTokens   = 85  // per image part, whatever its size
	mediaTokens   = 100 // per audio or file part
)

// maxInputs is OpenAI's bound of a list of inputs.
const maxInputs = 2048

// CountTokens counts text the way this provider bills it: a run of letters or
// of digits is one token and one more for every 6 runes beyond the first 6,
// every other rune that is not white space is one token.
func CountTokens(text string) int64 {
	var total, run int64
	kind := func(r rune) int {
		switch {
		case unicode.IsLetter(r):
			return 1
		case unicode.IsDigit(r):
			return 2
		}
		return 0
	}
	last := 0
	for _, r := range text {
		k := kind(r)
		if k == 0 || k != last {
			run = 0
		}
		last = k
		switch {
		case k == 0 && unicode.IsSpace(r):
		case k == 0, run%6 == 0:
			total++
		}
		run++
	}
	return total
}

// prompt is what counting needs to know of a request's input.
type prompt struct {
	tokens int64
	chars  int64 // runes of all text: what character-charging providers look at
	text   strings.Builder
}

func (p *prompt) add(text string) {
	p.tokens += CountTokens(text)
	p.chars += int64(utf8.RuneCountInString(text))
	p.text.WriteString(text)
	p.text.WriteByte('\n')
}

// content adds a message's content: a string, a list of parts, or null.
func (p *prompt) content(raw json.RawMessage) error {
	raw = bytes.TrimSpace(raw)
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return nil
	case raw[0] == '"':
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return err
		}
		p.add(text)
		return nil
	}
	var parts []struct{ Type, Text string }
	if err := json.Unmarshal(raw, &parts); err != nil {
		return fmt.Errorf("decode content parts: %w", err)
	}
	for _, part := range parts {
		switch part.Type {
		case "image_url", "input_image":
			p.tokens += imageTokens
		case "input_audio", "input_file", "file":
			p.tokens += mediaTokens
		default:
			p.add(part.Text)
		}
	}
	return nil
}

// item is a chat message or an input item of the Responses API.
type item struct {
	Type      string          `json:"type"`
	Role      string          `json:"role"`
	Name      string          `json:"name"`
	Content   json.RawMessage `json:"content"`
	Output    json.RawMessage `json:"output"`    // function_call_output
	Arguments string          `json:"arguments"` // function_call
	ToolCalls []struct {
		Function struct{ Name, Arguments string }
	} `json:"tool_calls"`
}

func (p *prompt) items(items []item) error {
	for _, m := range items {
		p.tokens += messageTokens
		if err := p.content(m.Content); err != nil {
			return err
		}
		if m.Name != "" {
			p.tokens++
		}
		if err := p.content(m.Output); err != nil {
			return err
		}
		if m.Arguments != "" {
			p.add(m.Arguments)
		}
		for _, call := range m.ToolCalls {
			p.add(call.Function.Name + " " + call.Function.Arguments)
		}
	}
	return nil
}

// inputs adds the prompt of completions or the input of embeddings: a string, a
// list of strings, a token array or a list of them. It returns how many there are.
func (p *prompt) inputs(raw json.RawMessage) (int, error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return 0, err
	}
	list, ok := v.([]any)
	if text, isText := v.(string); isText {
		p.add(text)
		return 1, nil
	}
	if !ok || len(list) == 0 {
		return 0, errors.New("input must be a string or a list that is not empty")
	}
	if _, flat := list[0].(float64); flat {
		p.tokenArray(int64(len(list)))
		return 1, nil
	}
	if len(list) > maxInputs {
		return 0, fmt.Errorf("input must have at most %d elements", maxInputs)
	}
	for _, element := range list {
		switch e := element.(type) {
		case string:
			p.add(e)
		case []any:
			p.tokenArray(int64(len(e)))
		default:
			return 0, errors.New("input holds neither strings nor tokens")
		}
	}
	return len(list), nil
}

// tokenArray adds ready tokens: exact by definition, four characters each.
func (p *prompt) tokenArray(n int64) {
	p.tokens += n
	p.chars += 4 * n
}

// number accepts every spelling of a whole JSON number, as providers do: 100, 1e2, 100.0.
type number int64

// UnmarshalJSON implements json.Unmarshaler.
func (n *number) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1e15 {
		return fmt.Errorf("expected an integer, but got %.20s", b)
	}
	*n = number(f)
	return nil
}
