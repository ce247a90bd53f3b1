package wire

import (
	"bytes"
	"encoding/json"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/packages/param"
	"github.com/openai/openai-go/shared"
)

// field says what is done with one member of a request's top level.
type field struct {
	name    string
	metered bool // we act on it: naming it twice is refused
	set     func(r *Request, v []byte, at int)
}

// fieldTable finds fields by name. At most 64: Decode marks them in one word.
type fieldTable struct {
	list   []field
	byName map[string]int
}

func newFieldTable(list ...field) *fieldTable {
	t := &fieldTable{list: list, byName: make(map[string]int, len(list))}
	for i, f := range list {
		t.byName[f.name] = i
	}
	return t
}

// lookup returns the index of the field that a raw name means, -1 for none.
// exact is false for a name that only some parsers take for it, those that
// ignore case: enough to see a duplicate, not enough to believe the value.
func (t *fieldTable) lookup(raw []byte) (i int, exact bool) {
	if i, ok := t.byName[string(raw)]; ok {
		return i, true
	}
	if !unusual(raw) {
		return -1, false
	}
	name := unescape(raw)
	if i, ok := t.byName[string(name)]; ok {
		return i, true
	}
	for i, f := range t.list {
		// No letter that folds to an ASCII one is shorter, so most names end here.
		if len(name) >= len(f.name) && bytes.EqualFold(name, []byte(f.name)) {
			return i, false
		}
	}
	return -1, false
}

// unusual reports whether a raw name can mean a field without being spelled
// like one. Folding reaches beyond ASCII: U+017F and U+212A fold to s and k.
func unusual(raw []byte) bool {
	for _, c := range raw {
		if c == '\\' || c >= 0x80 || 'A' <= c && c <= 'Z' {
			return true
		}
	}
	return false
}

// nameIs compares a raw name with a plain one.
func nameIs(raw []byte, name string) bool {
	return string(raw) == name || bytes.IndexByte(raw, '\\') >= 0 && string(unescape(raw)) == name
}

// maxSmall is the largest value, in bytes, that is given to the SDK's decoder,
// which spends some fifteen bytes of garbage on each byte it reads.
const maxSmall = 4096

// The setters leave a field of another type unset: the view says unknown.

func setFloat(o *param.Opt[float64], v []byte) {
	if f, ok := floatValue(v); ok {
		*o = param.NewOpt(f)
	}
}

func setInt(o *param.Opt[int64], v []byte) {
	if n, ok := intValue(v); ok {
		*o = param.NewOpt(n)
	}
}

func setBool(o *param.Opt[bool], v []byte) {
	if b, ok := boolValue(v); ok {
		*o = param.NewOpt(b)
	}
}

func setString(o *param.Opt[string], v []byte) {
	if len(v) > maxSmall {
		return
	}
	if s, ok := stringValue(v); ok {
		*o = param.NewOpt(s)
	}
}

// setEnum sets the SDK's named string types.
func setEnum[S ~string](o *S, v []byte) {
	if len(v) > maxSmall {
		return
	}
	if s, ok := stringValue(v); ok {
		*o = S(s)
	}
}

// setSDK leaves a union or an object to the SDK's own decoder. Its error is of
// no interest: the bytes go up in any case.
func setSDK[T any](o *T, v []byte) {
	if len(v) > maxSmall {
		return
	}
	var t T
	if json.Unmarshal(v, &t) == nil {
		*o = t
	}
}

