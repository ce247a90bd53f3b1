package lane

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A Source says who may take of a lane's limits, and when. It owns what has to be
// common to all who share a limit: its level, the caution after a 429, the
// comparison with the provider's headers, and what others use of it. Alone, that
// is a [Clock]. Where several sidecars share a limit it is what they were granted,
// earmarked for a client: such a source may hold back one client and not the next.
//
// A source knows no profile, no pause and no breaker; those stay the lane's, and
// so does the learning of limits. A lane tells its source each limit before
// anything is taken of it.
//
// All methods are called under the limiter's lock, one at a time. They must not
// block, do I/O, or call the limiter. What takes time is done elsewhere; when it has
// changed what Ready would say, the limiter has to be woken, from a goroutine that
// holds no lock which a method takes.
//
// Charges are in the lane's own unit. A vector has 1 in Requests, RequestsDay and
// Concurrent where a request is taken.
type Source interface {
	// SetLimit tells a limit, or that it has changed. An Amount of zero lifts it.
	SetLimit(now llm.Instant, d llm.Dimension, l Limit)
	// Ready tells when an ask may be met, and what binds until then.
	Ready(now llm.Instant, a Ask) Verdict
	// Take books an ask's charge. Ready has just said that it may be taken now.
	Take(now llm.Instant, a Ask)
	// Return gives back amount of what client took at the instant taken. A negative
	// amount is a charge after the fact. Concurrent is 1 once, when the request ends.
	Return(now llm.Instant, client uint64, amount llm.Vector, taken llm.Instant)
	// Wait foretells how long an ask would wait if ahead went first, and which limit
	// binds. Nothing is booked.
	Wait(now llm.Instant, ahead llm.Vector, a Ask) (time.Duration, llm.Dimension)

	// Mark is the ledger as it stands before a request of that charge is sent. What
	// the provider answers speaks of then.
	Mark(now llm.Instant, charge llm.Vector) Mark
	// Told hands on what an answer's header says is left of d.
	Told(now llm.Instant, d llm.Dimension, s Sample)
	// Lower sets the level of d to at most level: the provider has said so of now.
	// reset is when a daily limit opens again; Never = not said.
	Lower(now llm.Instant, d llm.Dimension, level float64, reset llm.Instant)
	// Refused tells that the provider has refused a request for want of d.
	Refused(now llm.Instant, d llm.Dimension, r Refusal)
	// Prime books what an earlier process has used of the present periods.
	Prime(now llm.Instant, used llm.Vector)

	// Meters describes limits and levels for status pages.
	Meters(now llm.Instant) []Meter
	// Close tells that nothing more will be taken. What is unspent should go back.
	Close()
}

// A Listener is a source that wants to know who waits, to ask for what they need.
// It is told whenever nobody of a queue may go.
type Listener interface {
	Waiting(now llm.Instant, waiting []Backlog)
}

// An Ask is a request to go, or a part of one that is saved up.
type Ask struct {
	Client uint64
	Charge llm.Vector

	// Small: neither its client nor its session asks for more than it is due just now.
	// The reserve is there for it. Modest: its session does not, but its client does;
	// half of the reserve is there for it.
	Small, Modest bool

	Saver  uint64 // the number of a request that needs much, and may have saved; 0 = of any other
	Saving bool   // Charge is what Saver puts aside now, beside what is saved already
}

// A Backlog is what one client's requests in one band wait for, in the lane's own unit.
type Backlog struct {
	Client   uint64     // the same number in every process
	Band     int        // 0 is served first
	Weight   float64    // of the client, among clients
	Sessions []float64  // weights of its sessions that wait
	Head     llm.Vector // of the request that goes next: less is of no use
	Sum      llm.Vector // of all that wait, the head included
}

// A Verdict is the answer to a request to go.
type Verdict struct {
	At        llm.Instant   // at or before now: it may go. Never: only an event can tell.
	Limit     llm.Dimension // that binds; None for pauses and the like
	ThisAsker bool          // only this client is held back: the queue may serve the next
	ThisLane  bool          // the lane holds it back, and not the source, that others may take of
}

// A Refill says how what was charged comes back.
type Refill uint8

// The refills.
const (
	Continuous Refill = iota // a token bucket: a limit's worth in each period, up to the limit
	Sliding                  // a charge comes back one period later: for providers that count per fixed minute
	Daily                    // everything comes back once a day
	Slots                    // a slot comes back when its request ends
)

// A Limit is one limit as its source is told of it.
type Limit struct {
	Amount  float64 // that may be used in each period, or at once; this process's part. 0 = no limit
	Period  time.Duration
	Refill  Refill
	Paced   bool // judged by the second, though named by the minute: no burst
	Mirrors bool // the provider's own and all of it ours: what it says remains is our level
}

// A Mark is a source's ledger at one moment, in each dimension that headers tell
// levels of: the sum of all charges less refunds, and what was charged so shortly
// before that it may reach the provider later.
type Mark struct {
	Spent, Late [llm.OutputTokens + 1]float64
}

// A Sample is what one header says remains of a limit, with the ledger as it stood
// when the header's request was sent.
type Sample struct {
	Sent        llm.Instant
	Remaining   float64
	Spent, Late float64 // from the Mark

	family profile // that Spent was booked by
	loose  bool    // the limit may be for less than a minute: no word need fit the next
	ok     bool
}

// A Refusal is a 429 for want of some limit.
type Refusal struct {
	Signal *llm.Signal
	Sent   llm.Instant   // when the refused request was
	Asked  float64       // its charge in the dimension that the 429 names; 1 if it names none
	Spent  float64       // the ledger when it was sent; +Inf = not known
	Named  bool          // the 429 names the dimension
	Pause  time.Duration // for which the lane is paused
}

// A Meter is one limit and its level.
type Meter struct {
	Name    string // such as "tokens_per_minute"
	Limit   int64
	Learned bool    // from the provider's own words
	Level   float64 // what may still be charged now; negative is debt
	Rate    float64 // refill a second as it is counted on, after foreign use and caution; 0 where nothing flows
	Factor  float64 // caution after 429s, 1 = none
	Foreign float64 // use a second by others of the same key
	Guard   float64 // kept back
}
