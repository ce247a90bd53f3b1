package upstream

import (
	"net/http"
	"testing"
	"time"
)

// FuzzJudge reads any status and any retry hint of a provider.
func FuzzJudge(f *testing.F) {
	for _, seed := range []string{"1", "0.5", "-1", "NaN", "1e309", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "", " 7 ", "0x10", "9223372036854775807"} {
		f.Add(503, seed, "")
		f.Add(529, "", seed)
		f.Add(429, seed, seed)
	}
	now := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, status int, seconds, milliseconds string) {
		header := http.Header{"Retry-After": {seconds}, "Retry-After-Ms": {milliseconds}}
		verdict, pause := Judge(&http.Response{StatusCode: status, Header: header}, now)
		if pause < 0 || pause > 0 && verdict != Unavailable {
			t.Errorf("%d %q %q: %v after %v", status, seconds, milliseconds, verdict, pause)
		}
		if verdict == Throttled != (status == 429) || verdict == Unavailable && status != 503 && status != 529 {
			t.Errorf("%d: %v", status, verdict)
		}
	})
}
