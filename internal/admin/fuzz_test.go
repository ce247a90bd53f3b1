package admin

import (
	"net/url"
	"testing"
	"time"
)

// FuzzAdminQuery reads any query of the operators' routes.
func FuzzAdminQuery(f *testing.F) {
	for _, seed := range []string{"limit=1", "limit=501&cursor=x", "from=2026-01-31", "to=2026-01-31T12:00:00Z", "from=yesterday", "limit=%00", "limit=1;cursor=2", "from=10000-01-01"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		query, _ := url.ParseQuery(text)
		if limit, _, err := pageOf(query); err == nil && (limit < 1 || limit > 500) {
			t.Errorf("%q: limit %d", text, limit)
		}
		for _, name := range []string{"from", "to"} {
			if at, err := ParseTime(query.Get(name), time.Time{}); err == nil && query.Get(name) != "" && at.Year() > 9999 {
				t.Errorf("%q: %v", text, at)
			}
		}
	})
}
