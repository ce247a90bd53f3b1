package limit

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path"
	"time"
)

// Limits are a provider's limits, or caps of ours. Zero means none.
type Limits struct {
	RequestsPerMinute     int64
	TokensPerMinute       int64
	InputTokensPerMinute  int64
	OutputTokensPerMinute int64
	RequestsPerDay        int64
	TokensPerDay          int64
	Concurrent            int64 // requests in flight
}

// ModelLimits are the limits of every model that Pattern matches, each model
// for itself.
type ModelLimits struct {
	Pattern string // as path.Match, but * matches slashes too; the first match wins
	Limits
	Profile string // "" = Config.Profile
}

// Config is everything a Limiter can be told. The zero value lets everything
// pass and learns nothing.
type Config struct {
	Global      Limits // caps over all groups together
	Provisional bool   // Global.RequestsPerMinute is a mere default: it falls when the upstream's headers name a limit
	Models      []ModelLimits
	Learn       bool    // take limits and levels from Signals
	Share       float64 // this process's part of every limit, in (0, 1]; 0 = 1
	Profile     string  // "auto" (or ""), "openai", "azure", "anthropic", "postpaid"

	MaxWait          time.Duration // longest wait of a request, all attempts together; 0 = 240 s
	MaxWaiting       int           // requests in the queue; 0 = 10,000
	MaxWaitingBytes  int64         // their body bytes; 0 = no bound
	MaxWaitingTokens int64         // their charges in tokens; 0 = no bound
	MaxAttempts      int           // of a request, each turned away by the provider; 0 = 10

	// Shared, when set, makes the Budget that stands in the place of a model's own
	// buckets, for sidecars that lease from one engine. It is called with the lock
	// held, once the model has answered, and again when l changes; l are the limits
	// that are configured for the model (zero: the engine must learn them). nil as
	// the answer means own buckets. Until a model has answered, its few requests
	// are booked here; Global caps are this process's own. Reconfigure keeps the
	// Shared that New was given.
	Shared func(model string, l Limits, wake func()) Budget

	Logger *slog.Logger // nil = discard
}

const (
	defaultMaxWait     = 240 * time.Second
	defaultMaxWaiting  = 10_000
	defaultMaxAttempts = 10
)

// Validate reports every fault at once, each naming its key.
func (c Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	c.Global.validate("global", fault)
	if math.IsNaN(c.Share) || c.Share < 0 || c.Share > 1 {
		fault("share: %v is not in (0, 1]", c.Share)
	}
	if _, ok := profileNamed(c.Profile); !ok {
		fault("profile: %q is not one of auto, openai, azure, anthropic, postpaid", c.Profile)
	}
	for i, m := range c.Models {
		key := fmt.Sprintf("models[%d]", i)
		if m.Pattern == "" {
			fault("%s.pattern: is empty", key)
		} else if _, err := path.Match(plainSlash(m.Pattern), "x"); err != nil {
			fault("%s.pattern: %q: %w", key, m.Pattern, err)
		}
		if _, ok := profileNamed(m.Profile); !ok {
			fault("%s.profile: %q is not one of auto, openai, azure, anthropic, postpaid", key, m.Profile)
		}
		m.validate(key, fault)
	}
	for _, n := range []struct {
		key   string
		value int64
	}{
		{"max_wait", int64(c.MaxWait)},
		{"max_waiting", int64(c.MaxWaiting)},
		{"max_waiting_bytes", c.MaxWaitingBytes},
		{"max_waiting_tokens", c.MaxWaitingTokens},
		{"max_attempts", int64(c.MaxAttempts)},
	} {
		if n.value < 0 {
			fault("%s: %d is negative", n.key, n.value)
		}
	}
	return errors.Join(errs...)
}

func (l Limits) validate(key string, fault func(string, ...any)) {
	v := l.vector()
	for d, n := range v {
		if n < 0 {
			fault("%s.%s: %d is negative", key, dimension(d), n)
		}
	}
	// A day that is shorter than one of its minutes is a slip of the pen.
	if l.RequestsPerDay > 0 && l.RequestsPerDay < l.RequestsPerMinute {
		fault("%s.requests_per_day: %d is below requests_per_minute %d", key, l.RequestsPerDay, l.RequestsPerMinute)
	}
	if l.TokensPerDay > 0 && l.TokensPerDay < l.TokensPerMinute {
		fault("%s.tokens_per_day: %d is below tokens_per_minute %d", key, l.TokensPerDay, l.TokensPerMinute)
	}
}

func (l Limits) vector() [numDimensions]int64 {
	return [numDimensions]int64{
		dimRequests:    l.RequestsPerMinute,
		dimTokens:      l.TokensPerMinute,
		dimInput:       l.InputTokensPerMinute,
		dimOutput:      l.OutputTokensPerMinute,
		dimRequestsDay: l.RequestsPerDay,
		dimTokensDay:   l.TokensPerDay,
		dimConcurrent:  l.Concurrent,
	}
}

func (c Config) withDefaults() Config {
	if c.Share == 0 {
		c.Share = 1
	}
	if c.MaxWait == 0 {
		c.MaxWait = defaultMaxWait
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = defaultMaxWaiting
	}
	if c.MaxAttempts == 0 {
		c.MaxAttempts = defaultMaxAttempts
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}
