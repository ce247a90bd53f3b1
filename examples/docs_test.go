package examples_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// shown matches a block of code that says which file it is.
var shown = regexp.MustCompile("(?m)^<!-- (\\S+) -->\n```[a-z]+\n((?s).*?)^```$")

// The programs of the quickstart are those that CI runs.
func TestQuickstart_ShowsTheTestedPrograms(t *testing.T) {
	blocks := shown.FindAllStringSubmatch(readFile(t, "../docs/quickstart.md"), -1)
	if len(blocks) != len(quickstarts) {
		t.Errorf("%d programs, want %d", len(blocks), len(quickstarts))
	}
	for _, block := range blocks {
		path := strings.TrimPrefix(block[1], "examples/")
		if _, ok := quickstarts[path]; !ok {
			t.Errorf("%s is not among the tested ones", path)
			continue
		}
		if block[2] != readFile(t, path) {
			t.Errorf("the quickstart shows another %s than there is", block[1])
		}
	}
}

var (
	curlChat   = regexp.MustCompile(`curl http://127\.0\.0\.1:8080(\S+) -H 'Content-Type: application/json' \\\n +-d '([^']+)'`)
	curlStatus = regexp.MustCompile(`curl http://127\.0\.0\.1:8080(/sessions/\S+)`)
)

// The curl lines of README and quickstart, sent without curl.
func TestQuickstart_CurlLines(t *testing.T) {
	for _, page := range []string{"../README.md", "../docs/quickstart.md"} {
		s := start(t, provider.Config{})
		root := strings.TrimSuffix(s.sidecar, "/v1")
		text := readFile(t, page)
		chat, status := curlChat.FindStringSubmatch(text), curlStatus.FindStringSubmatch(text)
		if chat == nil || status == nil {
			t.Fatalf("%s has no curl lines", page)
		}
		if answer := fetch(t, http.MethodPost, root+chat[1], chat[2]); !strings.Contains(answer, `"chat.completion"`) {
			t.Errorf("%s: the chat is answered %s", page, answer)
		}
		if answer := fetch(t, http.MethodGet, root+status[1], ""); !strings.Contains(answer, `"session_id":"agent-1"`) || !strings.Contains(answer, `"request_count":1`) {
			t.Errorf("%s: the status is %s", page, answer)
		}
	}
}

func fetch(t *testing.T, method, url, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(resp.StatusCode, " ", string(answer))
}
