package budget

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestScope(t *testing.T) {
	seen := map[string]bool{}
	long := strings.Repeat("é", 200)
	for _, parts := range [][]string{
		{"a", "b"}, {"ab"}, {"a", "b", ""}, {"a*"}, {long}, {long + "x"}, {long, "x"}, {"\xff"}, {"\xfe"}, {"?"}, {"\x00"},
	} {
		s := Scope(parts...)
		if seen[s] || len(s) > 256 || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			t.Errorf("%q is named %q", parts, s)
		}
		seen[s] = true
	}
}
