package provider

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// endpoint is a metered route.
type endpoint string

const (
	chat       endpoint = "/v1/chat/completions"
	completion endpoint = "/v1/completions"
	responses  endpoint = "/v1/responses"
	embeddings endpoint = "/v1/embeddings"
)

// request is a decoded metered body: only what the simulation acts on.
type request struct {
	Model               string            `json:"model"`
	Messages            []item            `json:"messages"`
	Prompt              json.RawMessage   `json:"prompt"`
	Input               json.RawMessage   `json:"input"`
	Instructions        string            `json:"instructions"`
	PreviousResponseID  string            `json:"previous_response_id"`
	MaxTokens           number            `json:"max_tokens"`
	MaxCompletionTokens number            `json:"max_completion_tokens"`
	MaxOutputTokens     number            `json:"max_output_tokens"`
	N                   number            `json:"n"`
	BestOf              number            `json:"best_of"`
	Stream              bool              `json:"stream"`
	StreamOptions       *streamOptions    `json:"stream_options"`
	Tools               []json.RawMessage `json:"tools"`
	ToolChoice          json.RawMessage   `json:"tool_choice"`
	Dimensions          number            `json:"dimensions"`
	EncodingFormat      string            `json:"encoding_format"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// work is a request understood: what it costs and what will be answered.
type work struct {
	request
	prompt prompt
	inputs int   // prompts of completions, inputs of embeddings
	cached int64 // prompt tokens reported as cached
	limit  int64 // max tokens of one choice; 0: none
	choices
}

// choices is the planned answer; all of them have the same length.
type choices struct {
	n         int
	reasoning int64 // tokens billed per choice and not shown
	words     []string
	tool      string // name of the function called instead of speaking
	cut       bool   // the limit ended it
}

// errMissing names a required parameter that is absent.
type errMissing string

func (e errMissing) Error() string {
	return fmt.Sprintf("Missing required parameter: '%s'.", string(e))
}

// parse decodes body for ep and counts its prompt; plan decides the answer. Its errors
// are for refuseParse: encoding/json's own, errMissing, or texts to show as they are.
func parse(ep endpoint, body []byte) (*work, error) {
	w := &work{}
	if err := json.Unmarshal(body, &w.request); err != nil {
		return nil, err
	}
	if w.Model == "" {
		return nil, errMissing("model")
	}
	var err error
	switch ep {
	case chat:
		if len(w.Messages) == 0 {
			return nil, errMissing("messages")
		}
		w.prompt.tokens += replyTokens
		err = w.prompt.items(w.Messages)
	case completion:
		if len(w.Prompt) == 0 {
			return nil, errMissing("prompt")
		}
		w.inputs, err = w.prompt.inputs(w.Prompt)
	case embeddings:
		if len(w.Input) == 0 {
			return nil, errMissing("input")
		}
		w.inputs, err = w.prompt.inputs(w.Input)
	case responses:
		if len(w.Input) == 0 && w.PreviousResponseID == "" {
			return nil, errMissing("input")
		}
		err = w.responsesInput()
	}
	if err != nil {
		return nil, err
	}
	for _, tool := range w.Tools {
		w.prompt.tokens += CountTokens(string(tool))
		w.prompt.chars += int64(len(tool))
	}
	// The newer name wins where a client sends both.
	w.limit = int64(w.MaxTokens)
	for _, n := range []number{w.MaxCompletionTokens, w.MaxOutputTokens} {
		if n > 0 {
			w.limit = int64(n)
		}
	}
	if w.limit < 0 || w.N < 0 || w.N > 128 || w.BestOf < 0 || w.BestOf > 20 {
		return nil, errors.New("max_tokens, n or best_of is out of range")
	}
	return w, nil
}

// responsesInput counts what only the Responses API has: instructions beside a string or items.
func (w *work) responsesInput() error {
	if w.Instructions != "" {
		w.prompt.tokens += messageTokens
		w.prompt.add(w.Instructions)
	}
	if len(w.Input) > 0 && w.Input[0] == '[' {
		var items []item
		if err := json.Unmarshal(w.Input, &items); err != nil {
			return err
		}
		return w.prompt.items(items)
	}
	w.prompt.tokens += messageTokens
	return w.prompt.content(w.Input)
}

// PromptTokens returns what a request to path with this body is billed for its
// prompt, context of previous_response_id excepted.
func PromptTokens(path string, body []byte) (int64, error) {
	w, err := parse(endpoint(path), body)
	if err != nil {
		return 0, fmt.Errorf("count prompt of %s: %w", path, err)
	}
	return w.prompt.tokens, nil
}

// Expect returns the usage that a request to path with this body will be told,
// context of previous_response_id excepted.
func (s *Server) Expect(path string, body []byte) (Used, error) {
	w, err := parse(endpoint(path), body)
	if err != nil {
		return Used{}, fmt.Errorf("expect usage of %s: %w", path, err)
	}
	s.plan(endpoint(path), w)
	return w.used(), nil
}

// used is the usage of the complete answer.
func (w *work) used() Used {
	return Used{Input: w.prompt.tokens, Cached: w.cached, Output: int64(w.n) * w.perChoice()}
}

// perChoice is the completion tokens of one choice.
func (w *work) perChoice() int64 {
	if w.tool != "" {
		return w.reasoning + CountTokens(w.tool+" "+toolArguments)
	}
	return w.reasoning + int64(len(w.words))
}

// ask is the request as the account sees it.
func (w *work) ask() Ask {
	n := max(1, int64(w.N), int64(w.BestOf))
	if w.inputs > 0 {
		n *= int64(w.inputs)
	}
	return Ask{Input: w.prompt.tokens, Chars: w.prompt.chars, MaxOutput: w.limit, N: n}
}

// directive finds the phrases that steer an answer; see the package comment.
var directive = regexp.MustCompile(`(?i)\b(say|think|cached|call) ([A-Za-z0-9_-]+)`)

const (
	directiveReach = 4 << 10 // bytes of the prompt's end that are searched for them
	maxAnswer      = 100_000 // tokens of each kind that a directive may ask for
)

// vocabulary's words count one token each: six letters at most.
var vocabulary = strings.Fields(`the queue holds a fair share of every call and no one waits for long
	while tokens flow in order under their own limit so each agent gets its turn again`)

// plan decides the answer: length, words, tool.
func (s *Server) plan(ep endpoint, w *work) {
	if ep == embeddings {
		return
	}
	text := w.prompt.text.String()
	sum := fnv.New64a()
	fmt.Fprintf(sum, "%d\x00%s\x00%s", s.cfg.Seed, w.Model, text)
	h := mix(sum.Sum64())

	mean := uint64(max(2, s.cfg.Output))
	length := int64(mean/2 + h%(mean+1))
	text = text[max(0, len(text)-directiveReach):]
	for _, d := range directive.FindAllStringSubmatch(text, -1) {
		n, err := strconv.ParseInt(d[2], 10, 64)
		n = min(max(n, 0), maxAnswer)
		verb := strings.ToLower(d[1])
		switch {
		case verb == "call" && w.declares(d[2]):
			w.tool = d[2]
		case verb == "call" || err != nil:
		case verb == "say":
			length = n
		case verb == "think":
			w.reasoning = n
		case verb == "cached":
			w.cached = min(n, w.prompt.tokens)
		}
	}
	if len(w.Tools) > 0 {
		w.tool = cmp.Or(w.tool, w.forcedTool())
	}
	if ep == completion {
		w.tool, w.reasoning = "", 0 // the old API has neither
	}
	w.n = max(1, int(w.N)) * max(1, w.inputs)
	if w.tool != "" {
		return
	}
	if w.limit > 0 && w.reasoning+length > w.limit {
		w.cut = true
		w.reasoning = min(w.reasoning, w.limit)
		length = w.limit - w.reasoning
	}
	w.words = make([]string, length)
	for i := range w.words {
		h = mix(h)
		w.words[i] = vocabulary[h%uint64(len(vocabulary))]
	}
}

// toolName reads a function's name as either API spells it: inside "function" or beside it.
func toolName(raw json.RawMessage) string {
	var tool struct {
		Name     string
		Function struct{ Name string }
	}
	if json.Unmarshal(raw, &tool) != nil {
		return ""
	}
	return cmp.Or(tool.Function.Name, tool.Name)
}

// declares tells whether the request declares a function of that name.
func (w *work) declares(name string) bool {
	return slices.ContainsFunc(w.Tools, func(raw json.RawMessage) bool { return toolName(raw) == name })
}

// forcedTool is the function that tool_choice insists on, if any.
func (w *work) forcedTool() string {
	if string(w.ToolChoice) == `"required"` {
		return toolName(w.Tools[0])
	}
	return toolName(w.ToolChoice)
}

// mix is the finaliser of splitmix64: one step of a deterministic sequence.
func mix(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
