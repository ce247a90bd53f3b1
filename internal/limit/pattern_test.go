package limit

import (
	"strings"
	"testing"
)

func TestConfig_PatternsTreatSlashesAsCharacters(t *testing.T) {
	for _, test := range []struct {
		pattern, model string
		want           bool
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
		if got := matches(test.pattern, test.model); got != test.want {
			t.Errorf("matches(%q, %q) = %v", test.pattern, test.model, got)
		}
	}
}

func FuzzMatches(f *testing.F) {
	f.Add("meta*", "meta-llama/Llama")
	f.Add("[a-", "a")
	f.Add("*/*", "a/b")
	f.Fuzz(func(t *testing.T, pattern, model string) {
		got := matches(pattern, model)
		if pattern == model && !got {
			t.Errorf("%q does not match itself", model)
		}
		if n := strings.Trim(pattern, "*"); n == "" && pattern != "" && !got && !strings.Contains(model, "\xff") {
			t.Errorf("%q does not match %q", pattern, model)
		}
	})
}
