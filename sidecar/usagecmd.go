package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
)

// A usageReport is what the usage command was asked for.
type usageReport struct {
	by, since, until, session, client, format string
	store                                     bool
}

// usageCommand shows what was used: asked of a running sidecar, or read from
// its store. settings reads the configuration.
func usageCommand(settings func() *config.Config, stdout io.Writer) *cobra.Command {
	var r usageReport
	command := &cobra.Command{
		Use: "usage", Short: "Show what sessions, models, days or clients have used", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lines, err := r.collect(cmd.Context(), settings(), time.Now())
			if err != nil {
				return err
			}
			return lines.write(stdout, r.format)
		},
	}
	flags := command.Flags()
	flags.StringVar(&r.by, "by", "", "session (the default), model, day, hour or client")
	flags.StringVar(&r.since, "since", "", `a time, a date, or how long ago, such as "7d" or "12h"; not by session`)
	flags.StringVar(&r.until, "until", "", "likewise")
	flags.StringVar(&r.session, "session", "", "only this session, from its rows that are still kept")
	flags.StringVar(&r.client, "client", "", "only this client, by the name of its key; without sessions also by its address")
	flags.StringVar(&r.format, "format", "table", "table, json or csv")
	flags.BoolVar(&r.store, "store", false, "read the store itself instead of asking the sidecar")
	return command
}

// A usageLine is one line of the report; name is what it is of.
type usageLine struct {
	name   string
	client *string // whose session it is; nil for nobody's, and for what is no session
	admin.UsageRow
}

// usageLines is a report: by says what its names are.
type usageLines struct {
	by       string
	currency *string
	lines    []usageLine
}

func (r usageReport) collect(ctx context.Context, cfg *config.Config, now time.Time) (out usageLines, err error) {
	if !slices.Contains([]string{"table", "json", "csv"}, r.format) {
		return out, &usageError{fmt.Errorf("--format=%q: want table, json or csv", r.format)}
	}
	by := cmp.Or(r.by, "session")
	if !slices.Contains([]string{"session", "model", "day", "hour", "client"}, by) {
		return out, &usageError{fmt.Errorf("--by=%q: want session, model, day, hour or client", r.by)}
	}
	since, err1 := instant(r.since, now)
	until, err2 := instant(r.until, now)
	if err := errors.Join(err1, err2); err != nil {
		return out, &usageError{err}
	}
	if by == "session" && r.session == "" && r.since+r.until != "" {
		return out, &usageError{errors.New("--since and --until: sessions have one total each; ask by model, day, hour or client")}
	}
	var from source = remote{cfg, r.client}
	if r.store {
		local, err := openStore(ctx, cfg, r.client)
		if err != nil {
			return out, err
		}
		defer local.Pricer.Ledger.Close(ctx)
		from = local
	}
	out.by = by
	if by == "session" && r.session == "" {
		rows, err := from.sessions(ctx)
		for _, s := range rows {
			out.lines = append(out.lines, usageLine{s.SessionID, s.Client, admin.UsageRow{
				RequestCount: s.RequestCount, UnknownUsageCount: s.UnknownUsageCount, PromptTokens: s.PromptTokens,
				CompletionTokens: s.CompletionTokens, CachedTokens: s.CachedTokens, ReasoningTokens: s.ReasoningTokens,
			}})
		}
		return out, err
	}
	if since.IsZero() {
		since = time.Unix(0, 0)
		if by == "hour" {
			since = now.Add(-24 * time.Hour)
		}
	}
	if until.IsZero() {
		until = now
	}
	query := ledger.UsageQuery{From: since, To: until, By: []string{by}, Session: r.session, Client: r.client}
	if by == "session" {
		query.By = nil
	}
	answer, err := from.Usage(ctx, query)
	out.currency = answer.Currency
	for _, row := range answer.Rows {
		name := row.Time
		switch {
		case row.Model != nil:
			name = *row.Model
		case row.Client != nil:
			name = *row.Client
		case by == "session":
			name = r.session
		case by == "day":
			name = name[:min(len(name), len(time.DateOnly))]
		}
		out.lines = append(out.lines, usageLine{name: name, UsageRow: row})
	}
	return out, err
}

