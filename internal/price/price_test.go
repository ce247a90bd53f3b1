package price

import (
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

func date(text string) time.Time {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		panic(err)
	}
	return t
}

func bigOf(a llm.Money) *big.Int {
	n := new(big.Int).Lsh(new(big.Int).SetUint64(a.Hi), 64)
	return n.Or(n, new(big.Int).SetUint64(a.Lo))
}

// Costs and sums of them are what math/big makes of the same numbers.
func TestRates_CostIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Uint64Range(0, 999_999_999_999_999_999)
		count := rapid.OneOf(rapid.Int64Range(0, 1<<20), rapid.Int64Range(0, math.MaxInt64))
		want, sum := new(big.Int), llm.Money{}
		for range rapid.IntRange(1, 5).Draw(t, "terms") {
			r := Rates{
				Input: Rate(rate.Draw(t, "input")), CachedInput: Rate(rate.Draw(t, "cached")), CacheWrite: Rate(rate.Draw(t, "written")),
				Output: Rate(rate.Draw(t, "output")), Reasoning: Rate(rate.Draw(t, "reasoning")),
			}
			u := llm.Usage{
				Input: count.Draw(t, "prompt"), Cached: count.Draw(t, "cached"), CacheWrite: count.Draw(t, "written"),
				Output: count.Draw(t, "completion"), Reasoning: count.Draw(t, "reasoning"),
			}
			sum = sum.Add(r.Cost(u))
			cached := min(u.Cached, u.Input)
			written := min(u.CacheWrite, u.Input-cached)
			reasoning := min(u.Reasoning, u.Output)
			for _, term := range []struct {
				tokens int64
				rate   Rate
			}{
				{u.Input - cached - written, r.Input}, {cached, r.CachedInput}, {written, r.CacheWrite}, {u.Output - reasoning, r.Output}, {reasoning, r.Reasoning},
			} {
				want.Add(want, new(big.Int).Mul(big.NewInt(term.tokens), new(big.Int).SetUint64(uint64(term.rate))))
			}
		}
		if bigOf(sum).Cmp(want) != 0 {
			t.Fatalf("sum %v, want %v", bigOf(sum), want)
		}
		if other := (llm.Money{Lo: rapid.Uint64().Draw(t, "lo")}); sum.Cmp(other) != want.Cmp(bigOf(other)) {
			t.Fatalf("%v cmp %v = %d", sum, other, sum.Cmp(other))
		}
		// The text is the exact value.
		text := sum.String()
		back, ok := new(big.Rat).SetString(text)
		exact := new(big.Rat).SetFrac(want, new(big.Int).Exp(big.NewInt(10), big.NewInt(llm.MoneyDecimals), nil))
		if !ok || back.Cmp(exact) != 0 {
			t.Fatalf("%v is written %s", exact, text)
		}
		if again, err := ParseMoney(text); err == nil && again != sum || err != nil && len(text) < 36 {
			t.Fatalf("%s is read as %v, %v", text, again, err)
		}
	})
}

func TestParseMoney(t *testing.T) {
	for text, want := range map[string]string{
		"5": "5.00", "0.5": "0.50", "0": "0.00", "000000005.10": "5.10", "999999999.999999999": "999999999.999999999", "0.000000001": "0.000000001",
	} {
		a, err := ParseMoney(text)
		if err != nil || a.String() != want {
			t.Errorf("%q is %v, %v, want %s", text, a, err, want)
		}
		if rate, err := ParseRate(text); err != nil || (Rates{Input: rate}).Cost(llm.Usage{Input: 1e6}) != a {
			t.Errorf("a million tokens at %q cost %d, %v", text, rate, err)
		}
	}
	for _, text := range []string{"", ".5", "5.", "-1", "+1", "1e3", "1,5", " 1", "1 ", "0x1", "123456789012345678901", "0.1234567890123456", "١"} {
		if a, err := ParseMoney(text); err == nil {
			t.Errorf("%q is taken for %v", text, a)
		}
		if rate, err := ParseRate(text); err == nil {
			t.Errorf("%q is taken for %v", text, rate)
		}
	}
	// One token at 0.15 per million.
	if got := (Rates{Input: 150_000_000}).Cost(llm.Usage{Input: 1}).String(); got != "0.00000015" {
		t.Errorf("got %s", got)
	}
}

