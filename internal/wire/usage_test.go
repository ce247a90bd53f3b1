package wire

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A usageCase is an entry of testdata/usage.json: an answer, and the row that it must make. To add a dialect, add one.
type usageCase struct {
	Name, Route string

	Usage  json.RawMessage   // an answer's member of that name, or
	Answer json.RawMessage   // a whole answer, or
	Stream []json.RawMessage // its events

	Want usageRow
}

type usageRow struct {
	Unknown    bool  `json:"unknown"`
	Input      int64 `json:"input"`
	Output     int64 `json:"output"`
	Cached     int64 `json:"cached"`
	CacheWrite int64 `json:"cache_write"`
	Reasoning  int64 `json:"reasoning"`

	Total    int64  `json:"told_total"`
	Cost     string `json:"told_cost"`
	Currency string `json:"currency"`
}

func rowOf(w *Watcher) usageRow {
	u, known := w.Usage()
	told := w.Told()
	return usageRow{!known, u.Input, u.Output, u.Cached, u.CacheWrite, u.Reasoning, told.Total, told.Cost, told.Currency}
}

func TestUsage_OfEveryDialect(t *testing.T) {
	text, err := os.ReadFile("testdata/usage.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []usageCase
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			endpoint := EndpointOf("POST", c.Route)
			if endpoint == Other {
				t.Fatalf("route %q is not metered", c.Route)
			}
			for what, text := range c.answers(endpoint) {
				for _, step := range []int{1, 7, len(text)} {
					w := Watch(endpoint, WatchOptions{Stream: strings.Contains(what, "stream")})
					for at := 0; at < len(text); at += step {
						w.Push([]byte(text[at:min(at+step, len(text))]))
					}
					w.Close()
					if diff := cmp.Diff(c.Want, rowOf(w)); diff != "" {
						t.Fatalf("%s, %d bytes at a time (-want +got):\n%s\n%s", what, step, diff, text)
					}
				}
			}
		})
	}
}

// answers are what the case says, as whole answers and as streams.
func (c *usageCase) answers(endpoint Endpoint) map[string]string {
	event := func(data []byte) string { return "data: " + string(data) + "\n\n" }
	switch {
	case c.Stream != nil:
		var b strings.Builder
		for _, data := range c.Stream {
			b.WriteString(event(data))
		}
		return map[string]string{"a stream": b.String() + "data: [DONE]\n\n"}
	case c.Answer != nil:
		return map[string]string{"an answer": string(c.Answer), "a stream of one event": event(c.Answer) + "data: [DONE]\n\n"}
	}
	usage := string(c.Usage)
	answer := `{"id":"x","model":"m","usage":` + usage + `}`
	out := map[string]string{"an answer": answer}
	switch endpoint {
	case Responses:
		out["a stream"] = event([]byte(`{"type":"response.completed","response":` + answer + `}`))
	case Chat, Completions:
		content := event([]byte(`{"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}`))
		out["a stream with a chunk of usage"] = content + event([]byte(`{"choices":[],"usage":`+usage+`}`)) + "data: [DONE]\n\n"
		out["a stream with usage in its last chunk"] = content +
			event([]byte(`{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":`+usage+`}`)) + "data: [DONE]\n\n"
	}
	return out
}

// However strange the members are, what comes out of them is a count.
func FuzzTally(f *testing.F) {
	text, err := os.ReadFile("testdata/usage.json")
	if err != nil {
		f.Fatal(err)
	}
	var cases []usageCase
	if err := json.Unmarshal(text, &cases); err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		f.Add([]byte(c.Usage), []byte(`{"completion_tokens":5,"total_tokens":9}`), true)
		f.Add([]byte(`{"prompt_tokens":4}`), []byte(c.Usage), false)
	}
	f.Fuzz(func(t *testing.T, one, other []byte, generates bool) {
		var both tally
		for _, text := range [][]byte{one, other} {
			said, ok := readUsage(text)
			if !ok {
				continue
			}
			if !json.Valid(text) {
				t.Fatal("read what is no JSON")
			}
			both.merge(&said)
			check(t, &said, generates)
		}
		check(t, &both, generates)
	})
}

func check(t *testing.T, said *tally, generates bool) {
	t.Helper()
	u, known := said.usage(generates)
	if u.Least() < 0 || u.Cached+u.CacheWrite > u.Input || u.Reasoning > u.Output || u.Most() > 8*llm.MaxTokens || !known && u != (llm.Usage{}) {
		t.Fatalf("usage %+v %v", u, known)
	}
	if told := said.told(); told.Total < 0 || told.Cost != "" && !told.CostStands() {
		t.Fatalf("told %+v", told)
	}
}
