package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// The usage of one session comes from its records, by the index of sessions and their time.

const (
	maxSessionRecords = 100_000
	// idSlack is how far an id's time may be from its record's start.
	idSlack = time.Minute
)

// span finds the part of the plan that an instant lies in.
func (p usagePlan) span(ms int64) (usageSpan, bool) {
	for _, s := range p.spans {
		if s.from <= ms && ms < s.to {
			return s, true
		}
	}
	return usageSpan{}, false
}

// ids is the range of ids that the plan's records can have.
func (p usagePlan) ids() (from, to ID) {
	first, last := p.spans[0].from, p.spans[len(p.spans)-1].to
	return idFloor(time.UnixMilli(first).Add(-idSlack)), idFloor(time.UnixMilli(last).Add(idSlack))
}

func (m *memory) sessionUsageLocked(p usagePlan) (usageSum, error) {
	asked := map[sessionName]bool{}
	for _, one := range p.sessions {
		asked[sessionName{one.Owner, one.ID}] = true
	}
	out := usageSum{}
	for _, r := range m.records {
		c := sumsOf(&r)
		s, inside := p.span(r.StartedAt.UnixMilli())
		if !asked[r.sessionName()] || !inside || c == (Sums{}) || p.only != "" && r.Client != p.only {
			continue
		}
		if err := out.add(p.key(s, r.StartedAt.UnixMilli(), r.Billed(), r.Client), c, p.maxRows); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sumsOfRequests is sumsOf in SQL, summed.
const sumsOfRequests = `
	sum(CASE WHEN r.metered = 1 AND r.status BETWEEN 200 AND 299 THEN 1 ELSE 0 END) AS requests,
	sum(CASE WHEN r.metered = 1 AND r.prompt_tokens IS NULL AND t.refused IS NULL AND (r.status = 0 OR r.status BETWEEN 200 AND 299) THEN 1 ELSE 0 END) AS unknown,
	coalesce(sum(r.prompt_tokens), 0) AS prompt_tokens, coalesce(sum(r.completion_tokens), 0) AS completion_tokens,
	coalesce(sum(r.cached_tokens), 0) AS cached_tokens, coalesce(sum(r.reasoning_tokens), 0) AS reasoning_tokens,
	coalesce(sum(t.cache_write_tokens), 0) AS cache_write_tokens,
	coalesce(sum(t.told_nano), 0) AS told_nano, coalesce(sum(t.told_femto), 0) AS told_femto`

func (b *sqlBackend) sessionUsage(ctx context.Context, p usagePlan) (usageSum, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	out, left := usageSum{}, maxSessionRecords
	if len(p.spans) == 0 {
		return out, nil
	}
	for _, one := range p.sessions {
		n, err := b.addUsageOf(ctx, p, one.seq, left, out)
		if err != nil {
			return nil, err
		}
		left -= n
	}
	return out, nil
}

// addUsageOf adds what one session used to out, and tells how many records it read. More than most are ErrInvalid.
func (b *sqlBackend) addUsageOf(ctx context.Context, p usagePlan, session int64, most int, out usageSum) (read int, err error) {
	from, to := p.ids()
	ofSession := func(q *bun.SelectQuery) *bun.SelectQuery {
		return q.TableExpr("requests AS r").Where("r.session_id = ?", session).Where("r.id >= ?", from).Where("r.id < ?", to)
	}
	first := ofSession(b.read.NewSelect()).ColumnExpr("r.id").OrderExpr("r.id").Limit(int64(most) + 1)
	if err := b.read.NewSelect().TableExpr("(?) AS first", first).ColumnExpr("count(*)").Scan(ctx, &read); err != nil {
		return 0, b.readErr("usage", err)
	}
	if read > most {
		return read, fmt.Errorf("usage: %w: the session has more than %d records in that time, ask for a shorter one", ErrInvalid, maxSessionRecords)
	}
	const hour = "r.started_at - r.started_at % 3600000"
	var rows []totalRow
	q := ofSession(b.read.NewSelect()).
		Join("JOIN names AS m ON m.id = r.model_id").Join("JOIN names AS a ON a.id = r.answered_id").Join("JOIN names AS c ON c.id = r.client_id").
		Join("LEFT JOIN request_told AS t ON t.id = r.id").
		ColumnExpr(hour + " AS start, CASE WHEN m.name = '' THEN a.name ELSE m.name END AS model, c.name AS client").
		ColumnExpr(sumsOfRequests).
		GroupExpr(hour + ", CASE WHEN m.name = '' THEN a.name ELSE m.name END, c.name")
	if p.only != "" {
		q = q.Where("c.name = ?", p.only)
	}
	if err := q.Scan(ctx, &rows); err != nil {
		return read, b.readErr("usage", err)
	}
	for _, row := range rows {
		s, inside := p.span(row.Start)
		if c := row.sums(); inside && c != (Sums{}) {
			if err := out.add(p.key(s, row.Start, row.Model, row.Client), c, p.maxRows); err != nil {
				return read, err
			}
		}
	}
	return read, nil
}
