package admin

import (
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/price"
)

// Each request costs what its day's price says, whenever somebody asks.
func TestUsage_OfARequestByThePriceOfItsDay(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 1, n, 23, 59, 59, 0, time.UTC) }
	table, err := price.NewTable([]price.Entry{
		{Model: "m", From: day(1), Rates: price.Rates{Input: 1e9}}, {Model: "m", From: day(3), Rates: price.Rates{Input: 5e9}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]string{1: "1.00", 2: "1.00", 3: "5.00"} {
		row := requestRowOf(ledger.Record{Model: "m", StartedAt: day(n), UsageKnown: true, Usage: llm.Usage{Input: 1e6}}, table)
		if row.Cost == nil || *row.Cost != want {
			t.Errorf("day %d costs %v, want %s", n, row.Cost, want)
		}
	}
}
