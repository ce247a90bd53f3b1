package price

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A Listed is one model of a public price list, its prices as decimal strings per million
// tokens, in the form that [ParseRate] reads.
type Listed struct {
	Model    string
	Provider string
	Rates    [numListed]string // by listed; "": the list has none
	Note     string            // what could not be taken over, for a comment; "" = nothing
}

// listed is a price that a list may have, and CONFIG_FILE too.
type listed int

// The prices of a Listed, in the order in which they are written.
const (
	Input listed = iota
	CachedInput
	CacheWrite
	Output
	Reasoning
	numListed
)

// String is the key in CONFIG_FILE.
func (l listed) String() string {
	return [numListed]string{"input", "cached_input", "cache_write", "output", "reasoning"}[l]
}

// Named yields the prices that the list has, by their keys in CONFIG_FILE.
func (l Listed) Named() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for rate, text := range l.Rates {
			if text != "" && !yield(listed(rate).String(), text) {
				return
			}
		}
	}
}

// A List is what an import found.
type List struct {
	Prices   []Listed // by model
	Warnings []string // one line each: what was left out, or taken over in part
	Unpriced int      // entries without a price per token, such as those of images
}

// A Filter chooses the entries of an import; its zero value takes all.
type Filter struct {
	Model    string // a pattern as in Entry.Model; "" = all
	Provider string // the list's name of a provider; "" = all
}

func (f Filter) takes(model, provider string) bool {
	return (f.Model == "" || llm.Model(model).Matches(f.Model)) && (f.Provider == "" || f.Provider == provider)
}

// errFormat says that a document is no price list of the format it was taken for.
var errFormat = errors.New("not a price list of this format")

// Detect tells which format a document has: "litellm", "models.dev", or "" for neither.
func Detect(doc []byte) string {
	var top map[string]json.RawMessage
	if json.Unmarshal(doc, &top) != nil {
		return ""
	}
	for _, value := range top {
		var provider struct {
			Models map[string]json.RawMessage `json:"models"`
		}
		if json.Unmarshal(value, &provider) == nil && provider.Models != nil {
			return "models.dev"
		}
	}
	if len(top) == 0 {
		return ""
	}
	return "litellm"
}

// LiteLLM reads model_prices_and_context_window.json of the LiteLLM project: an object from models to
// members such as input_cost_per_token, in units of US dollars per token.
func LiteLLM(doc []byte, f Filter) (List, error) {
	var models map[string]json.RawMessage
	if err := json.Unmarshal(doc, &models); err != nil {
		return List{}, fmt.Errorf("litellm: %w: %w", errFormat, err)
	}
	var c collector
	for _, model := range slices.Sorted(maps.Keys(models)) {
		if model == "sample_spec" { // it documents the format
			continue
		}
		members, ok := object(models[model])
		if !ok {
			return List{}, fmt.Errorf("litellm: %w: %q is no object", errFormat, model)
		}
		provider, _ := members["litellm_provider"].(string)
		if !f.takes(model, provider) {
			continue
		}
		e := candidate{model: model, provider: provider, shift: 6}
		e.take(members, map[string]listed{
			"input_cost_per_token": Input, "cache_read_input_token_cost": CachedInput, "cache_creation_input_token_cost": CacheWrite,
			"output_cost_per_token": Output, "output_cost_per_reasoning_token": Reasoning,
		}, isPrice)
		if mode, _ := members["mode"].(string); e.rates[Output] == nil && mode == "embedding" {
			e.rates[Output] = json.Number("0")
		}
		c.add(e)
	}
	return c.list(), nil
}

// isPrice tells whether a member of LiteLLM's says what something costs. There are more than a hundred of them, made of parts.
func isPrice(key string) bool {
	return strings.Contains(key, "cost") || strings.Contains(key, "pric") || key == "provider_specific_entry"
}

// ModelsDev reads api.json of models.dev: an object from providers to models, whose cost is in
// US dollars per million tokens.
func ModelsDev(doc []byte, f Filter) (List, error) {
	var providers map[string]struct {
		Models map[string]json.RawMessage `json:"models"`
	}
	if err := json.Unmarshal(doc, &providers); err != nil {
		return List{}, fmt.Errorf("models.dev: %w: %w", errFormat, err)
	}
	var c collector
	for _, provider := range slices.Sorted(maps.Keys(providers)) {
		models := providers[provider].Models
		for _, model := range slices.Sorted(maps.Keys(models)) {
			if !f.takes(model, provider) {
				continue
			}
			members, ok := object(models[model])
			if !ok {
				return List{}, fmt.Errorf("models.dev: %w: model %q is no object", errFormat, model)
			}
			cost, _ := members["cost"].(map[string]any)
			e := candidate{model: model, provider: provider}
			e.take(cost, map[string]listed{
				"input": Input, "cache_read": CachedInput, "cache_write": CacheWrite, "output": Output, "reasoning": Reasoning,
			}, func(string) bool { return true })
			c.add(e)
		}
	}
	return c.list(), nil
}

// object reads one JSON object with its numbers as they are spelled.
func object(raw json.RawMessage) (map[string]any, bool) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var members map[string]any
	return members, d.Decode(&members) == nil && members != nil
}

