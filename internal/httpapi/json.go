package httpapi

import (
	"encoding/json"
	"net/http"
	"time"
)

// Timestamp is t as JSON has it, in UTC.
func Timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// Optional is s, or null where it is empty.
func Optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// WriteJSON answers 200 with v.
func WriteJSON(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
	return nil
}

// Milliseconds is d as JSON and headers have it.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
