package price

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A Rate is a price in nano-units of a currency per million tokens, or femto-units per token.
type Rate uint64

// ParseRate reads a price per million tokens, such as "2.50": up to nine digits before the point and up to nine behind it.
func ParseRate(text string) (Rate, error) {
	nano, err := parseNano(text)
	return Rate(nano), err
}

// Rates is what a model's tokens cost.
type Rates struct {
	Input, Output Rate

	CachedInput Rate // for what the provider read from its prompt cache
	CacheWrite  Rate // for what it wrote to it
	Reasoning   Rate // for output that was thought, and not shown
}

// Cost is what u costs, exactly. A negative count costs nothing, and no token is charged twice.
func (r Rates) Cost(u llm.Usage) llm.Money {
	input, output := max(u.Input, 0), max(u.Output, 0)
	cached := min(max(u.Cached, 0), input)
	written := min(max(u.CacheWrite, 0), input-cached)
	reasoning := min(max(u.Reasoning, 0), output)
	return times(input-cached-written, r.Input).Add(times(cached, r.CachedInput)).Add(times(written, r.CacheWrite)).
		Add(times(output-reasoning, r.Output)).Add(times(reasoning, r.Reasoning))
}

// Free tells whether nothing of the model costs anything.
func (r Rates) Free() bool { return r == Rates{} }

func times(tokens int64, r Rate) llm.Money { return llm.MoneyOf(uint64(max(tokens, 0)), uint64(r)) }

// An Entry is one line of a price list.
type Entry struct {
	Model string    // a name, or a pattern of llm.Model
	From  time.Time // the day from which it holds, UTC; zero: since ever
	Rates Rates
}

// A Table answers which prices hold. It never changes, so that any number of goroutines
// may ask at once; a nil Table knows no price.
type Table struct {
	names    map[string][]Entry // the latest From first
	patterns []pattern          // in the order of the list
	cuts     []time.Time
}

type pattern struct {
	text    string
	entries []Entry // the latest From first
}

// NewTable makes a table of a list, in which the order of patterns matters. The error
// names a pattern that is none, or a model that has two prices from the same day on.
func NewTable(list []Entry) (*Table, error) {
	t := &Table{names: map[string][]Entry{}}
	for _, e := range list {
		e.From = day(e.From)
		if llm.CheckPattern(e.Model) != nil || e.Model == "" {
			return nil, fmt.Errorf("price of %q: want a model's name or a pattern", e.Model)
		}
		if !isPattern(e.Model) {
			t.names[e.Model] = append(t.names[e.Model], e)
		} else if i := slices.IndexFunc(t.patterns, func(p pattern) bool { return p.text == e.Model }); i >= 0 {
			t.patterns[i].entries = append(t.patterns[i].entries, e)
		} else {
			t.patterns = append(t.patterns, pattern{e.Model, []Entry{e}})
		}
		if !e.From.IsZero() {
			t.cuts = append(t.cuts, e.From)
		}
	}
	for _, entries := range t.names {
		if err := order(entries); err != nil {
			return nil, err
		}
	}
	for _, p := range t.patterns {
		if err := order(p.entries); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(t.cuts, time.Time.Compare)
	t.cuts = slices.CompactFunc(t.cuts, time.Time.Equal)
	return t, nil
}

func order(entries []Entry) error {
	slices.SortFunc(entries, func(a, b Entry) int { return b.From.Compare(a.From) })
	for i := 1; i < len(entries); i++ {
		if entries[i].From.Equal(entries[i-1].From) {
			return fmt.Errorf("price of %q: two entries begin on the same day", entries[i].Model)
		}
	}
	return nil
}

func isPattern(model string) bool { return strings.ContainsAny(model, `*?[\`) }

func day(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(24 * time.Hour)
}

// Cuts returns the instants at which a price begins, in order: between two of them every model has one price.
func (t *Table) Cuts() []time.Time {
	if t == nil {
		return nil
	}
	return slices.Clone(t.cuts)
}

// At returns what a model costs at an instant; false: no price is known.
func (t *Table) At(model llm.Model, at time.Time) (Rates, bool) {
	if t == nil {
		return Rates{}, false
	}
	for _, name := range [...]string{string(model), undated(string(model))} {
		if r, ok := inForce(t.names[name], at); ok {
			return r, true
		}
	}
	for _, p := range t.patterns {
		if model.Matches(p.text) {
			if r, ok := inForce(p.entries, at); ok {
				return r, true
			}
		}
	}
	return Rates{}, false
}

func inForce(entries []Entry, at time.Time) (Rates, bool) {
	for _, e := range entries {
		if !e.From.After(at) {
			return e.Rates, true
		}
	}
	return Rates{}, false
}

// undated is a model's name without the date of its snapshot, which providers spell -2024-08-06
// or -20241022.
func undated(model string) string {
	for _, layout := range [...]string{"-" + time.DateOnly, "-20060102"} {
		if cut := len(model) - len(layout); cut > 0 {
			if _, err := time.Parse(layout, model[cut:]); err == nil {
				return model[:cut]
			}
		}
	}
	return model
}
