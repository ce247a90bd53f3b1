package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// File is what CONFIG_FILE holds: the settings that an environment is bad at.
type File struct {
	Settings  map[string]string     `yaml:"settings"` // by the names of the environment; this wins over a default only
	Limits    []ModelLimit          `yaml:"limits"`   // first match wins
	Clients   map[string]ClientRule `yaml:"clients"`  // by a name from CLIENT_API_KEYS
	Sessions  []SessionRule         `yaml:"sessions"`
	Currency  string                `yaml:"currency"` // of all prices and budgets; "" = USD
	Prices    []Price               `yaml:"prices"`
	Retention Retention             `yaml:"retention"`
}

// A ModelLimit holds for the models that match a pattern; 0 = no limit.
type ModelLimit struct {
	Model                 string `yaml:"model"`
	RequestsPerMinute     int64  `yaml:"requests_per_minute"`
	TokensPerMinute       int64  `yaml:"tokens_per_minute"`
	InputTokensPerMinute  int64  `yaml:"input_tokens_per_minute"`
	OutputTokensPerMinute int64  `yaml:"output_tokens_per_minute"`
	RequestsPerDay        int64  `yaml:"requests_per_day"`
	TokensPerDay          int64  `yaml:"tokens_per_day"`
	Concurrent            int64  `yaml:"concurrent"`
	Profile               string `yaml:"profile"`
}

// A ClientRule says what a client may have.
type ClientRule struct {
	Weight   float64 `yaml:"weight"`   // 0 = 1
	Priority string  `yaml:"priority"` // "" = normal
}

// A SessionRule is given to the sessions whose id matches a pattern.
type SessionRule struct {
	Match  string  `yaml:"match"`
	Weight float64 `yaml:"weight"`
	Budget *Budget `yaml:"budget"`
}

// A Budget bounds what the sessions of its rule may use in a period: those of one
// client together, or each for itself.
type Budget struct {
	Tokens int64  `yaml:"tokens"` // 0 = not limited in tokens
	Money  string `yaml:"money"`  // such as "5.00 USD"; "" = not limited in money
	Per    string `yaml:"per"`    // hour, day, month or ever, of UTC; "" = day
	Action string `yaml:"action"` // reject or warn; "" = reject
	Each   string `yaml:"each"`   // client or session; "" = client
}

// A Price is in decimal strings per million tokens, valid from a date on.
type Price struct {
	Model       string `yaml:"model"`        // a name, or a pattern
	From        string `yaml:"from"`         // midnight UTC of this day; "" = since ever
	Input       string `yaml:"input"`        //
	CachedInput string `yaml:"cached_input"` // "" = as input
	CacheWrite  string `yaml:"cache_write"`  // "" = as input
	Reasoning   string `yaml:"reasoning"`    // "" = as output
	Output      string `yaml:"output"`       //
}

// Retention says for how long rows are kept, as "90d" or a Go duration.
type Retention struct {
	Requests string `yaml:"requests"`
	Hourly   string `yaml:"hourly"`
}

// load reads the file; each fault is one line that names the key by its path.
func (f *File) load(name string) []string {
	data, err := os.ReadFile(name)
	if err != nil {
		return []string{fmt.Sprintf("CONFIG_FILE=%q: want a readable file", name)}
	}
	return f.parse(name, data)
}

func (f *File) parse(name string, data []byte) []string {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return []string{fmt.Sprintf("%s: %s", name, oneLine(err))}
	}
	if len(doc.Content) == 0 {
		return nil // an empty file sets nothing
	}
	var faults []string
	for _, key := range unknownKeys(doc.Content[0], reflect.TypeFor[File](), "") {
		faults = append(faults, fmt.Sprintf("%s: %s: unknown key", name, key))
	}
	if err := doc.Content[0].Decode(f); err != nil {
		faults = append(faults, fmt.Sprintf("%s: %s", name, oneLine(err)))
	}
	return append(faults, f.settingsFaults(name)...)
}

// oneLine folds an error of the YAML library into one line.
func oneLine(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, " ")
}

