//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// print writes the table: what the plain proxy took, and what the others took of that.
func (r results) print(w io.Writer, targets []*target) {
	fmt.Fprintf(w, "\n| | %s |", plain)
	for _, t := range targets {
		if t.name != plain {
			fmt.Fprintf(w, " %s |", t.name)
		}
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(targets)))
	for _, what := range rows {
		fmt.Fprintf(w, "| %s | %.3g %s |", what.name, median(r[what][plain]), what.unit)
		for _, t := range targets {
			if t.name == plain {
				continue
			}
			if t.name == direct && strings.HasPrefix(what.name, "CPU") {
				fmt.Fprint(w, " |") // what the provider itself costs
				continue
			}
			ratios := r.ratios(what, t.name)
			fmt.Fprintf(w, " %.2fx (%.2f–%.2f) |", median(ratios), slices.Min(ratios), slices.Max(ratios))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "| resident at rest, before the first request |")
	fmt.Fprintf(w, " %.1f MB |", float64(named(targets, plain).idle)/1e6)
	for _, t := range targets {
		switch t.name {
		case plain:
		case direct:
			fmt.Fprint(w, " |")
		default:
			fmt.Fprintf(w, " %.1f MB |", float64(t.idle)/1e6)
		}
	}
	fmt.Fprintln(w)
	added := make([]float64, 0, len(r[firstByte][plain]))
	for i, ours := range r[firstByte][memory] {
		added = append(added, ours-r[firstByte][plain][i])
	}
	fmt.Fprintf(w, "\nThe first event of a stream comes %.3f ms later than through the plain proxy.\n", median(added))
}

// ratios are a target's figures, each over the plain proxy's of the same round.
func (r results) ratios(what row, name string) []float64 {
	var out []float64
	for i, figure := range r[what][name] {
		out = append(out, figure/r[what][plain][i])
	}
	return out
}

// named is the target of that name, which is there.
func named(targets []*target, name string) *target {
	return targets[slices.IndexFunc(targets, func(t *target) bool { return t.name == name })]
}

// checkBooks compares what the sidecars have booked with what was answered. Speed at the
// price of the ledger would be none.
func checkBooks(ctx context.Context, w io.Writer, targets []*target) error {
	for _, t := range targets {
		if t.name == direct || t.name == plain {
			continue
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(t.url, "/v1")+"/sessions/status", nil)
		if err != nil {
			return err
		}
		resp, err := t.client.Do(req)
		if err != nil {
			return err
		}
		var sessions map[string]struct {
			Requests         int64 `json:"request_count"`
			PromptTokens     int64 `json:"total_prompt_tokens"`
			CompletionTokens int64 `json:"total_completion_tokens"`
		}
		err = errors.Join(json.NewDecoder(resp.Body).Decode(&sessions), resp.Body.Close())
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		var requests, tokens int64
		for _, s := range sessions {
			requests += s.Requests
			tokens += s.PromptTokens + s.CompletionTokens
		}
		sent := t.sent.Load()
		fmt.Fprintf(w, "%s: %d of %d answers booked, %d of %d tokens\n", t.name, requests, sent, tokens, sent*(promptTokens+completionTokens))
		if requests != sent || tokens != sent*(promptTokens+completionTokens) {
			return fmt.Errorf("%s: the books are wrong", t.name)
		}
	}
	return nil
}
