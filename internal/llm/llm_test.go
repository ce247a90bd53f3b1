package llm

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestModel_PatternsTreatSlashesAsCharacters(t *testing.T) {
	for _, test := range []struct {
		pattern string
		model   Model
		want    bool
	}{
		{"*", "meta-llama/Llama-3.1-8B", true},
		{"meta*", "meta-llama/Llama-3.1-8B", true},
		{"*Llama*", "meta-llama/Llama-3.1-8B", true},
		{"meta-llama/*", "meta-llama/Llama-3.1-8B", true},
		{"meta-llama?Llama", "meta-llama/Llama", true},
		{"gpt-4o*", "gpt-4o-mini", true},
		{"gpt-4o", "gpt-4o-mini", false},
		{"qwen/*", "meta-llama/Llama-3.1-8B", false},
		{"*", "", true},
	} {
		if got := test.model.Matches(test.pattern); got != test.want {
			t.Errorf("%q matches %q: %v", test.model, test.pattern, got)
		}
	}
}

func FuzzMatches(f *testing.F) {
	f.Add("meta*", "meta-llama/Llama")
	f.Add("[a-", "a")
	f.Add("*/*", "a/b")
	f.Fuzz(func(t *testing.T, pattern, model string) {
		got := Model(model).Matches(pattern)
		if pattern == model && !got {
			t.Errorf("%q does not match itself", model)
		}
		if n := strings.Trim(pattern, "*"); n == "" && pattern != "" && !got && !strings.Contains(model, "\xff") {
			t.Errorf("%q does not match %q", pattern, model)
		}
		if CheckPattern(pattern) != nil && got && pattern != model {
			t.Errorf("the broken pattern %q matches %q", pattern, model)
		}
	})
}

func TestDemand_AsALoad(t *testing.T) {
	for _, test := range []struct {
		name   string
		demand Demand
		want   Load
	}{
		{"without a cap", Demand{Input: 100, Output: 50}, Load{Requests: 1, Input: 100, Output: 50, Reserve: 50, Guess: 100}},
		{"with a cap above what is expected", Demand{Input: 100, Output: 50, MaxOutput: 400}, Load{Requests: 1, Input: 100, Output: 50, Reserve: 400, Capped: 400, Guess: 100}},
		{"with a cap below it", Demand{Input: 100, Output: 50, MaxOutput: 20}, Load{Requests: 1, Input: 100, Output: 20, Reserve: 20, Capped: 20, Guess: 100}},
		{"with characters", Demand{Input: 100, Chars: 401}, Load{Requests: 1, Input: 100, Guess: 101}},
		{"below zero", Demand{Input: -1, Output: -1, MaxOutput: -1, Chars: -1}, Load{Requests: 1}},
	} {
		if got := test.demand.Load(); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
	var sum Load
	a, b := Demand{Input: 1, Output: 2}.Load(), Demand{Input: 3, MaxOutput: 4}.Load()
	sum.Add(a, 1)
	sum.Add(b, 1)
	if sum.Add(a, -1); sum != b {
		t.Errorf("what was added and taken off leaves %+v, want %+v", sum, b)
	}
}

func TestDimension_NamesAreTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for d := range NumDimensions {
		if seen[d.String()] || d.String() == "" != (d == None) {
			t.Errorf("dimension %d is called %q", d, d)
		}
		seen[d.String()] = true
	}
	if None.Daily() || !TokensDay.Daily() || (NumDimensions+1).String() != "" {
		t.Error("a dimension says what it is not")
	}
}

func TestInstant_DoesNotOverflow(t *testing.T) {
	if got := Instant(5).Add(1<<63 - 1); got != Never {
		t.Errorf("5 and for ever is %d", got)
	}
	if got := Instant(5).Add(-2 * time.Nanosecond); got != 3 || got.Sub(5) != -2 {
		t.Errorf("5 − 2 is %d", got)
	}
}

func TestMoney_SaturatesAtBothEnds(t *testing.T) {
	for _, test := range []struct{ name, got, want string }{
		{"a sum beyond the largest", mostMoney.Add(Money{0, 1}).String(), mostMoney.String()},
		{"a sum with a carry", Money{0, math.MaxUint64}.Add(Money{0, 1}).String(), Money{1, 0}.String()},
		{"a difference with a borrow", Money{1, 0}.Sub(Money{0, 1}).String(), Money{0, math.MaxUint64}.String()},
		{"a difference below nothing", Money{0, 1}.Sub(Money{1, 0}).String(), "0.00"},
	} {
		if test.got != test.want {
			t.Errorf("%s: %s, want %s", test.name, test.got, test.want)
		}
	}
}