// unknownKeys walks a node beside the type it is decoded into. The library can
// refuse unknown keys too, but names Go types where a reader needs a path.
func unknownKeys(n *yaml.Node, t reflect.Type, at string) []string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var unknown []string
	switch {
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			here := strings.TrimPrefix(at+"."+key, ".")
			if field, ok := fieldByTag(t, key); ok {
				unknown = append(unknown, unknownKeys(n.Content[i+1], field, here)...)
			} else {
				unknown = append(unknown, here)
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Map:
		for i := 0; i+1 < len(n.Content); i += 2 {
			unknown = append(unknown, unknownKeys(n.Content[i+1], t.Elem(), at+"."+n.Content[i].Value)...)
		}
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, item := range n.Content {
			unknown = append(unknown, unknownKeys(item, t.Elem(), at+"["+strconv.Itoa(i)+"]")...)
		}
	}
	return unknown
}

func fieldByTag(t reflect.Type, key string) (reflect.Type, bool) {
	for field := range t.Fields() {
		if field.Tag.Get("yaml") == key {
			return field.Type, true
		}
	}
	return nil, false
}

// validate checks values; each fault names the key by its path.
func (f *File) validate(keys []ClientKey) []string {
	var faults []string
	bad := func(at, value any, want string) {
		faults = append(faults, fmt.Sprintf("%s=%q: want %s", at, fmt.Sprint(value), want))
	}
	pattern := func(at, value string) {
		if llm.CheckPattern(value) != nil || value == "" {
			bad(at, value, `a pattern such as "gpt-4o*"`)
		}
	}
	for i, l := range f.Limits {
		at := fmt.Sprintf("limits[%d].", i)
		pattern(at+"model", l.Model)
		for key, value := range map[string]int64{
			"requests_per_minute": l.RequestsPerMinute, "tokens_per_minute": l.TokensPerMinute,
			"input_tokens_per_minute": l.InputTokensPerMinute, "output_tokens_per_minute": l.OutputTokensPerMinute,
			"requests_per_day": l.RequestsPerDay, "tokens_per_day": l.TokensPerDay, "concurrent": l.Concurrent,
		} {
			if value < 0 {
				bad(at+key, value, "a whole number, 0 = no limit")
			}
		}
		if l.RequestsPerDay > 0 && l.RequestsPerMinute > l.RequestsPerDay {
			bad(at+"requests_per_minute", l.RequestsPerMinute, "no more than requests_per_day")
		}
		if l.TokensPerDay > 0 && l.TokensPerMinute > l.TokensPerDay {
			bad(at+"tokens_per_minute", l.TokensPerMinute, "no more than tokens_per_day")
		}
		if !slices.Contains([]string{"", "auto", "openai", "azure", "anthropic", "postpaid"}, l.Profile) {
			bad(at+"profile", l.Profile, "auto, openai, azure, anthropic or postpaid")
		}
	}
	for name, rule := range f.Clients {
		at := "clients." + name + "."
		if !slices.ContainsFunc(keys, func(k ClientKey) bool { return k.Name == name }) {
			bad("clients", name, "a name from CLIENT_API_KEYS")
		}
		if rule.Weight != 0 && (rule.Weight < 0.1 || rule.Weight > 100) {
			bad(at+"weight", rule.Weight, "a number from 0.1 to 100")
		}
		if !slices.Contains([]string{"", "high", "normal", "low"}, rule.Priority) {
			bad(at+"priority", rule.Priority, "high, normal or low")
		}
	}
	for i, rule := range f.Sessions {
		at := fmt.Sprintf("sessions[%d].", i)
		pattern(at+"match", rule.Match)
		if rule.Weight != 0 && (rule.Weight < 0.1 || rule.Weight > 100) {
			bad(at+"weight", rule.Weight, "a number from 0.1 to 100")
		}
	}
	f.validateMoney(bad)
	for key, value := range map[string]string{"requests": f.Retention.Requests, "hourly": f.Retention.Hourly} {
		if _, err := ParseRetention(value); err != nil {
			bad("retention."+key, value, `days such as "90d", or a duration; "0" keeps for ever`)
		}
	}
	slices.Sort(faults) // maps have no order, readers do
	return faults
}

// ParseRetention reads "90d", "36h" or "0"; "" is the default of 90 days.
func ParseRetention(v string) (time.Duration, error) {
	if v == "" {
		return 90 * 24 * time.Hour, nil
	}
	if days, ok := strings.CutSuffix(v, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	d, err := time.ParseDuration(v)
	if err == nil && d < 0 {
		err = errForm
	}
	return d, err
}
