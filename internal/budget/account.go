package budget

import (
	"math"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// An Amount is what a request costs in both measures a budget may have.
type Amount struct {
	Tokens int64 // never negative
	Money  llm.Money
}

// Plus returns a + b.
func (a Amount) Plus(b Amount) Amount {
	sum := Amount{a.Tokens + b.Tokens, a.Money.Add(b.Money)}
	if sum.Tokens < 0 {
		sum.Tokens = math.MaxInt64
	}
	return sum
}

func (a Amount) minus(b Amount) Amount {
	return Amount{max(0, a.Tokens-b.Tokens), a.Money.Sub(b.Money)}
}

// A Limit is one budget that a request draws on.
type Limit struct {
	Scope  string // whose budget it is; requests with equal scopes share it
	Name   string // for people
	Per    Period
	Tokens int64     // 0: not limited in tokens
	Money  llm.Money // zero: not limited in money
	Warn   bool      // let pass, and tell
}

// reached tells whether used is all that there was.
func (l *Limit) reached(used Amount) bool {
	return l.Tokens > 0 && used.Tokens >= l.Tokens || l.Money != llm.Money{} && used.Money.Cmp(l.Money) >= 0
}

// holds tells whether sum does not exceed the limit.
func (l *Limit) holds(sum Amount) bool {
	return (l.Tokens == 0 || sum.Tokens <= l.Tokens) && (l.Money == llm.Money{} || sum.Money.Cmp(l.Money) <= 0)
}

// limits tells whether l limits anything.
func (l *Limit) limits() bool { return l.Tokens > 0 || l.Money != llm.Money{} }

// of is the part of l that an amount draws on: what costs nothing draws on no money.
func (l *Limit) of(want Amount) *Limit {
	if want.Money != (llm.Money{}) {
		return l
	}
	part := *l
	part.Money = llm.Money{}
	return &part
}

// A verdict is the answer to one budget's request for an amount.
type verdict int

const (
	granted verdict = iota
	waits           // for reservations of others to end
	usedUp
)

// An account is the state of one budget in one period. It has no clock and no lock: it is the pure
// part of the package.
type account struct {
	start    time.Time // of the period; zero before the first load
	used     Amount    // settled
	reserved Amount
	held     int // reservations
}

// judge says whether an amount may be reserved. The order of the cases is the policy.
func (a *account) judge(l *Limit, want Amount) verdict {
	l = l.of(want)
	switch {
	case l.Warn:
		return granted
	case l.reached(a.used):
		return usedUp
	case l.holds(a.used.Plus(a.reserved).Plus(want)):
		return granted
	case a.held == 0:
		return granted // it does not fit, but something is left, and an estimate is no reason to refuse
	}
	return waits
}

func (a *account) reserve(want Amount) {
	a.reserved = a.reserved.Plus(want)
	a.held++
}

// settle puts what was used in the place of a reservation.
func (a *account) settle(reserved, used Amount) {
	a.reserved = a.reserved.minus(reserved)
	a.held--
	a.used = a.used.Plus(used)
}

// A Period is a budget's unit of time, in UTC.
type Period string

// Periods.
const (
	Hour  Period = "hour"
	Day   Period = "day"
	Month Period = "month"
	Ever  Period = "ever"
)

// Start returns when the period that t lies in began. Ever began at the Unix epoch.
func (p Period) Start(t time.Time) time.Time {
	t = t.UTC()
	switch p {
	case Hour:
		return t.Truncate(time.Hour)
	case Month:
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	case Ever:
		return time.Unix(0, 0).UTC()
	}
	return t.Truncate(24 * time.Hour)
}

// End returns when the period that began at start ends; zero: never.
func (p Period) End(start time.Time) time.Time {
	switch p {
	case Hour:
		return start.Add(time.Hour)
	case Month:
		return start.AddDate(0, 1, 0)
	case Ever:
		return time.Time{}
	}
	return start.AddDate(0, 0, 1)
}

// Grain returns the start of the hour (for Hour) or day in which the ledger has to count a
// draw at t: whole grains add up to a period, and prices change between days only.
func (p Period) Grain(t time.Time) time.Time {
	if p == Hour {
		return Hour.Start(t)
	}
	return Day.Start(t)
}
