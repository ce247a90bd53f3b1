package limit

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
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
	MaxWaitingTokens int64         // their prompts in tokens, and their answers as allowed; 0 = no bound
	MaxAttempts      int           // of a request, each turned away by the provider; 0 = 10

	// Source, when set, makes the source of a model's lane once the model has
	// answered, for sidecars that share their limits; nil as its answer is the clock
	// of this process. It is called with the lock held. What has changed what the
	// source says is told by wake. Caps over all models, and models that have not
	// answered, go by the clock. Reconfigure keeps the Source that New was given.
	Source func(model llm.Model, wake func()) lane.Source

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
	if err := lane.CheckProfile(c.Profile); err != nil {
		fault("profile: %w", err)
	}
	for i, m := range c.Models {
		key := fmt.Sprintf("models[%d]", i)
		if m.Pattern == "" {
			fault("%s.pattern: is empty", key)
		} else if err := llm.CheckPattern(m.Pattern); err != nil {
			fault("%s.pattern: %q: %w", key, m.Pattern, err)
		}
		if err := lane.CheckProfile(m.Profile); err != nil {
			fault("%s.profile: %w", key, err)
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
			fault("%s.%s: %v is negative", key, llm.Dimension(d), n)
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

func (l Limits) vector() llm.Vector {
	return llm.Vector{
		llm.Requests:     float64(l.RequestsPerMinute),
		llm.Tokens:       float64(l.TokensPerMinute),
		llm.InputTokens:  float64(l.InputTokensPerMinute),
		llm.OutputTokens: float64(l.OutputTokensPerMinute),
		llm.RequestsDay:  float64(l.RequestsPerDay),
		llm.TokensDay:    float64(l.TokensPerDay),
		llm.Concurrent:   float64(l.Concurrent),
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