func TestTable_At(t *testing.T) {
	list := []Entry{
		{"gpt-*", time.Time{}, Rates{Input: 1}},
		{"*", date("2026-02-01"), Rates{Input: 2}},
		{"gpt-4o", date("2026-01-01"), Rates{Input: 3}},
		{"gpt-4o", date("2026-03-01"), Rates{Input: 4}},
		{"gpt-4o-2024-05-13", date("2026-01-01"), Rates{Input: 5}},
		{"*/small", time.Time{}, Rates{Input: 6}},
	}
	table, err := NewTable(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		model, at string
		want      Rate // 0: none
	}{
		{"gpt-4o", "2025-12-31T23:59:59.999Z", 1},
		{"gpt-4o", "2026-01-01T00:00:00Z", 3},
		{"gpt-4o", "2026-01-01T01:00:00+02:00", 1}, // the day before, in UTC
		{"gpt-4o", "2026-02-28T23:59:59Z", 3},
		{"gpt-4o", "2026-03-01T00:00:00Z", 4},
		{"gpt-4o-2024-05-13", "2026-03-01T00:00:00Z", 5},
		{"gpt-4o-2024-08-06", "2026-03-01T00:00:00Z", 4},
		{"gpt-4o-20240806", "2026-03-01T00:00:00Z", 4},
		{"gpt-4o-2024-13-06", "2026-03-01T00:00:00Z", 1}, // no date
		{"gpt-4o-mini", "2026-03-01T00:00:00Z", 1},
		{"llama", "2026-01-31T00:00:00Z", 0},
		{"llama", "2026-02-01T00:00:00Z", 2},
		{"org/llama", "2026-02-01T00:00:00Z", 2},
		{"org/small", "2026-01-01T00:00:00Z", 6},
		{"", "2026-01-01T00:00:00Z", 0},
	} {
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := table.At(llm.Model(c.model), at); got.Input != c.want || ok != (c.want != 0) {
			t.Errorf("%s at %s costs %d, %v; want %d", c.model, c.at, got.Input, ok, c.want)
		}
	}
	if cuts := table.Cuts(); len(cuts) != 3 || !cuts[0].Equal(date("2026-01-01")) || !cuts[2].Equal(date("2026-03-01")) {
		t.Errorf("cuts %v", cuts)
	}
	if _, ok := (*Table)(nil).At("gpt-4o", date("2026-01-01")); ok {
		t.Error("a table that is none knows a price")
	}
}

func TestNewTable_RefusesTwoPricesOfOneDay(t *testing.T) {
	for _, list := range [][]Entry{
		{{Model: "a"}, {Model: "a"}},
		{{Model: "a*", From: date("2026-01-01")}, {Model: "a*", From: date("2026-01-01").Add(time.Hour)}},
		{{Model: "["}},
		{{Model: ""}},
	} {
		if _, err := NewTable(list); err == nil {
			t.Errorf("%v is taken", list)
		}
	}
}

// The price of a model between two cuts is the price at any instant between them.
func TestTable_IsConstantBetweenCuts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := date("2026-01-01")
		var list []Entry
		for range rapid.IntRange(0, 8).Draw(t, "entries") {
			list = append(list, Entry{
				Model: rapid.SampledFrom([]string{"a", "a*", "*", "b", "b-2026-01-01"}).Draw(t, "model"),
				From:  base.AddDate(0, 0, rapid.IntRange(0, 5).Draw(t, "day")), Rates: Rates{Input: Rate(len(list) + 1)},
			})
		}
		table, err := NewTable(list)
		if err != nil {
			t.Skip(err) // two entries of one name and day, which is a fault: draw again
		}
		model := llm.Model(rapid.SampledFrom([]string{"a", "ab", "b", "b-2026-01-01", "c"}).Draw(t, "model"))
		at := base.Add(time.Duration(rapid.Int64Range(-48, 24*7).Draw(t, "hours")) * time.Hour)
		start := time.Time{}
		for _, cut := range table.Cuts() {
			if !cut.After(at) {
				start = cut
			}
		}
		got, known := table.At(model, at)
		want, wantKnown := table.At(model, start)
		if got != want || known != wantKnown {
			t.Fatalf("at %v %v, at its cut %v %v", at, got, start, want)
		}
	})
}

func TestPerMillion_ShiftsTheText(t *testing.T) {
	for _, c := range []struct{ number, want string }{
		{"2.5e-06", "2.5"},
		{"0.0000025", "2.5"},
		{"1E-5", "10"},
		{"0", "0"},
		{"0.0", "0"},
		{"0e9", "0"},
		{"3e-7", "0.3"},
		{"7.5e-08", "0.075"},
		{"1.0000000000000001e-06", "1"},
		{"1.5e-15", "0.000000002"},
		{"0.9999999999999999e-6", "1"},
		{"1.4e-15", "0.000000001"},
		{"999.9999999999999996", "1000000000"},
		{"12e2", "1200000000"},
		{"9.99e2", "999000000"},
		{"000.000001", "1"},
	} {
		text, _, err := perMillion(c.number, 6)
		if strings.Contains(c.want, "1000000000") || c.want == "1200000000" {
			if err == nil {
				t.Errorf("%s is %s, and too large", c.number, text)
			}
			continue
		}
		if err != nil || text != c.want {
			t.Errorf("%s is %s, %v; want %s", c.number, text, err, c.want)
		}
	}
}
