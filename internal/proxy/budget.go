package proxy

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/budget"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/price"
)

// budgetRefresh is how old the sums of a store that others write to may become.
const budgetRefresh = 5 * time.Second

// maxLinks bounds what is remembered of sessions and their parents.
const maxLinks = 100_000

// newBudgets makes the book of budgets. Its sums come from the ledger, so a
// restart refills nothing.
func (s *Proxy) newBudgets() *budget.Book {
	cfg := budget.Config{
		Load: s.budgetUsed, UsedUp: s.budgetUsedUp, Passed: s.budgetPassed,
		Fresh: func() bool { // what waits in the journal is not in the store
			st := s.ledger.Stats()
			return !st.Degraded && st.Journaled == 0
		},
	}
	if s.settings.Load().RepositoryType == "postgres" { // which other sidecars may share
		cfg.Refresh = budgetRefresh
	}
	return budget.New(cfg)
}

// reserve takes what a request may cost out of the budgets of its session and
// its session's parents. It waits while other requests hold what is left of
// them; nil means that it draws on none.
func (s *Proxy) reserve(x *exchange) (*budget.Reservation, error) {
	if !x.endpoint.Billed() || !x.cfg.File.HasBudgets() {
		return nil, nil
	}
	var limits []budget.Limit
	known := map[string]bool{}
	for _, session := range s.lineage.Of(x.client, x.who.Session, x.who.Parent) {
		if l, ok := x.cfg.File.BudgetLimit(x.client, session); ok && !known[l.Scope] {
			limits, known[l.Scope] = append(limits, l), true
		}
	}
	if len(limits) == 0 {
		return nil, nil
	}
	began := time.Now()
	amount, priced := drawn(x.cfg.Prices, ledger.BudgetUse{
		Start: began, Model: ledger.CleanName(x.req.Model),
		Estimated: llm.Usage{Input: x.estimate.Input, Output: mostOutput(x)},
	})
	for _, l := range limits {
		if !priced && !l.Warn && l.Money != (llm.Money{}) {
			return nil, errNoPrice
		}
	}
	wait := x.cfg.QueueMaxWait
	if x.who.MaxWait > 0 {
		wait = min(wait, x.who.MaxWait)
	}
	ctx, cancel := context.WithTimeoutCause(x.r.Context(), wait, errBudgetHeld)
	defer cancel()
	r, err := s.budgets.Reserve(ctx, limits, amount)
	x.budgetWait = time.Since(began)
	at := time.Now()
	switch {
	case errors.Is(err, budget.ErrUnknown):
		s.logger.Error("budget not read", "error", err.Error())
		if x.cfg.LedgerOnFailure == "refuse" {
			return nil, errLedger
		}
	case err != nil:
		return nil, err
	default:
		at = r.At()
	}
	for _, l := range limits {
		x.row.Draws = append(x.row.Draws, ledger.Draw{Scope: l.Scope, Start: l.Per.Grain(at)})
	}
	return r, nil
}

// mostOutput is what an answer may have: what the client allows, or else what
// is expected.
func mostOutput(x *exchange) int64 {
	if x.estimate.MaxOutput > 0 {
		return x.estimate.MaxOutput
	}
	return x.estimate.Output
}

// settleBudget puts what the row says in the reservation's place. Where there
// is none, since the budgets could not be read, whoever reads them later must
// not miss the row.
func (x *exchange) settleBudget() {
	if x.budget == nil {
		for _, d := range x.row.Draws {
			x.s.budgets.Reread(d.Scope)
		}
		return
	}
	use := x.row.Drawn()
	use.Start = x.budget.At()
	amount, _ := drawn(x.s.settings.Load().Prices, use) // by the prices of budgetUsed, which a reload may have changed
	x.budget.Settle(amount)
}

// drawn is what a use takes out of a budget: exact counts, and the estimate of
// requests whose usage nobody reported. priced is false when the
// model has no price, and the money therefore is none.
func drawn(prices *price.Table, u ledger.BudgetUse) (a budget.Amount, priced bool) {
	usage := u.Usage
	usage.Add(u.Estimated, 1)
	rates, priced := prices.At(u.Model, u.Start)
	return budget.Amount{Tokens: usage.Total(), Money: rates.Cost(usage)}, priced
}

// budgetUsed reads what was used of a budget since the start of its period.
func (s *Proxy) budgetUsed(ctx context.Context, l budget.Limit, since time.Time) (sum budget.Amount, err error) {
	uses, err := s.ledger.BudgetUse(ctx, l.Scope, since)
	cfg := s.settings.Load()
	for _, u := range uses {
		amount, _ := drawn(cfg.Prices, u)
		sum = sum.Plus(amount)
	}
	return sum, err
}

// budgetUsedUp and BudgetPassed make a budget that only warns heard.
func (s *Proxy) budgetUsedUp(l budget.Limit) {
	s.logger.Warn("budget used up", "rule", l.Name, "budget", strings.ReplaceAll(l.Scope, "\x1f", " / "), "per", string(l.Per))
}

func (s *Proxy) budgetPassed(l budget.Limit) { s.metrics.BudgetPassed.WithLabelValues(l.Name).Inc() }
