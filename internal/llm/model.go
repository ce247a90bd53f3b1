package llm

import (
	"path"
	"strings"
)

// A Model is a model's name as the client asked for it, or as the provider
// answered. Names come from outside: whoever stores or shows one bounds it first.
type Model string

// Matches reports whether pattern fits m. The language is that of path.Match,
// but a star matches slashes too: a slash in a model's name (org/name) separates
// nothing. A pattern that CheckPattern refuses matches its own text only.
func (m Model) Matches(pattern string) bool {
	if pattern == string(m) {
		return true
	}
	ok, _ := path.Match(plainSlash(pattern), plainSlash(string(m)))
	return ok
}

// CheckPattern returns path.ErrBadPattern for a pattern that is none.
func CheckPattern(pattern string) error {
	_, err := path.Match(plainSlash(pattern), "x")
	return err
}

// plainSlash puts a character that no name contains in the place of slashes.
func plainSlash(s string) string { return strings.ReplaceAll(s, "/", "\x00") }
