package provider

import (
	"math/rand/v2"
	"time"
)

// Variant is how a provider charges tokens. See the package comment.
type Variant int

// The families of providers.
const (
	Continuous Variant = iota // charges an estimate at admission, refills continuously, no refund (OpenAI)
	Window                    // charges an estimate into a counter that resets each minute (Azure)
	Reserve                   // reserves prompt + max_tokens, settles to the real usage (Bedrock, Anthropic)
	PostPaid                  // charges the real usage at the end (self-hosted, Groq)
)

// String returns the variant's name in lower case.
func (v Variant) String() string {
	return [...]string{"continuous", "window", "reserve", "postpaid"}[v]
}

// AccountConfig describes the limits of one model. The zero value limits nothing.
type AccountConfig struct {
	Variant Variant

	RPM, TPM   int64 // requests and tokens per minute; 0: no limit
	ITPM, OTPM int64 // input and output tokens per minute apart; 0: no limit
	RPD, TPD   int64 // requests and tokens per day (a fixed window of UTC days); 0: no limit

	// RPMQuantum, when set, additionally admits at most RPM·RPMQuantum/min
	// requests (rounded up) in every slice of that length. Window defaults to 10 s.
	RPMQuantum time.Duration

	// Burst is the capacity of the per-minute buckets as refill time; default a minute.
	Burst time.Duration

	// DefaultMaxTokens is what Window and Reserve assume for a request without
	// max_tokens; default 4096.
	DefaultMaxTokens int64

	CachedFree   bool // cached prompt tokens are not charged at settlement
	CountRefused bool // a request refused with 429 still counts against RPM, as OpenAI documents

	Foreign Foreign
}

// Foreign is use of the same limits by others, whom the client cannot see.
type Foreign struct {
	Share float64       // part of RPM and TPM that they use, 0 to 1
	After time.Duration // since the account's first request
	Seed  uint64
}

// Ask is one request as an account sees it.
type Ask struct {
	Input     int64 // exact prompt tokens
	Chars     int64 // characters of the prompt; 0: four for each input token
	MaxOutput int64 // max_tokens; 0: not given
	N         int64 // choices asked for; 0: one
}

// Used is what a request came to.
type Used struct {
	Input, Cached, Output int64 // Input includes Cached
}

// Level is what the provider tells about one limit in its headers.
type Level struct {
	Limit, Remaining int64 // Limit 0: no such limit. Remaining is not below 0
	Reset            time.Duration
}

// Levels are those of an account's per-minute limits.
type Levels struct{ Requests, Tokens, Input, Output Level }

// Verdict is the answer to an Ask.
type Verdict struct {
	OK        bool
	Permanent bool // refused for ever: larger than the limit's capacity

	// Why and until when it was refused.
	RetryAfter             time.Duration
	Dimension              string // "requests", "tokens", "input_tokens" or "output_tokens"
	Per                    string // "min" or "day"
	Limit, Used, Requested int64  // Limit-Used is the level that refused

	Levels        // after the decision, for the headers
	Charged int64 // tokens taken at admission
}

// Account applies one model's limits. It is not safe for concurrent use, and it
// has no clock: callers pass times that do not run backwards.
type Account struct {
	cfg   AccountConfig
	gates []gate

	rng     *rand.Rand
	foreign time.Time // next request of the others; zero: none yet
}

// gate is one limit with what it counts.
type gate struct {
	dim, per string
	limit    int64 // as told to clients
	meter    meter
	slice    bool // a short slice of another limit: its own numbers are not told
}

// NewAccount returns a full account.
func NewAccount(cfg AccountConfig) *Account {
	if cfg.Burst <= 0 {
		cfg.Burst = time.Minute
	}
	if cfg.DefaultMaxTokens == 0 {
		cfg.DefaultMaxTokens = 4096
	}
	if cfg.RPMQuantum == 0 && cfg.Variant == Window {
		cfg.RPMQuantum = 10 * time.Second
	}
	a := &Account{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Foreign.Seed, 0x5eed))}
	perMinute := func(dim string, n int64) {
		switch {
		case n <= 0:
		case cfg.Variant == Window && dim != "requests":
			a.gates = append(a.gates, gate{dim, "min", n, &window{limit: n, length: time.Minute}, false})
		default:
			a.gates = append(a.gates, gate{dim, "min", n, newBucket(n, cfg.Burst), false})
		}
	}
	perMinute("requests", cfg.RPM)
	perMinute("tokens", cfg.TPM)
	perMinute("input_tokens", cfg.ITPM)
	perMinute("output_tokens", cfg.OTPM)
	if cfg.RPM > 0 && cfg.RPMQuantum > 0 {
		w := &window{limit: max(1, scale(cfg.RPM, cfg.RPMQuantum)), length: cfg.RPMQuantum}
		a.gates = append(a.gates, gate{"requests", "min", cfg.RPM, w, true})
	}
	const day = 24 * time.Hour
	if cfg.RPD > 0 {
		a.gates = append(a.gates, gate{"requests", "day", cfg.RPD, &window{limit: cfg.RPD, length: day}, false})
	}
	if cfg.TPD > 0 {
		a.gates = append(a.gates, gate{"tokens", "day", cfg.TPD, &window{limit: cfg.TPD, length: day}, false})
	}
	return a
}

