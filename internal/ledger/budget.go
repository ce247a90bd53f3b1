package ledger

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A Draw says that a request counts against a budget. The ledger keeps totals for each Scope,
// Start and model, in the transaction that stores the record: a budget is as exact as
// the totals are, and as durable. They stay when the session or its records go.
type Draw struct {
	Scope string    // names the budget; at most 256 bytes, valid UTF-8 without NUL
	Start time.Time // of the hour or day that the request counts in
}

// BudgetUse is what was drawn in one hour or day, for one model.
type BudgetUse struct {
	Start time.Time
	Model llm.Model
	Sums
	Estimated llm.Usage // of the requests of UnknownUsage, which are in no other sum
}

// maxDraws bounds the budgets of one request.
const maxDraws = 8

// checkDraws refuses what could not be stored: one bad string fails its whole batch.
func checkDraws(draws []Draw) error {
	if len(draws) > maxDraws {
		return fmt.Errorf("%w: %d budgets", ErrInvalid, len(draws))
	}
	for _, d := range draws {
		if d.Scope == "" || !storable(d.Scope, maxTextBytes) {
			return fmt.Errorf("%w: budget scope", ErrInvalid)
		}
		if d.Start.UnixMilli() < 0 || d.Start.Year() > 9999 {
			return fmt.Errorf("%w: budget start %v", ErrInvalid, d.Start)
		}
	}
	return nil
}

// budgetKey names one line of a budget's totals; start is in unix ms.
type budgetKey struct {
	scope string
	start int64
	model llm.Model
}

func (k budgetKey) compare(o budgetKey) int {
	return cmp.Or(cmp.Compare(k.scope, o.scope), cmp.Compare(k.start, o.start), cmp.Compare(k.model, o.model))
}

// budgetSums is one such line.
type budgetSums struct {
	Sums
	estimated llm.Usage
}

func (s budgetSums) plus(o budgetSums, sign int64) budgetSums {
	s.Add(o.Sums, sign)
	s.estimated.Add(o.estimated, sign)
	return s
}

// sumBudgets adds up what new records draw, and takes off what those drew that they replaced, in
// key order for the reason of [delta]. A replaced record drew on the budgets of the one in its place.
func sumBudgets(records, replaced []Record) (keys []budgetKey, sums map[budgetKey]budgetSums) {
	sums = map[budgetKey]budgetSums{}
	one := func(r *Record, draws []Draw, sign int64) {
		c := drawnBy(r)
		if c == (budgetSums{}) {
			return
		}
		for _, d := range draws {
			k := budgetKey{d.Scope, d.Start.UnixMilli(), r.Billed()}
			sums[k] = sums[k].plus(c, sign)
		}
	}
	draws := map[ID][]Draw{}
	for i := range records {
		r := &records[i]
		one(r, r.Draws, 1)
		if len(replaced) > 0 {
			draws[r.ID] = r.Draws
		}
	}
	for i := range replaced {
		one(&replaced[i], draws[replaced[i].ID], -1)
	}
	return slices.SortedFunc(maps.Keys(sums), budgetKey.compare), sums
}

func drawnBy(r *Record) budgetSums {
	s := budgetSums{Sums: sumsOf(r)}
	if r.unknown() {
		s.estimated = llm.Usage{Input: r.EstimatedPrompt, Output: r.EstimatedOutput}
	}
	return s
}

// Drawn is what r adds to each of its Draws; its Start is zero. The Store counts the same.
func (r Record) Drawn() BudgetUse {
	if r.prepare() != nil {
		return BudgetUse{}
	}
	s := drawnBy(&r)
	return BudgetUse{Model: r.Billed(), Sums: s.Sums, Estimated: s.estimated}
}

func (s budgetSums) use(start int64, model llm.Model) BudgetUse {
	return BudgetUse{Start: time.UnixMilli(start).UTC(), Model: model, Sums: s.Sums, Estimated: s.estimated}
}

// The memory ledger's part.

func (m *memory) addBudgetsLocked(fresh, replaced []Record) {
	_, sums := sumBudgets(fresh, replaced)
	for k, c := range sums {
		m.budgets[k] = m.budgets[k].plus(c, 1)
	}
	shrink(m.budgets, func(a, b budgetKey) int { return cmp.Compare(a.start, b.start) })
}

