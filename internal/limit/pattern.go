package limit

import (
	"path"
	"strings"
)

// matches tells whether pattern, in the language of path.Match, fits a model.
// There a * stops at a slash; a slash in a model's name (org/name) separates
// nothing, so here it is a character like any other.
func matches(pattern, model string) bool {
	if pattern == model {
		return true
	}
	ok, _ := path.Match(plainSlash(pattern), plainSlash(model))
	return ok
}

// plainSlash puts a character that no name contains in the place of slashes.
func plainSlash(s string) string { return strings.ReplaceAll(s, "/", "\x00") }