// instant reads a time, a date, or how long ago; "" is the zero time.
func instant(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := config.ParseRetention(text); err == nil {
		return now.Add(-ago), nil
	}
	t, err := admin.ParseTime(text, now)
	if err != nil {
		return t, fmt.Errorf(`%q: want a time such as 2026-01-31T12:00:00Z, a date, or how long ago, such as "7d"`, text)
	}
	return t, nil
}

// write prints the report. A table is for people, JSON and CSV are exact and complete.
func (u usageLines) write(w io.Writer, format string) error {
	head := []string{u.by, "requests", "unknown", "prompt", "completion", "cached", "reasoning"}
	if u.currency != nil {
		head = append(head, "cost "+*u.currency, "unpriced")
	}
	told := format == "csv" || slices.ContainsFunc(u.lines, func(l usageLine) bool { return l.CacheWriteTokens > 0 || l.ToldCost != nil })
	if told {
		head = append(head, "cache write", "told USD")
	}
	clients := slices.ContainsFunc(u.lines, func(l usageLine) bool { return l.client != nil })
	if clients {
		head = append(head, "client")
	}
	cells := func(l usageLine) []string {
		row := []string{
			l.name, number(l.RequestCount), number(l.UnknownUsageCount), number(l.PromptTokens),
			number(l.CompletionTokens), number(l.CachedTokens), number(l.ReasoningTokens),
		}
		if u.currency != nil {
			cost := ""
			if l.Cost != nil {
				cost = *l.Cost
			}
			row = append(row, cost, number(l.UnpricedTokens))
		}
		if told {
			cost := ""
			if l.ToldCost != nil {
				cost = *l.ToldCost
			}
			row = append(row, number(l.CacheWriteTokens), cost)
		}
		if clients {
			row = append(row, clientName(l))
		}
		return row
	}
	switch format {
	case "json":
		rows := []map[string]any{}
		for _, l := range u.lines {
			row := map[string]any{
				u.by: l.name, "request_count": l.RequestCount, "unknown_usage_count": l.UnknownUsageCount, "prompt_tokens": l.PromptTokens,
				"completion_tokens": l.CompletionTokens, "cached_tokens": l.CachedTokens, "reasoning_tokens": l.ReasoningTokens,
				"cache_write_tokens": l.CacheWriteTokens, "told_cost": l.ToldCost,
			}
			if u.currency != nil {
				row["cost"], row["unpriced_tokens"] = l.Cost, l.UnpricedTokens
			}
			if clients {
				row["client"] = l.client
			}
			rows = append(rows, row)
		}
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		return out.Encode(map[string]any{"by": u.by, "currency": u.currency, "rows": rows})
	case "csv":
		out := csv.NewWriter(w)
		_ = out.Write(head)
		for _, l := range u.lines {
			row := cells(l)
			row[0], row[len(row)-1] = inert(row[0]), inert(row[len(row)-1]) // names, or a number
			_ = out.Write(row)
		}
		out.Flush()
		return out.Error()
	}
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	for i := range head {
		head[i] = strings.ToUpper(head[i])
	}
	fmt.Fprintln(out, strings.Join(head, "\t")+"\t")
	for _, l := range u.lines {
		row := cells(l)
		row[0] = cmp.Or(ledger.CleanName(row[0]), "(none)")
		fmt.Fprintln(out, strings.Join(row, "\t")+"\t")
	}
	return out.Flush()
}

func clientName(l usageLine) string {
	if l.client == nil {
		return ""
	}
	return *l.client
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// inert keeps a spreadsheet from taking a name for a formula: clients choose
// names of models and sessions (OWASP, CSV injection).
func inert(name string) string {
	if name != "" && strings.ContainsRune("=+-@\t\r\n", rune(name[0])) {
		return "'" + name
	}
	return name
}
