package price

import (
	"encoding/json"
	"math/big"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func sample(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func rates(in ...string) (r [numListed]string) {
	copy(r[:], in)
	return r
}

func TestLiteLLM(t *testing.T) {
	got, err := LiteLLM(sample(t, "litellm.json"), Filter{})
	if err != nil {
		t.Fatal(err)
	}
	const others = "cache_creation_input_token_cost_above_1hr, output_cost_per_image, provider_specific_entry, search_context_cost_per_query, tiered_pricing"
	want := []Listed{
		{"azure/gpt-made-up", "azure", rates("2.75", "", "", "11", ""), ""},
		{"embed-made-up", "openai", rates("0.02", "", "", "0", ""), ""},
		{"fine-made-up", "openai", rates("1.23456789", "", "", "0", ""), ""},
		{"gpt-made-up", "openai", rates("2.5", "1.25", "", "10", ""), ""},
		{"thinking-made-up", "xai", rates("3", "0.3", "3.75", "15", "18"), "without " + others},
		{"tiered-made-up", "vertex_ai", rates("1.25", "", "", "10", ""), "without input_cost_per_token_above_200k_tokens, output_cost_per_token_batches"},
	}
	if diff := cmp.Diff(want, got.Prices); diff != "" {
		t.Error(diff)
	}
	warned(t, got, `"all-*-made-up": left out`, `"fine-made-up": price 1.23456789012e-06 has more than nine`, `"half-made-up": left out`, `"negative-made-up": left out`,
		`"thinking-made-up": taken over without `+others+":", `"tiered-made-up": taken over without input_cost_per_token_above_200k_tokens, output_cost_per_token_batches:`)
	if got.Unpriced != 1 {
		t.Errorf("%d unpriced, want the picture", got.Unpriced)
	}

	one, err := LiteLLM(sample(t, "litellm.json"), Filter{Model: "*gpt-*", Provider: "azure"})
	if err != nil || len(one.Prices) != 1 || one.Prices[0].Model != "azure/gpt-made-up" {
		t.Errorf("filtered: %+v, %v", one, err)
	}
}

func TestModelsDev(t *testing.T) {
	got, err := ModelsDev(sample(t, "modelsdev.json"), Filter{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Listed{
		{"free-made-up", "one", rates("0", "", "", "0", ""), ""},
		{"long-made-up", "two", rates("1.25", "", "", "10", ""), "without context_over_200k"},
		{"same-made-up", "one", rates("0.15", "", "", "0.6", ""), ""},
		{"thinking-made-up", "two", rates("3", "0.3", "3.75", "15", "18"), "without input_audio, tiers"},
	}
	if diff := cmp.Diff(want, got.Prices); diff != "" {
		t.Error(diff)
	}
	warned(t, got, `"long-made-up": taken over without context_over_200k`, `"thinking-made-up": taken over without input_audio, tiers:`, `"shared-made-up": left out: its price differs between one, two`)
	one, err := ModelsDev(sample(t, "modelsdev.json"), Filter{Model: "shared*", Provider: "one"})
	if err != nil || len(one.Prices) != 1 || one.Prices[0].Rates[CachedInput] != "1.25" {
		t.Errorf("filtered: %+v, %v", one, err)
	}
}

func warned(t *testing.T, got List, want ...string) {
	t.Helper()
	if len(got.Warnings) != len(want) {
		t.Errorf("warnings %q", got.Warnings)
	}
	for _, start := range want {
		if !strings.Contains("\n"+strings.Join(got.Warnings, "\n"), "\n"+start) {
			t.Errorf("no warning %s in %q", start, got.Warnings)
		}
	}
}

func TestDetect(t *testing.T) {
	for doc, want := range map[string]string{
		string(sample(t, "litellm.json")): "litellm", string(sample(t, "modelsdev.json")): "models.dev",
		`[]`: "", `{}`: "", `{"a"`: "", `"x"`: "",
	} {
		if got := Detect([]byte(doc)); got != want {
			t.Errorf("%.40s is taken for %q, want %q", doc, got, want)
		}
	}
}

// Where nine decimals are enough, the text is the number, times a million.
func TestPerMillion_IsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := strconv.FormatUint(rapid.Uint64Range(0, 1e12).Draw(t, "digits"), 10)
		if at := rapid.IntRange(0, len(number)-1).Draw(t, "point"); at > 0 {
			number = number[:at] + "." + number[at:]
		}
		number += "e" + strconv.Itoa(rapid.IntRange(-20, 3).Draw(t, "exponent"))
		text, exact, err := perMillion(json.Number(number), 6)
		value, _ := new(big.Rat).SetString(number)
		value.Mul(value, big.NewRat(1e6, 1))
		if err != nil {
			if value.Cmp(big.NewRat(1e9-1, 1)) <= 0 {
				t.Fatalf("%s: %v", number, err)
			}
			return
		}
		got, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("%s became %q", number, text)
		}
		if off := new(big.Rat).Sub(got, value); exact && off.Sign() != 0 || off.Abs(off).Cmp(big.NewRat(1, 2e9)) > 0 {
			t.Fatalf("%s became %s, exact: %v", number, text, exact)
		}
	})
}

func FuzzLiteLLM(f *testing.F) {
	f.Add(sample(f, "litellm.json"), "*")
	fuzzImport(f, LiteLLM)
}

func FuzzModelsDev(f *testing.F) {
	f.Add(sample(f, "modelsdev.json"), "*")
	fuzzImport(f, ModelsDev)
}

// fuzzImport holds that whatever comes out can be read by the configuration.
func fuzzImport(f *testing.F, read func([]byte, Filter) (List, error)) {
	for _, doc := range []string{
		`{"a":{"input_cost_per_token":1e-999,"output_cost_per_token":"0.1"}}`, `{"a":null}`, `{"":{"input_cost_per_token":0,"output_cost_per_token":0}}`,
		`{"p":{"models":{"m":{"cost":{"input":1e999,"output":-0}}}}}`, `{"p":{"models":{"m":{"cost":[]}}}}`, `{"p":{"models":null}}`, `[[[[`,
	} {
		f.Add([]byte(doc), "")
	}
	f.Fuzz(func(t *testing.T, doc []byte, model string) {
		Detect(doc)
		list, err := read(doc, Filter{Model: model})
		if err != nil {
			return
		}
		var entries []Entry
		for _, l := range list.Prices {
			entry := Entry{Model: l.Model}
			for _, text := range l.Rates {
				if _, err := ParseRate(text); err != nil && text != "" {
					t.Fatalf("%+v: %v", l, err)
				}
			}
			entries = append(entries, entry)
		}
		if _, err := NewTable(entries); err != nil {
			t.Fatalf("%+v: %v", list.Prices, err)
		}
	})
}