var chatFields = newFieldTable(
	field{"model", true, func(r *Request, v []byte, _ int) { setEnum(&r.Model, v); r.Chat.Model = string(r.Model) }},
	field{"messages", true, func(r *Request, v []byte, _ int) { r.Messages = span(v) }},
	field{"stream", true, setStream},
	field{"stream_options", true, func(r *Request, v []byte, at int) {
		r.setStreamOptions(v, at)
		setSDK(&r.Chat.StreamOptions, v)
	}},
	field{"max_completion_tokens", true, func(r *Request, v []byte, _ int) { r.setMaxOutput(v); setInt(&r.Chat.MaxCompletionTokens, v) }},
	field{"max_tokens", true, func(r *Request, v []byte, _ int) { r.setMaxOutput(v); setInt(&r.Chat.MaxTokens, v) }},
	field{"n", true, func(r *Request, v []byte, _ int) { r.N = countValue(v); setInt(&r.Chat.N, v) }},
	field{"tools", true, func(r *Request, v []byte, _ int) { r.Tools = span(v) }},
	field{"functions", true, func(r *Request, v []byte, _ int) { r.Functions = span(v) }},
	field{"response_format", true, func(r *Request, v []byte, _ int) { r.ResponseFormat = span(v) }},
	field{"reasoning_effort", true, func(r *Request, v []byte, _ int) {
		setEnum(&r.Effort, v)
		r.Chat.ReasoningEffort = shared.ReasoningEffort(r.Effort)
	}},
	field{"temperature", false, func(r *Request, v []byte, _ int) { setFloat(&r.Chat.Temperature, v) }},
	field{"top_p", false, func(r *Request, v []byte, _ int) { setFloat(&r.Chat.TopP, v) }},
	field{"frequency_penalty", false, func(r *Request, v []byte, _ int) { setFloat(&r.Chat.FrequencyPenalty, v) }},
	field{"presence_penalty", false, func(r *Request, v []byte, _ int) { setFloat(&r.Chat.PresencePenalty, v) }},
	field{"seed", false, func(r *Request, v []byte, _ int) { setInt(&r.Chat.Seed, v) }},
	field{"stop", false, func(r *Request, v []byte, _ int) {
		setString(&r.Chat.Stop.OfString, v)
		if v[0] == '[' {
			setSDK(&r.Chat.Stop.OfStringArray, v)
		}
	}},
	field{"logprobs", false, func(r *Request, v []byte, _ int) { setBool(&r.Chat.Logprobs, v) }},
	field{"top_logprobs", false, func(r *Request, v []byte, _ int) { setInt(&r.Chat.TopLogprobs, v) }},
	field{"logit_bias", false, func(r *Request, v []byte, _ int) { setSDK(&r.Chat.LogitBias, v) }},
	field{"user", false, func(r *Request, v []byte, _ int) { setString(&r.Chat.User, v) }},
	field{"safety_identifier", false, func(r *Request, v []byte, _ int) { setString(&r.Chat.SafetyIdentifier, v) }},
	field{"prompt_cache_key", false, func(r *Request, v []byte, _ int) { setString(&r.Chat.PromptCacheKey, v) }},
	field{"service_tier", false, func(r *Request, v []byte, _ int) { setEnum(&r.Chat.ServiceTier, v) }},
	field{"store", false, func(r *Request, v []byte, _ int) { setBool(&r.Chat.Store, v) }},
	field{"metadata", false, func(r *Request, v []byte, _ int) { setSDK(&r.Chat.Metadata, v) }},
	field{"modalities", false, func(r *Request, v []byte, _ int) { setSDK(&r.Chat.Modalities, v) }},
	field{"audio", false, func(r *Request, v []byte, _ int) { setSDK(&r.Chat.Audio, v) }},
	field{"parallel_tool_calls", false, func(r *Request, v []byte, _ int) { setBool(&r.Chat.ParallelToolCalls, v) }},
	field{"tool_choice", false, func(r *Request, v []byte, _ int) {
		if setString(&r.Chat.ToolChoice.OfAuto, v); v[0] == '{' {
			setSDK(&r.Chat.ToolChoice, v)
		}
	}},
	field{"function_call", false, func(r *Request, v []byte, _ int) { setSDK(&r.Chat.FunctionCall, v) }},
	field{"web_search_options", false, func(r *Request, v []byte, _ int) { setSDK(&r.Chat.WebSearchOptions, v) }},
)

var completionFields = newFieldTable(
	field{"model", true, func(r *Request, v []byte, _ int) {
		setEnum(&r.Model, v)
		r.Completion.Model = openai.CompletionNewParamsModel(r.Model)
	}},
	field{"prompt", true, func(r *Request, v []byte, _ int) { r.Prompt = span(v) }},
	field{"stream", true, setStream},
	field{"stream_options", true, func(r *Request, v []byte, at int) {
		r.setStreamOptions(v, at)
		setSDK(&r.Completion.StreamOptions, v)
	}},
	field{"max_tokens", true, func(r *Request, v []byte, _ int) { r.setMaxOutput(v); setInt(&r.Completion.MaxTokens, v) }},
	field{"n", true, func(r *Request, v []byte, _ int) { r.N = countValue(v); setInt(&r.Completion.N, v) }},
	field{"best_of", true, func(r *Request, v []byte, _ int) { r.BestOf = countValue(v); setInt(&r.Completion.BestOf, v) }},
	field{"suffix", false, func(r *Request, v []byte, _ int) { setString(&r.Completion.Suffix, v) }},
	field{"echo", false, func(r *Request, v []byte, _ int) { setBool(&r.Completion.Echo, v) }},
	field{"temperature", false, func(r *Request, v []byte, _ int) { setFloat(&r.Completion.Temperature, v) }},
	field{"top_p", false, func(r *Request, v []byte, _ int) { setFloat(&r.Completion.TopP, v) }},
	field{"frequency_penalty", false, func(r *Request, v []byte, _ int) { setFloat(&r.Completion.FrequencyPenalty, v) }},
	field{"presence_penalty", false, func(r *Request, v []byte, _ int) { setFloat(&r.Completion.PresencePenalty, v) }},
	field{"seed", false, func(r *Request, v []byte, _ int) { setInt(&r.Completion.Seed, v) }},
	field{"logprobs", false, func(r *Request, v []byte, _ int) { setInt(&r.Completion.Logprobs, v) }},
	field{"logit_bias", false, func(r *Request, v []byte, _ int) { setSDK(&r.Completion.LogitBias, v) }},
	field{"stop", false, func(r *Request, v []byte, _ int) {
		setString(&r.Completion.Stop.OfString, v)
		if v[0] == '[' {
			setSDK(&r.Completion.Stop.OfStringArray, v)
		}
	}},
	field{"user", false, func(r *Request, v []byte, _ int) { setString(&r.Completion.User, v) }},
)