func (m *memory) budget(_ context.Context, scope string, since time.Time) ([]BudgetUse, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []BudgetUse
	for k, c := range m.budgets {
		if k.scope == scope && k.start >= since.UnixMilli() {
			out = append(out, c.use(k.start, k.model))
		}
	}
	slices.SortFunc(out, func(a, b BudgetUse) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Model, b.Model))
	})
	return out, nil
}

// The databases' part.

type budgetRow struct {
	bun.BaseModel `bun:"table:budget_usage,alias:b"`

	ScopeID int64 `bun:"scope_id,pk"`
	Start   int64 `bun:"start,pk"`
	ModelID int64 `bun:"model_id,pk"`
	budgetColumns
}

type budgetColumns struct {
	sumColumns
	EstimatedPrompt int64 `bun:"estimated_prompt"`
	EstimatedOutput int64 `bun:"estimated_output"`
}

// drawRow is a budget that a request in flight draws on.
type drawRow struct {
	bun.BaseModel `bun:"table:inflight_draws"`

	ID    ID     `bun:"id,pk,type:blob"`
	Scope string `bun:"scope,pk"`
	Start int64  `bun:"start"`
}

var addToBudget = addTo("b") + ", estimated_prompt = b.estimated_prompt + excluded.estimated_prompt" +
	", estimated_output = b.estimated_output + excluded.estimated_output"

func addBudgets(ctx context.Context, tx bun.Tx, fresh, replaced []Record, names map[string]int64) error {
	keys, sums := sumBudgets(fresh, replaced)
	if len(keys) == 0 {
		return nil
	}
	rows := make([]budgetRow, len(keys))
	for i, k := range keys {
		s := sums[k]
		rows[i] = budgetRow{
			ScopeID: names[k.scope], Start: k.start, ModelID: names[string(k.model)],
			budgetColumns: budgetColumns{columnsOf(s.Sums), s.estimated.Input, s.estimated.Output},
		}
	}
	_, err := tx.NewInsert().Model(&rows).On("CONFLICT (scope_id, start, model_id) DO UPDATE").Set(addToBudget).
		Returning("NULL").Exec(ctx)
	return err
}

func storeDraws(ctx context.Context, tx bun.Tx, notes []Record) error {
	var rows []drawRow
	for i := range notes {
		for _, d := range notes[i].Draws {
			rows = append(rows, drawRow{ID: notes[i].ID, Scope: d.Scope, Start: d.Start.UnixMilli()})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	_, err := tx.NewInsert().Model(&rows).On("CONFLICT (id, scope) DO NOTHING").Returning("NULL").Exec(ctx)
	return err
}

func (b *sqlBackend) budget(ctx context.Context, scope string, since time.Time) ([]BudgetUse, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	var rows []struct {
		Start int64     `bun:"start"`
		Model llm.Model `bun:"model"`
		budgetColumns
	}
	err := b.read.NewSelect().TableExpr("budget_usage AS b").
		Join("JOIN names AS s ON s.id = b.scope_id").Join("JOIN names AS m ON m.id = b.model_id").
		ColumnExpr("b.start, m.name AS model, b.estimated_prompt, b.estimated_output").
		ColumnExpr("b."+strings.Join(sumNames[:], ", b.")).
		Where("s.name = ?", scope).Where("b.start >= ?", max(since.UnixMilli(), 0)).
		Order("b.start", "b.model_id").Scan(ctx, &rows)
	if err != nil {
		return nil, b.readErr("budget", err)
	}
	out := make([]BudgetUse, len(rows))
	for i, r := range rows {
		estimated := llm.Usage{Input: r.EstimatedPrompt, Output: r.EstimatedOutput}
		out[i] = budgetSums{r.sums(), estimated}.use(r.Start, r.Model)
	}
	return out, nil
}

// inflightDraws returns the budgets of requests in flight.
func (b *sqlBackend) inflightDraws(ctx context.Context, notes []noteRow) (map[ID][]Draw, error) {
	out := map[ID][]Draw{}
	for part := range slices.Chunk(notes, maxBatch) {
		ids := make([]ID, len(part))
		for i := range part {
			ids[i] = part[i].ID
		}
		var rows []drawRow
		if err := b.write.NewSelect().Model(&rows).Where("id IN (?)", bun.List(ids)).Order("id", "scope").Scan(ctx); err != nil {
			return nil, b.readErr("requests in flight", err)
		}
		for _, r := range rows {
			out[r.ID] = append(out[r.ID], Draw{r.Scope, time.UnixMilli(r.Start).UTC()})
		}
	}
	return out, nil
}
