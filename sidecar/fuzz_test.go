package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzNames takes any name and header that a client may send.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{"gpt-4o", "a\nb", "\xff", "é", strings.Repeat("x", 300), "\u2028", "1e9", "-1", "NaN"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name := storable(text)
		if len(name) > 128 || !utf8.ValidString(name) || strings.ContainsAny(name, "\n\r\x00\x1b\u2028\u2029\x7f") {
			t.Errorf("%q is kept as %q", text, name)
		}
		if _, err := json.Marshal(name); err != nil {
			t.Error(err)
		}
		if d := patience(http.Header{"X-Stainless-Timeout": {text}}); d < 0 || d > 1e6*time.Second {
			t.Errorf("%q: %v", text, d)
		}
	})
}

func TestFuzzing_PageHasEveryTarget(t *testing.T) {
	page, err := os.ReadFile("../docs/fuzzing.md")
	if err != nil {
		t.Fatal(err)
	}
	targets := 0
	for name := range testNames(t) {
		if strings.HasPrefix(name, "Fuzz") {
			targets++
			if !strings.Contains(string(page), "| `"+name+"` |") {
				t.Errorf("docs/fuzzing.md has no %s", name)
			}
		}
	}
	if rows := strings.Count(string(page), "| `Fuzz"); rows != targets {
		t.Errorf("%d rows, %d targets", rows, targets)
	}
}