var responseFields = newFieldTable(
	field{"model", true, func(r *Request, v []byte, _ int) { setEnum(&r.Model, v); r.Response.Model = string(r.Model) }},
	field{"input", true, func(r *Request, v []byte, _ int) { r.setInput(v) }},
	field{"instructions", true, func(r *Request, v []byte, _ int) { r.Instructions = span(v) }},
	field{"stream", true, setStream},
	field{"max_output_tokens", true, func(r *Request, v []byte, _ int) { r.setMaxOutput(v); setInt(&r.Response.MaxOutputTokens, v) }},
	field{"tools", true, func(r *Request, v []byte, _ int) { r.Tools = span(v) }},
	field{"text", true, func(r *Request, v []byte, _ int) {
		for m := membersOf(v); m.next(); {
			if nameIs(m.name, "format") {
				r.ResponseFormat = span(m.value)
			}
		}
	}},
	field{"previous_response_id", true, func(r *Request, v []byte, _ int) {
		setEnum(&r.PreviousResponseID, v)
		setString(&r.Response.PreviousResponseID, v)
	}},
	field{"conversation", true, func(r *Request, v []byte, _ int) { r.OpaqueContext = r.OpaqueContext || !isNull(v) }},
	field{"prompt", true, func(r *Request, v []byte, _ int) {
		r.OpaqueContext = r.OpaqueContext || !isNull(v)
		setSDK(&r.Response.Prompt, v)
	}},
	field{"reasoning", true, func(r *Request, v []byte, _ int) {
		setSDK(&r.Response.Reasoning, v)
		r.Effort = string(r.Response.Reasoning.Effort)
	}},
	field{"background", false, func(r *Request, v []byte, _ int) { setBool(&r.Response.Background, v) }},
	field{"max_tool_calls", false, func(r *Request, v []byte, _ int) { setInt(&r.Response.MaxToolCalls, v) }},
	field{"parallel_tool_calls", false, func(r *Request, v []byte, _ int) { setBool(&r.Response.ParallelToolCalls, v) }},
	field{"store", false, func(r *Request, v []byte, _ int) { setBool(&r.Response.Store, v) }},
	field{"temperature", false, func(r *Request, v []byte, _ int) { setFloat(&r.Response.Temperature, v) }},
	field{"top_p", false, func(r *Request, v []byte, _ int) { setFloat(&r.Response.TopP, v) }},
	field{"top_logprobs", false, func(r *Request, v []byte, _ int) { setInt(&r.Response.TopLogprobs, v) }},
	field{"prompt_cache_key", false, func(r *Request, v []byte, _ int) { setString(&r.Response.PromptCacheKey, v) }},
	field{"safety_identifier", false, func(r *Request, v []byte, _ int) { setString(&r.Response.SafetyIdentifier, v) }},
	field{"user", false, func(r *Request, v []byte, _ int) { setString(&r.Response.User, v) }},
	field{"include", false, func(r *Request, v []byte, _ int) { setSDK(&r.Response.Include, v) }},
	field{"metadata", false, func(r *Request, v []byte, _ int) { setSDK(&r.Response.Metadata, v) }},
	field{"service_tier", false, func(r *Request, v []byte, _ int) { setEnum(&r.Response.ServiceTier, v) }},
	field{"truncation", false, func(r *Request, v []byte, _ int) { setEnum(&r.Response.Truncation, v) }},
	field{"tool_choice", false, func(r *Request, v []byte, _ int) { setSDK(&r.Response.ToolChoice, v) }},
)

var embeddingFields = newFieldTable(
	field{"model", true, func(r *Request, v []byte, _ int) { setEnum(&r.Model, v); r.Embedding.Model = string(r.Model) }},
	field{"input", true, func(r *Request, v []byte, _ int) { r.Input = span(v) }},
	field{"dimensions", false, func(r *Request, v []byte, _ int) { setInt(&r.Embedding.Dimensions, v) }},
	field{"encoding_format", false, func(r *Request, v []byte, _ int) { setEnum(&r.Embedding.EncodingFormat, v) }},
	field{"user", false, func(r *Request, v []byte, _ int) { setString(&r.Embedding.User, v) }},
)

// setStream believes the literal true only. Some servers also take 1 or "true";
// their streams then come without a usage chunk, and their usage is unknown.
func setStream(r *Request, v []byte, at int) {
	r.Stream, _ = boolValue(v)
	r.streamEnd = at + len(v)
}
