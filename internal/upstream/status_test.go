package upstream

import (
	"context"
	"errors"
	"net/http"
	"testing"
)

type answering func(*http.Request) (*http.Response, error)

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

// HTTP/2 has no three digits that a status ends at, and a server that is asked to
// write such a status panics.
func TestDo_StatusThatIsNoneIsNoAnswer(t *testing.T) {
	for _, status := range []int{-5, 0, 99, 100, 101, 1000, 20000} {
		c := client(t, "http://127.0.0.1:1", func(cfg *Config) {
			cfg.Transport = answering(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
			})
		})
		resp, err := c.Do(context.Background(), Request{Method: "GET", Path: "x"})
		if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != Broken {
			t.Errorf("status %d: got %v, %v, want Broken", status, resp, err)
		}
	}
}
