package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

func TestControl(t *testing.T) {
	server, baseURL := provider.Start(t, provider.Config{})
	controller := httptest.NewServer(control(server))
	defer controller.Close()

	post := func(url, body string) (int, string, error) {
		resp, err := http.Post(url, "application/json", strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(answer), err
	}
	chat := func() (int, string, error) {
		return post(baseURL+"/chat/completions", `{"model":"m","messages":[{"role":"user","content":"say 5 words"}]}`)
	}

	if code, _, err := post(controller.URL+"/faults?fault=status+404&fault=sound&fault=quota&fault=reset+10", ""); code != http.StatusNoContent {
		t.Fatalf("POST /faults: %d %v", code, err)
	}
	for _, want := range []struct {
		status int
		text   string
	}{{404, "model_not_found"}, {200, `"choices"`}, {429, "insufficient_quota"}} {
		if code, answer, err := chat(); err != nil || code != want.status || !strings.Contains(answer, want.text) {
			t.Errorf("got %d %v %s, want %d and %s", code, err, answer, want.status, want.text)
		}
	}
	if _, answer, err := chat(); err == nil {
		t.Errorf("the reset answer came whole: %s", answer)
	}
	for _, fault := range []string{"", "nonsense", "status+200", "status", "reset+x", "cut+-1"} {
		if code, answer, err := post(controller.URL+"/faults?fault="+fault, ""); err != nil || code != http.StatusBadRequest {
			t.Errorf("fault %q: %d %v %s, want 400", fault, code, err, answer)
		}
	}

	resp, err := http.Get(controller.URL + "/totals")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got provider.Totals
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got != server.Totals() || got.CompletionTokens != 10 {
		t.Errorf("GET /totals: %+v %v, want %+v", got, err, server.Totals())
	}
}
