package upstream

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestDo_EditsABodyAsItIsSent: its length is told, and the body itself is not touched.
func TestDo_EditsABodyAsItIsSent(t *testing.T) {
	var got string
	var length int64
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got, length = string(text), r.ContentLength
	}))
	defer server.Close()
	for _, c := range []struct {
		edit Edit
		want string
	}{
		{Edit{}, "0123456789"},
		{Edit{3, 3, "abc"}, "012abc3456789"},
		{Edit{3, 8, "abc"}, "012abc89"},
		{Edit{0, 10, "a"}, "a"},
		{Edit{10, 10, "a"}, "0123456789a"},
		{Edit{0, 4, ""}, "456789"},
	} {
		body := []byte("0123456789")
		resp, err := client(t, server.URL).Do(context.Background(), Request{Method: "POST", Path: "x", Body: body, Edit: c.edit})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got != c.want || length != int64(len(c.want)) || string(body) != "0123456789" {
			t.Errorf("%+v: %q of length %d", c.edit, got, length)
		}
	}
}
