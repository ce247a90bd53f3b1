package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// Session is the running total of one session, or of all sessions of one id.
type Session struct {
	Owner string // the client whose session it is; "" for nobody's, and where it stands for several
	ID    string
	Sums
	FirstAt, LastAt time.Time

	seq int64 // the store's own number: tie-breaker of cursors
}

// SessionQuery asks for a page of sessions, the most recently used first.
type SessionQuery struct {
	Limit  int    // 0 = 50, at most 500
	Cursor string // NextCursor of the page before
}

// SessionPage is one page. A session that is used while somebody turns pages moves to
// the first page: it may be missed by that reader, never shown twice in one page.
type SessionPage struct {
	Sessions   []Session
	NextCursor string // "" = this was the last page
}

// RecordQuery asks for a page of a session's requests, the newest first.
type RecordQuery struct {
	Limit  int    // 0 = 50, at most 500
	Cursor string // NextCursor of the page before
}

// RecordPage is one page of records.
type RecordPage struct {
	Records    []Record
	NextCursor string // "" = this was the last page
}

// UsageQuery asks for totals between From (inclusive) and To (exclusive), widened to whole
// hours UTC; a zero From or To is open. By may hold "hour" or "day", "model", "client".
type UsageQuery struct {
	From, To time.Time
	By       []string

	// Client asks for the requests of one client only; "" for those of all.
	Client string

	// Session asks for one session only, or for those of one id. Rollups do not know sessions, so this reads its records in that
	// time, as long as retention keeps them; more than 100,000 are ErrInvalid.
	Session string

	// Cuts are instants at which the answer is cut apart besides, at whole days UTC: no row holds usage from
	// both sides of a cut. What changes with the days, such as prices, can then be applied to rows.
	Cuts    []time.Time
	MaxRows int // a longer answer is ErrInvalid; 0 = 20,000
}

// UsageRow is one total. Fields that were not asked for in By are zero.
type UsageRow struct {
	Time   time.Time // start of the hour or day, UTC
	Part   time.Time // the cut behind which all of it lies; zero: before the first
	Model  llm.Model
	Client string
	Sums
}

// ModelUse is what one model was asked for recently. Tokens are exact where the usage is known,
// else the estimate: the limiter's conservative start wants what the provider may have charged.
type ModelUse struct {
	Model    llm.Model
	Requests int64 // attempts sent, each charged by a provider
	llm.Usage
}

const (
	defaultPage  = 50
	maxPage      = 500
	maxUsageRows = 20_000 // a bound on one answer of Usage
)

func pageSize(limit int) int {
	if limit <= 0 {
		return defaultPage
	}
	return min(limit, maxPage)
}

// grain is a rollup's unit of time in milliseconds.
type grain int64

const (
	hourly grain = 60 * 60 * 1000
	daily  grain = 24 * hourly
)

func (g grain) floor(ms int64) int64 {
	r := ms % int64(g)
	if r < 0 {
		r += int64(g)
	}
	return ms - r
}

func (g grain) ceil(ms int64) int64 { return g.floor(ms + int64(g) - 1) }

// usageSpan is a part of a query that one rollup table answers: [from, to) in unix ms. part is the
// cut that it lies behind, 0 for none.
type usageSpan struct {
	grain    grain
	from, to int64
	part     int64
}

// usagePlan is a checked UsageQuery.
type usagePlan struct {
	only          string    // the client; "": all
	sessions      []Session // nil: whatever the session
	spans         []usageSpan
	maxRows       int
	step          grain // 0: no time in the answer
	model, client bool
}

// The range of instants a plan may speak of: years 1970 to 9999.
const endOfTime = int64(253402300800000)

// plan checks q and cuts its range into hours at the edges and whole days between,
// so that a question about years reads days, and the hourly table may be short.
func (q UsageQuery) plan() (p usagePlan, err error) {
	if p, err = q.uncut(); err != nil {
		return p, err
	}
	p.only, p.maxRows = q.Client, cmp.Or(q.MaxRows, maxUsageRows)
	cuts := make([]int64, len(q.Cuts))
	for i, cut := range q.Cuts {
		cuts[i] = daily.floor(cut.UnixMilli())
	}
	slices.Sort(cuts)
	var spans []usageSpan
	for _, s := range p.spans {
		for _, cut := range cuts {
			if s.from < cut && cut < s.to {
				spans = append(spans, usageSpan{s.grain, s.from, cut, s.part})
				s.from = cut
			}
			if cut <= s.from {
				s.part = cut
			}
		}
		spans = append(spans, s)
	}
	p.spans = spans
	return p, nil
}

func (q UsageQuery) uncut() (p usagePlan, err error) {
	for _, by := range q.By {
		switch by {
		case "hour":
			p.step = hourly
		case "day":
			p.step = max(p.step, daily)
		case "model":
			p.model = true
		case "client":
			p.client = true
		default:
			return p, fmt.Errorf("usage by %q: %w", by, ErrInvalid)
		}
	}
	if slices.Contains(q.By, "hour") && slices.Contains(q.By, "day") {
		return p, fmt.Errorf("usage by hour and day: %w", ErrInvalid)
	}
	from, to := int64(0), endOfTime
	if !q.From.IsZero() {
		from = min(max(hourly.floor(q.From.UnixMilli()), 0), endOfTime)
	}
	if !q.To.IsZero() {
		to = min(max(hourly.ceil(q.To.UnixMilli()), 0), endOfTime)
	}
	if from >= to {
		return p, nil
	}
	if p.step == hourly {
		p.spans = []usageSpan{{grain: hourly, from: from, to: to}}
		return p, nil
	}
	firstDay, lastDay := daily.ceil(from), daily.floor(to)
	if firstDay > lastDay { // within one day
		p.spans = []usageSpan{{grain: hourly, from: from, to: to}}
		return p, nil
	}
	for _, s := range []usageSpan{
		{grain: hourly, from: from, to: firstDay}, {grain: daily, from: firstDay, to: lastDay}, {grain: hourly, from: lastDay, to: to},
	} {
		if s.from < s.to {
			p.spans = append(p.spans, s)
		}
	}
	return p, nil
}

// usageKey is what rows of an answer are told apart by.
type usageKey struct {
	part, start int64
	model       llm.Model
	client      string
}

// usageSum gathers rows of several spans into one answer.
type usageSum map[usageKey]*Sums

func (p usagePlan) key(s usageSpan, start int64, model llm.Model, client string) usageKey {
	k := usageKey{part: s.part}
	if p.step != 0 {
		k.start = p.step.floor(start)
	}
	if p.model {
		k.model = model
	}
	if p.client {
		k.client = client
	}
	return k
}

// add counts c under k, unless the answer has grown beyond its bound.
func (s usageSum) add(k usageKey, c Sums, most int) error {
	have := s[k]
	if have == nil {
		if len(s) >= most {
			return fmt.Errorf("usage: %w: more than %d rows, ask for a shorter time", ErrInvalid, most)
		}
		have = new(Sums)
		s[k] = have
	}
	have.Add(c, 1)
	return nil
}

// rows returns the answer ordered by time, model, client.
func (s usageSum) rows(p usagePlan) []UsageRow {
	rows := make([]UsageRow, 0, len(s))
	for k, c := range s {
		row := UsageRow{Model: k.model, Client: k.client, Sums: *c}
		if p.step != 0 {
			row.Time = time.UnixMilli(k.start).UTC()
		}
		if k.part != 0 {
			row.Part = time.UnixMilli(k.part).UTC()
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b UsageRow) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Model, b.Model), cmp.Compare(a.Client, b.Client), a.Part.Compare(b.Part))
	})
	return rows
}
