package config

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/budget"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/price"
)

// What the file says of money: prices, and the budgets of sessions. One file
// has one currency, for sums of two would mean nothing.

const defaultCurrency = "USD"

var currencyCode = regexp.MustCompile(`^[A-Z]{3}$`)

func (f *File) currency() string { return cmp.Or(f.Currency, defaultCurrency) }

// Currency is of all prices and budgets, as ISO 4217 writes it.
func (c *Config) Currency() string { return c.File.currency() }

// validateMoney reports each fault to bad, by its path.
func (f *File) validateMoney(bad func(at, value any, want string)) {
	if !currencyCode.MatchString(f.currency()) {
		bad("currency", f.Currency, "three letters such as USD (ISO 4217)")
	}
	for i, rule := range f.Sessions {
		b := rule.Budget
		if b == nil {
			continue
		}
		at := fmt.Sprintf("sessions[%d].budget.", i)
		if b.Tokens < 0 || b.Tokens == 0 && b.Money == "" {
			bad(at+"tokens", b.Tokens, "a whole number above 0, or money instead")
		}
		if b.Money != "" {
			switch amount, err := f.parseMoney(b.Money); {
			case err != nil || amount == llm.Money{}:
				bad(at+"money", b.Money, fmt.Sprintf(`an amount above 0 in the file's currency, such as "5.00 %s"`, f.currency()))
			case len(f.Prices) == 0:
				bad(at+"money", b.Money, "prices in the same file")
			}
		}
		if !slices.Contains([]string{"", "hour", "day", "month", "ever"}, b.Per) {
			bad(at+"per", b.Per, "hour, day, month or ever")
		}
		if !slices.Contains([]string{"", "reject", "warn"}, b.Action) {
			bad(at+"action", b.Action, "reject or warn")
		}
		if !slices.Contains([]string{"", "client", "session"}, b.Each) {
			bad(at+"each", b.Each, "client or session")
		}
	}
	seen := map[[2]string]bool{}
	for i, p := range f.Prices {
		at := fmt.Sprintf("prices[%d].", i)
		if llm.CheckPattern(p.Model) != nil || p.Model == "" {
			bad(at+"model", p.Model, `a model's name, or a pattern such as "gpt-4o*"`)
		}
		if _, err := p.from(); err != nil {
			bad(at+"from", p.From, "a date such as 2026-01-01")
		}
		if key := [2]string{p.Model, p.From}; seen[key] {
			bad(at+"from", p.From, "one price of "+p.Model+" for each date")
		} else {
			seen[key] = true
		}
		for key, value := range map[string]string{
			"input": p.Input, "cached_input": p.CachedInput, "cache_write": p.CacheWrite, "output": p.Output, "reasoning": p.Reasoning,
		} {
			if _, err := price.ParseRate(value); err != nil && (value != "" || key == "input" || key == "output") {
				bad(at+key, value, `a decimal string per million tokens, such as "2.50"`)
			}
		}
	}
}

func (f *File) parseMoney(text string) (llm.Money, error) {
	amount, currency, _ := strings.Cut(text, " ")
	if currency != f.currency() {
		return llm.Money{}, errForm
	}
	return price.ParseMoney(amount)
}

func (p Price) from() (time.Time, error) {
	if p.From == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.DateOnly, p.From)
}

// PriceTable makes the table of a file's prices; nil where there are none.
func (f *File) PriceTable() (*price.Table, error) {
	if len(f.Prices) == 0 {
		return nil, nil
	}
	var list []price.Entry
	for _, p := range f.Prices {
		from, err := p.from()
		if err != nil {
			return nil, err
		}
		e := price.Entry{Model: p.Model, From: from}
		for _, rate := range []struct {
			into *price.Rate
			text string
		}{
			{&e.Rates.Input, p.Input},
			{&e.Rates.CachedInput, cmp.Or(p.CachedInput, p.Input)},
			{&e.Rates.CacheWrite, cmp.Or(p.CacheWrite, p.Input)},
			{&e.Rates.Output, p.Output},
			{&e.Rates.Reasoning, cmp.Or(p.Reasoning, p.Output)},
		} {
			if *rate.into, err = price.ParseRate(rate.text); err != nil {
				return nil, err
			}
		}
		list = append(list, e)
	}
	return price.NewTable(list)
}

// RuleOf is the rule of the file for a session: the first that matches, or
// nil.
func (f *File) RuleOf(id string) *SessionRule {
	for i := range f.Sessions {
		if ok, _ := path.Match(f.Sessions[i].Match, id); ok {
			return &f.Sessions[i]
		}
	}
	return nil
}

// BudgetLimit is the budget that a session of a client draws on by its rule;
// false: it has none.
func (f *File) BudgetLimit(client, session string) (budget.Limit, bool) {
	rule := f.RuleOf(session)
	if rule == nil || rule.Budget == nil {
		return budget.Limit{}, false
	}
	b := rule.Budget
	amount, _ := f.parseMoney(b.Money) // checked, or "" for nothing
	l := budget.Limit{
		Name: rule.Match, Per: budget.Period(cmp.Or(b.Per, "day")), Tokens: b.Tokens,
		Money: amount, Warn: b.Action == "warn",
	}
	parts := []string{rule.Match, client}
	if b.Each == "session" {
		parts = append(parts, session)
	}
	if l.Per == budget.Hour {
		parts = append([]string{"hour"}, parts...) // counted by the hour: see Grain
	}
	l.Scope = budget.Scope(parts...)
	return l, true
}

// HasBudgets reports whether any rule has one.
func (f *File) HasBudgets() bool {
	return slices.ContainsFunc(f.Sessions, func(r SessionRule) bool { return r.Budget != nil })
}
