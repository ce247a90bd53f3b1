package ledger

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// backend is all that memory, SQLite and Postgres have to provide. The committer alone
// calls the writing methods, one at a time; reads come from anywhere, at any time.
// Errors of a backend wrap ErrUnavailable (try again later), or ErrInvalid (this batch
// holds something that can never be stored), or ErrNotFound.
type backend interface {
	// apply stores a batch, its totals and its rollups in one transaction and tells how
	// many records were new. Known ids change nothing. The batch holds no id twice.
	apply(ctx context.Context, b batch) (fresh int, err error)
	deleteSession(ctx context.Context, key string) (more bool, err error) // one slice
	prune(ctx context.Context, h horizon) (more bool, err error)          // one slice
	saveState(ctx context.Context, name string, data []byte) error
	keepState(ctx context.Context, name string, data []byte) (kept []byte, err error) // what is there, or else data
	// heartbeat shows other processes that this one lives, and books as Interrupted what dead ones had in
	// flight. The committer calls it at Open, and regularly.
	heartbeat(ctx context.Context) (booked int, err error)

	probe(ctx context.Context) error // could a write succeed now; from anywhere, at any time
	// revive is probe for a store that has failed: it first does what can be done, and says what that was. Nothing is
	// written beside it.
	revive(ctx context.Context) (done string, err error)
	readable(ctx context.Context) error // could every question be answered now
	loadState(ctx context.Context, name string) ([]byte, error)
	// named returns the sessions of an id: one for each client at most.
	named(ctx context.Context, w whose, id string) ([]Session, error)
	sessions(ctx context.Context, w whose, after *sessionCursor, limit int) ([]Session, error)
	// totals returns sums by id, in an order of its own, behind the one that it returned last.
	totals(ctx context.Context, w whose, after Session, limit int) ([]Session, error)
	requests(ctx context.Context, of Session, before *ID, limit int) ([]Record, error)
	usage(ctx context.Context, p usagePlan) (usageSum, error)
	budget(ctx context.Context, scope string, since time.Time) ([]BudgetUse, error)
	recentUse(ctx context.Context, since time.Time) ([]ModelUse, error)

	close(ctx context.Context) error
}

// batch is what one transaction takes.
type batch struct {
	records []Record
	notes   []Record // requests in flight: written so that a crash is visible
	clear   []ID     // of records: their notes were written earlier, and go
}

// horizon says what retention may remove: records and hourly totals that began before.
// A zero time removes nothing.
type horizon struct{ records, hours time.Time }

// tooOld refuses records from before what retention has removed: nobody can tell any more whether
// they were counted, and an id carries its time. A limit in the future comes from a clock that was wrong, and is none.
func tooOld(records []Record, pruned ID) error {
	if pruned.Time().After(time.Now()) {
		return nil
	}
	for i := range records {
		if compareIDs(records[i].ID, pruned) < 0 {
			return fmt.Errorf("%w: record %s is older than what the ledger keeps", ErrInvalid, records[i].ID)
		}
	}
	return nil
}

// Sums is one line of totals: of a session, of an hour or a day, or of a budget.
type Sums struct {
	Requests     int64 // metered, and answered 2xx
	UnknownUsage int64 // requests that may have cost tokens which nobody reported
	llm.Usage          // as far as it is exact

	ToldCost llm.Money // what providers said that it cost, in US dollars
}

// Add adds o to s; with a sign of −1 it takes o off.
func (s *Sums) Add(o Sums, sign int64) {
	s.Requests += sign * o.Requests
	s.UnknownUsage += sign * o.UnknownUsage
	s.Usage.Add(o.Usage, sign)
	if sign < 0 {
		s.ToldCost = s.ToldCost.Sub(o.ToldCost)
	} else {
		s.ToldCost = s.ToldCost.Add(o.ToldCost)
	}
}

// sumsOf is what one record adds to its session and rollups.
func sumsOf(r *Record) Sums {
	s := Sums{Usage: r.Usage, ToldCost: r.Told.Dollars()}
	if r.counted() {
		s.Requests = 1
	}
	if r.unknown() {
		s.UnknownUsage = 1
	}
	return s
}

// sessionDelta is what a batch adds to one session.
type sessionDelta struct {
	sessionName
	parent          string
	sums            Sums
	firstMs, lastMs int64
}

// rollupKey names one line of a rollup; start is in unix ms.
type rollupKey struct {
	grain  grain
	start  int64
	model  llm.Model
	client string
}

// delta is what a batch of new records adds up to, each list in key order: a fixed order
// of row locks is what keeps several writers of one Postgres from deadlock.
type delta struct {
	sessions []sessionDelta
	rollups  []rollupKey
	sums     map[rollupKey]Sums
}

// sum adds up records that are new to the store, and takes off those that they replaced. Rollups go by the model that was asked for,
// since prices do; and leave out refusals, so that invented model names
// leave no trace in them.
func sum(records, replaced []Record) delta {
	sessions := map[sessionName]*sessionDelta{}
	d := delta{sums: map[rollupKey]Sums{}}
	one := func(r *Record, sign int64) {
		c := sumsOf(r)
		startMs := r.StartedAt.UnixMilli()
		if r.Session != "" {
			s := sessions[r.sessionName()]
			if s == nil {
				s = &sessionDelta{sessionName: r.sessionName(), firstMs: startMs}
				sessions[r.sessionName()] = s
			}
			s.sums.Add(c, sign)
			s.firstMs = min(s.firstMs, startMs)
			s.lastMs = max(s.lastMs, startMs+r.Total.Milliseconds())
			s.parent = cmp.Or(r.Parent, s.parent)
		}
		if c == (Sums{}) {
			return
		}
		for _, g := range []grain{hourly, daily} {
			k := rollupKey{g, g.floor(startMs), r.Billed(), r.Client}
			line := d.sums[k]
			line.Add(c, sign)
			d.sums[k] = line
		}
	}
	for i := range records {
		one(&records[i], 1)
	}
	for i := range replaced {
		one(&replaced[i], -1)
	}
	for _, s := range sessions {
		d.sessions = append(d.sessions, *s)
	}
	slices.SortFunc(d.sessions, func(a, b sessionDelta) int { return cmp.Compare(a.key(), b.key()) })
	d.rollups = slices.SortedFunc(maps.Keys(d.sums), func(a, b rollupKey) int {
		return cmp.Or(cmp.Compare(a.grain, b.grain), cmp.Compare(a.start, b.start),
			cmp.Compare(a.model, b.model), cmp.Compare(a.client, b.client))
	})
	return d
}

// used is what recentUse counts for one record.
func used(r *Record) ModelUse {
	u := ModelUse{Model: r.Model, Requests: int64(max(r.Attempts, 1))}
	switch {
	case r.UsageKnown:
		u.Usage = r.Usage
	case r.unknown():
		u.Usage = llm.Usage{Input: r.EstimatedPrompt, Output: r.EstimatedOutput}
	}
	return u
}

// gather adds up uses by model, in name order.
func gather(uses []ModelUse) []ModelUse {
	byModel := map[llm.Model]*ModelUse{}
	for _, u := range uses {
		have := byModel[u.Model]
		if have == nil {
			have = &ModelUse{Model: u.Model}
			byModel[u.Model] = have
		}
		have.Requests += u.Requests
		have.Usage.Add(u.Usage, 1)
	}
	out := make([]ModelUse, 0, len(byModel))
	for _, name := range slices.Sorted(maps.Keys(byModel)) {
		out = append(out, *byModel[name])
	}
	return out
}
