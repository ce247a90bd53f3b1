package main

import (
	"os"
	"strings"
	"testing"
)

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