// Admit decides on r and charges it when it is admitted. Every admitted request
// must be settled once.
func (a *Account) Admit(now time.Time, r Ask) Verdict {
	a.admitForeign(now)
	var v Verdict
	refused := -1
	for i, g := range a.gates {
		need := a.charge(g.dim, r)
		if a.cfg.Variant == PostPaid {
			need = 1 // any level above zero will do
		}
		d, possible := g.meter.wait(now, need)
		if !possible {
			refused, v.Permanent, v.RetryAfter = i, true, 0
			break
		}
		// The longest wait is the one worth telling: the others end before it.
		if d > v.RetryAfter {
			refused, v.RetryAfter = i, d
		}
	}
	if refused >= 0 {
		a.refuse(&v, now, r, a.gates[refused])
	} else {
		v.OK = true
		v.Charged = a.charge("tokens", r)
		for _, g := range a.gates {
			g.meter.take(now, a.charge(g.dim, r))
		}
	}
	v.Levels = a.Levels(now)
	return v
}

func (a *Account) refuse(v *Verdict, now time.Time, r Ask, g gate) {
	remaining, _ := g.meter.level(now)
	if g.slice {
		remaining = 0
	}
	v.Dimension, v.Per = g.dim, g.per
	v.Limit, v.Used, v.Requested = g.limit, g.limit-remaining, a.charge(g.dim, r)
	if a.cfg.CountRefused && g.dim != "requests" && !v.Permanent {
		for _, g := range a.gates {
			if g.dim == "requests" {
				g.meter.take(now, 1)
			}
		}
	}
}

// Settle corrects what Admit charged for r once its usage is known: nothing
// for providers that charge at admission only.
func (a *Account) Settle(now time.Time, r Ask, u Used) {
	if a.cfg.Variant == Continuous || a.cfg.Variant == Window {
		return
	}
	in := u.Input
	if a.cfg.CachedFree {
		in -= min(in, u.Cached)
	}
	for _, g := range a.gates {
		var actual int64
		switch g.dim {
		case "tokens":
			actual = in + u.Output
		case "input_tokens":
			actual = in
		case "output_tokens":
			actual = u.Output
		default:
			continue
		}
		g.meter.take(now, actual-a.charge(g.dim, r))
	}
}

// Levels returns what is left of the per-minute limits.
func (a *Account) Levels(now time.Time) (l Levels) {
	for _, g := range a.gates {
		if g.per != "min" || g.slice {
			continue
		}
		remaining, reset := g.meter.level(now)
		level := Level{Limit: g.limit, Remaining: max(0, remaining), Reset: reset}
		switch g.dim {
		case "requests":
			l.Requests = level
		case "tokens":
			l.Tokens = level
		case "input_tokens":
			l.Input = level
		case "output_tokens":
			l.Output = level
		}
	}
	return l
}

// charge is what Admit takes for r.
func (a *Account) charge(dim string, r Ask) int64 {
	estimate := (r.Chars + 3) / 4
	if r.Chars == 0 {
		estimate = r.Input
	}
	output := r.MaxOutput * max(1, r.N)
	if output == 0 && a.cfg.Variant != Continuous {
		output = a.cfg.DefaultMaxTokens * max(1, r.N)
	}
	if dim == "requests" {
		return 1
	}
	switch a.cfg.Variant {
	case PostPaid:
		return 0
	case Reserve:
		estimate = r.Input
	}
	switch {
	case dim == "input_tokens":
		return estimate
	case dim == "output_tokens":
		return output
	case a.cfg.Variant == Continuous:
		return max(output, estimate)
	}
	return estimate + output
}

// admitForeign plays the others' requests up to now: Poisson arrivals, each of the
// size that makes Share the same part of both limits. They always get theirs, into
// debt if need be: a client that takes all there is must not starve them away.
func (a *Account) admitForeign(now time.Time) {
	share := a.cfg.Foreign.Share
	if share <= 0 || a.cfg.RPM+a.cfg.TPM <= 0 {
		return
	}
	perMinute, size := float64(a.cfg.RPM), a.cfg.TPM/max(1, a.cfg.RPM)
	if a.cfg.RPM == 0 {
		perMinute, size = float64(a.cfg.TPM)/1000, 1000
	}
	mean := float64(time.Minute) / (perMinute * share)
	if a.foreign.IsZero() {
		a.foreign = now.Add(a.cfg.Foreign.After + time.Duration(a.rng.ExpFloat64()*mean))
	}
	for ; !a.foreign.After(now); a.foreign = a.foreign.Add(time.Duration(a.rng.ExpFloat64() * mean)) {
		for _, g := range a.gates {
			amount := size
			if g.dim == "requests" {
				amount = 1
			}
			g.meter.take(a.foreign, amount)
		}
	}
}
