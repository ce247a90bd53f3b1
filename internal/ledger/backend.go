package ledger

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
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
	// tend shows other processes that this one lives, and books as Interrupted what dead ones had in
	// flight. The committer calls it at Open, and regularly.
	tend(ctx context.Context) (booked int, err error)

	probe(ctx context.Context) error // could a write succeed now; from anywhere, at any time
	loadState(ctx context.Context, name string) ([]byte, error)
	session(ctx context.Context, key string) (Session, error)
	sessions(ctx context.Context, after *sessionCursor, limit int) ([]Session, error)
	sessionsBySeq(ctx context.Context, after int64, limit int) ([]Session, error)
	requests(ctx context.Context, key string, before *ID, limit int) ([]Record, error)
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

// counters is one line of sums, of a session or of a rollup.
type counters struct {
	Requests, Unknown                     int64
	Prompt, Completion, Cached, Reasoning int64
}

func (c *counters) add(d counters) {
	c.Requests += d.Requests
	c.Unknown += d.Unknown
	c.Prompt += d.Prompt
	c.Completion += d.Completion
	c.Cached += d.Cached
	c.Reasoning += d.Reasoning
}

func (c counters) negative() counters {
	return counters{-c.Requests, -c.Unknown, -c.Prompt, -c.Completion, -c.Cached, -c.Reasoning}
}

// countersOf is what one record adds to its session and rollups.
func countersOf(r *Record) counters {
	c := counters{Prompt: r.Usage.Prompt, Completion: r.Usage.Completion, Cached: r.Usage.Cached, Reasoning: r.Usage.Reasoning}
	if r.counted() {
		c.Requests = 1
	}
	if r.unknown() {
		c.Unknown = 1
	}
	return c
}

// sessionDelta is what a batch adds to one session.
type sessionDelta struct {
	key, parent     string
	counters        counters
	firstMs, lastMs int64
}

// rollupKey names one line of a rollup; start is in unix ms.
type rollupKey struct {
	grain         grain
	start         int64
	model, client string
}

// delta is what a batch of new records adds up to, each list in key order: a fixed order
// of row locks is what keeps several writers of one Postgres from deadlock.
type delta struct {
	sessions []sessionDelta
	rollups  []rollupKey
	sums     map[rollupKey]counters
}

// sum adds up records that are new to the store, and takes off those that they replaced. Rollups go by the model that was asked for,
// since prices do; and leave out refusals, so that invented model names
// leave no trace in them.
func sum(records, replaced []Record) delta {
	sessions := map[string]*sessionDelta{}
	d := delta{sums: map[rollupKey]counters{}}
	one := func(r *Record, c counters) {
		startMs := r.StartedAt.UnixMilli()
		if r.Session != "" {
			s := sessions[r.Session]
			if s == nil {
				s = &sessionDelta{key: r.Session, firstMs: startMs}
				sessions[r.Session] = s
			}
			s.counters.add(c)
			s.firstMs = min(s.firstMs, startMs)
			s.lastMs = max(s.lastMs, startMs+r.Total.Milliseconds())
			s.parent = cmp.Or(r.Parent, s.parent)
		}
		if c == (counters{}) {
			return
		}
		for _, g := range []grain{hourly, daily} {
			k := rollupKey{g, g.floor(startMs), cmp.Or(r.Model, r.AnsweredModel), r.Client}
			line := d.sums[k]
			line.add(c)
			d.sums[k] = line
		}
	}
	for i := range records {
		one(&records[i], countersOf(&records[i]))
	}
	for i := range replaced {
		one(&replaced[i], countersOf(&replaced[i]).negative())
	}
	for _, key := range slices.Sorted(maps.Keys(sessions)) {
		d.sessions = append(d.sessions, *sessions[key])
	}
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
		u.PromptTokens, u.CompletionTokens = r.Usage.Prompt, r.Usage.Completion
	case r.unknown():
		u.PromptTokens, u.CompletionTokens = r.EstimatedPrompt, r.EstimatedOutput
	}
	return u
}

// gather adds up uses by model, in name order.
func gather(uses []ModelUse) []ModelUse {
	byModel := map[string]*ModelUse{}
	for _, u := range uses {
		have := byModel[u.Model]
		if have == nil {
			have = &ModelUse{Model: u.Model}
			byModel[u.Model] = have
		}
		have.Requests += u.Requests
		have.PromptTokens += u.PromptTokens
		have.CompletionTokens += u.CompletionTokens
	}
	out := make([]ModelUse, 0, len(byModel))
	for _, name := range slices.Sorted(maps.Keys(byModel)) {
		out = append(out, *byModel[name])
	}
	return out
}
