package wire

import "testing"

func TestIsControl(t *testing.T) {
	for _, c := range []struct {
		method, path string
		want         bool
	}{
		{"GET", "models", true},
		{"GET", "responses/resp_1", true},
		{"HEAD", "files/f", true},
		{"DELETE", "responses/resp_1", true},
		{"GET", "anything/new", true},
		{"POST", "responses/resp_1/cancel", true},
		{"POST", "/responses/resp_1/cancel/", true},
		{"POST", "batches/b/%63ancel", true},
		{"POST", "fine_tuning/jobs/j/cancel", true},
		{"POST", "threads/t/runs/r/cancel", true},
		{"POST", "files", true},
		{"POST", "uploads/u/parts", true},
		{"POST", "conversations/c/items", true},
		{"POST", "chat/completions/c", true},
		{"POST", "cancel", false},
		{"POST", "responses/cancel-me", false},
		{"POST", "chat/completions", false},
		{"POST", "chat/completions/", false},
		{"POST", "uploads//parts", false},
		{"POST", "batches", false},
		{"POST", "images/generations", false},
		{"POST", "fine_tuning/jobs/j/resume", false},
		{"POST", "", false},
		{"PUT", "files", false},
		{"BREW", "cancel/x/cancel", false},
	} {
		if got := IsControl(c.method, c.path); got != c.want {
			t.Errorf("IsControl(%s, %q) = %v", c.method, c.path, got)
		}
	}
}

func FuzzIsControl(f *testing.F) {
	for _, path := range []string{"", "/", "files", "a/cancel", "%", "%2Fcancel", "uploads/*/parts"} {
		f.Add("POST", path)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		if EndpointOf(method, path).Decoded() && IsControl(method, path) {
			t.Errorf("%s %q is metered, and a control call", method, path)
		}
	})
}
