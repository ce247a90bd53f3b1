package sidecartest

import (
	"os"
	"path/filepath"
	"testing"
)

// Pairs are settings, or headers, that come as name, value pairs.
func Pairs(settings []string) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(settings); i += 2 {
		m[settings[i]] = settings[i+1]
	}
	return m
}

// SQLite is the settings of a ledger in a file of the test's own.
func SQLite(t *testing.T) []string {
	return []string{"REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", filepath.Join(t.TempDir(), "sessions.db")}
}

// WriteFile writes a file of the test's own.
func WriteFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
