package config

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
)

// The parts of the settings that the rooms below take, in their own words.

// LimitsDays tells whether some model has a limit per day.
func (f *File) LimitsDays() bool {
	return slices.ContainsFunc(f.Limits, func(l ModelLimit) bool { return l.RequestsPerDay > 0 || l.TokensPerDay > 0 })
}

// Limiter is the limiter's part of the settings.
func (c *Config) Limiter(logger *slog.Logger) limit.Config {
	lc := limit.Config{
		Global: limit.Limits{
			RequestsPerMinute: c.RequestsPerMinute, TokensPerMinute: c.TokensPerMinute, Concurrent: c.MaxConcurrent,
		},
		Provisional: c.LearnedRequests,
		Learn:       c.LearnLimits, Share: c.LimitShare, Profile: c.Profile,
		MaxWait: c.QueueMaxWait, MaxWaiting: int(c.QueueMaxRequests), MaxWaitingBytes: c.QueueMaxBytes,
		Logger: logger,
	}
	for _, l := range c.File.Limits {
		lc.Models = append(lc.Models, limit.ModelLimits{
			Pattern: l.Model, Profile: l.Profile,
			Limits: limit.Limits{
				RequestsPerMinute: l.RequestsPerMinute, TokensPerMinute: l.TokensPerMinute,
				InputTokensPerMinute: l.InputTokensPerMinute, OutputTokensPerMinute: l.OutputTokensPerMinute,
				RequestsPerDay: l.RequestsPerDay, TokensPerDay: l.TokensPerDay, Concurrent: l.Concurrent,
			},
		})
	}
	return lc
}

// Ledger is the ledger's part of the settings.
func (c *Config) Ledger(logger *slog.Logger) ledger.Config {
	// Both were checked with the file; an empty text is the default.
	keepRequests, _ := ParseRetention(c.File.Retention.Requests)
	keepHourly, _ := ParseRetention(c.File.Retention.Hourly)
	return ledger.Config{
		Type: c.RepositoryType, SQLiteDSN: c.SQLiteDSN, PostgresDSN: string(c.PostgresDSN), JournalPath: c.LedgerJournal,
		Durability: c.LedgerDurability, KeepRequests: keepRequests, KeepHourly: keepHourly, Logger: logger,
	}
}

// LimitsText says the limits in the start line.
func (c *Config) LimitsText() string {
	limitText := func(n int64, learned bool, unit string) string {
		switch {
		case learned && n > 0:
			return fmt.Sprintf("%d %s until learned", n, unit)
		case learned:
			return unit + " learned"
		case n == 0:
			return "no cap on " + unit
		}
		return fmt.Sprintf("%d %s", n, unit)
	}
	parts := []string{
		limitText(c.RequestsPerMinute, c.LearnedRequests && c.LearnLimits, "requests/min"),
		limitText(c.TokensPerMinute, c.LearnedTokens && c.LearnLimits, "tokens/min"),
	}
	if c.MaxConcurrent > 0 {
		parts = append(parts, fmt.Sprintf("%d concurrent", c.MaxConcurrent))
	}
	return strings.Join(parts, ", ")
}

// OperatorsAddr is where a running sidecar serves its own routes.
func (c *Config) OperatorsAddr() string {
	if c.AdminAddr != "" {
		return c.AdminAddr
	}
	return c.ListenAddr
}
