package limit

import "time"

// A Snapshot is the limiter's state at one moment, for status pages and metrics.
type Snapshot struct {
	Waiting       int
	WaitingBytes  int64
	WaitingTokens int64
	InFlight      int
	Draining      bool
	Global        []Meter
	Groups        []GroupState

	Granted   uint64 // places granted since the start
	Throttled uint64 // 429s absorbed
	Refused   map[Reason]uint64
	Abandoned uint64 // waiters whose caller left

	// ForecastError is the mean of |actual − forecast| / actual over recent waits
	// of a second and more; 0 until there was one.
	ForecastError float64
}

// GroupState is one limit group in a Snapshot.
type GroupState struct {
	Name        string
	Aliases     []string
	Profile     string
	Waiting     int
	InFlight    int
	Paused      time.Duration // left of the provider's pause
	ServiceTime time.Duration // learned 95th percentile, send to settle
	Meters      []Meter
	Sessions    []SessionState // those waiting, in no particular order
}

// SessionState is a session that waits or is being served.
type SessionState struct {
	Client, Session string
	Priority        Priority
	Weight          float64
	Waiting         int
	InFlight        int
	Tokens          int64         // charges waiting
	Oldest          time.Duration // how long its first request has waited
	Lag             float64       // virtual time it is ahead (+) of its client's clock, in seconds of the limit
}

// A Meter is one limit and its level.
type Meter struct {
	Name    string // such as "tokens_per_minute"
	Limit   int64
	Learned bool    // from the provider's own words
	Level   float64 // what may still be charged now; negative is debt
	Rate    float64 // refill a second as we use it, after foreign use and caution
	Factor  float64 // caution after 429s, 1 = none
	Foreign float64 // use a second by others of the same key
	Guard   float64 // kept back
}
