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
func (p *Proxy) newBudgets() *budget.Book {
	cfg := budget.Config{
		Load: p.budgetUsed, UsedUp: p.budgetUsedUp, Passed: p.budgetPassed,
		Fresh: func() bool { // what waits in the journal is not in the store
			st := p.ledger.Stats()
			return !st.Degraded && st.Journaled == 0
		},
	}
	if p.settings.Load().RepositoryType == "postgres" { // which other sidecars may share
		cfg.Refresh = budgetRefresh
	}
	return budget.New(cfg)
}

// A draw is what a request has reserved. The zero value draws on no budget.
type draw struct {
	reservation *budget.Reservation // nil: none, or the budgets could not be read
	draws       []ledger.Draw       // the budgets that the row counts for
	waited      time.Duration       // for what others had reserved
}

// reserve takes what a request may cost out of the budgets of its session and
// its session's parents. It waits while other requests hold what is left of
// them, until the deadline.
func (p *Proxy) reserve(x *exchange) error {
	q := &x.req
	if !q.endpoint.Billed() || !q.cfg.File.HasBudgets() {
		return nil
	}
	var limits []budget.Limit
	known := map[string]bool{}
	for _, session := range p.lineage.Of(q.client, q.who.Session, q.who.Parent) {
		if l, ok := q.cfg.File.BudgetLimit(q.client, session); ok && !known[l.Scope] {
			limits, known[l.Scope] = append(limits, l), true
		}
	}
	if len(limits) == 0 {
		return nil
	}
	began := time.Now()
	amount, priced := drawn(q.cfg.Prices, ledger.BudgetUse{
		Start: began, Model: q.model,
		Estimated: llm.Usage{Input: q.estimate.Input, Output: mostOutput(x)},
	})
	if rates, _ := q.cfg.Prices.At(q.model, began); amount.Money == (llm.Money{}) && !rates.Free() {
		amount.Money.Lo = 1 // nothing is expected of it, but it is not free: it must not pass a budget that is used up
	}
	for _, l := range limits {
		if !priced && !l.Warn && l.Money != (llm.Money{}) {
			return errNoPrice
		}
	}
	ctx, cancel := context.WithDeadlineCause(q.r.Context(), q.deadline.until, errBudgetHeld)
	defer cancel()
	r, err := p.budgets.Reserve(ctx, limits, amount)
	x.draw = draw{reservation: r, waited: time.Since(began)}
	at := time.Now()
	switch {
	case errors.Is(err, budget.ErrUnknown):
		p.logger.Error("budget not read", "error", err.Error())
		if q.cfg.LedgerOnFailure == "refuse" {
			return errLedger
		}
	case err != nil:
		return err
	default:
		at = r.At()
	}
	for _, l := range limits {
		x.draw.draws = append(x.draw.draws, ledger.Draw{Scope: l.Scope, Start: l.Per.Grain(at)})
	}
	return nil
}

// mostOutput is what an answer may have: what the client allows, or else what
// is expected.
func mostOutput(x *exchange) int64 {
	if x.req.estimate.MaxOutput > 0 {
		return x.req.estimate.MaxOutput
	}
	return x.req.estimate.Output
}

// settleBudget puts what the row says in the reservation's place. Where there
// is none, since the budgets could not be read, whoever reads them later must
// not miss the row.
func (x *exchange) settleBudget() {
	if x.draw.reservation == nil {
		for _, d := range x.draw.draws {
			x.p.budgets.Reread(d.Scope)
		}
		return
	}
	use := x.row.Drawn()
	use.Start = x.draw.reservation.At()
	amount, _ := drawn(x.p.settings.Load().Prices, use) // by the prices of budgetUsed, which a reload may have changed
	x.draw.reservation.Settle(amount)
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
func (p *Proxy) budgetUsed(ctx context.Context, l budget.Limit, since time.Time) (sum budget.Amount, err error) {
	uses, err := p.ledger.BudgetUse(ctx, l.Scope, since)
	cfg := p.settings.Load()
	for _, u := range uses {
		amount, _ := drawn(cfg.Prices, u)
		sum = sum.Plus(amount)
	}
	return sum, err
}

// budgetUsedUp and BudgetPassed make a budget that only warns heard.
func (p *Proxy) budgetUsedUp(l budget.Limit) {
	p.logger.Warn("budget used up", "rule", l.Name, "budget", strings.ReplaceAll(l.Scope, "\x1f", " / "), "per", string(l.Per))
}

func (p *Proxy) budgetPassed(l budget.Limit) { p.metrics.BudgetPassed.WithLabelValues(l.Name).Inc() }
