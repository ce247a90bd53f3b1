package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadme_IsShort: two screens of forty lines come before the settings.
func TestReadme_IsShort(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(readme), "| variable |")
	if lines := strings.Count(before, "\n"); !found || lines > 80 {
		t.Errorf("%d lines come before the settings table, want at most 80", lines)
	}
}

// TestReadme_ListsEveryPage: the README has the one list of pages, and it is whole.
func TestReadme_ListsEveryPage(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(readme), "\n## Documentation\n")
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range append(pages, "../SECURITY.md") {
		if link := "](" + strings.TrimPrefix(page, "../") + ") "; !strings.Contains(strings.ReplaceAll(list, "),", ") "), link) {
			t.Errorf("the README's list of pages lacks %s", page)
		}
	}
}