// candidate is one entry of a list; shift is the power of ten from its unit to a price per million.
type candidate struct {
	model, provider string
	shift           int
	rates           [numListed]any // nil, or a JSON value
	others          []string       // prices that the format of the configuration cannot say
}

// take sorts the members of an entry: prices that the configuration knows, and others.
func (e *candidate) take(members map[string]any, known map[string]listed, isPrice func(key string) bool) {
	for key, value := range members {
		if rate, ok := known[key]; ok {
			e.rates[rate] = value
		} else if value != nil && isPrice(key) {
			e.others = append(e.others, key)
		}
	}
}

type collector struct{ List }

func (c *collector) warn(model, format string, args ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf("%q: %s", model, fmt.Sprintf(format, args...)))
}

func (c *collector) add(e candidate) {
	if e.rates[Input] == nil && e.rates[Output] == nil {
		c.Unpriced++
		return
	}
	if e.rates[Input] == nil || e.rates[Output] == nil {
		c.warn(e.model, "left out: it has a price for one direction only")
		return
	}
	if e.model == "" || isPattern(e.model) || strings.ContainsFunc(e.model, func(r rune) bool { return !strconv.IsPrint(r) }) {
		c.warn(e.model, "left out: its name is no plain name")
		return
	}
	l := Listed{Model: e.model, Provider: e.provider}
	for rate, value := range e.rates {
		if value == nil {
			continue
		}
		text, exact, err := perMillion(value, e.shift)
		if err != nil {
			c.warn(e.model, "left out: price %v: %v", value, err)
			return
		}
		if !exact {
			c.warn(e.model, "price %v has more than nine decimals per million tokens, and was rounded to %s", value, text)
		}
		l.Rates[rate] = text
	}
	if len(e.others) > 0 {
		slices.Sort(e.others)
		l.Note = "without " + strings.Join(e.others, ", ")
		c.warn(e.model, "taken over without %s: this format has one price per model and date", strings.Join(e.others, ", "))
	}
	c.Prices = append(c.Prices, l)
}

// list puts the finds in order. One model of several providers is one price if they agree, else none.
func (c *collector) list() List {
	slices.SortStableFunc(c.Prices, func(a, b Listed) int { return strings.Compare(a.Model, b.Model) })
	var kept []Listed
	for group := range runs(c.Prices) {
		same := !slices.ContainsFunc(group, func(l Listed) bool {
			return l.Rates != group[0].Rates
		})
		if same {
			kept = append(kept, group[0])
			continue
		}
		var providers []string
		for _, l := range group {
			providers = append(providers, l.Provider)
		}
		c.warn(group[0].Model, "left out: its price differs between %s; choose one by --provider", strings.Join(providers, ", "))
	}
	c.Prices = kept
	return c.List
}

// runs yields the stretches of one model.
func runs(sorted []Listed) func(yield func([]Listed) bool) {
	return func(yield func([]Listed) bool) {
		for start := 0; start < len(sorted); {
			end := start + 1
			for end < len(sorted) && sorted[end].Model == sorted[start].Model {
				end++
			}
			if !yield(sorted[start:end]) {
				return
			}
			start = end
		}
	}
}

// perMillion shifts the decimal point of a JSON number, or of a number in a JSON string, by
// its text: what the list spells is what the file will say. exact is false when
// more than nine decimals had to be rounded, half up.
func perMillion(value any, shift int) (text string, exact bool, err error) {
	var number string
	switch v := value.(type) {
	case json.Number:
		number = v.String()
	case string:
		number = v
	default:
		return "", false, errors.New("not a number")
	}
	mantissa, exponent, scientific := strings.Cut(strings.ToLower(number), "e")
	power := 0
	if scientific {
		if power, err = strconv.Atoi(exponent); err != nil || power < -1000 || power > 1000 {
			return "", false, errDecimal
		}
	}
	whole, part, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+part, "0")
	if len(digits) > 1000 || len(whole) == 0 || strings.ContainsFunc(whole+part, func(r rune) bool { return r < '0' || r > '9' }) {
		return "", false, errDecimal
	}
	// The value is digits * 10^-behind.
	behind := len(part) - power - shift
	if behind < 0 {
		digits, behind = digits+strings.Repeat("0", -behind), 0
	}
	if short := behind + 1 - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	whole, part = digits[:len(digits)-behind], strings.TrimRight(digits[len(digits)-behind:], "0")
	exact = len(part) <= 9
	if !exact {
		whole, part = roundUp(whole, part)
	}
	if whole = strings.TrimLeft(whole, "0"); whole == "" {
		whole = "0"
	}
	if text = whole; part != "" {
		text += "." + part
	}
	if _, err := ParseRate(text); err != nil {
		return "", false, err
	}
	return text, exact, nil
}

// roundUp cuts part to nine digits, half up.
func roundUp(whole, part string) (string, string) {
	up := part[9] >= '5'
	digits := []byte("0" + whole + part[:9])
	for i := len(digits) - 1; up; i-- {
		if digits[i] == '9' {
			digits[i] = '0'
			continue
		}
		digits[i]++
		up = false
	}
	cut := len(digits) - 9
	return string(digits[:cut]), strings.TrimRight(string(digits[cut:]), "0")
}
