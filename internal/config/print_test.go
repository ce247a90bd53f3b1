package config

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
)

func TestConfigPrint_SaysValueAndOrigin(t *testing.T) {
	file := fileOf(t, `
settings: {RATE_LIMIT_PER_MIN: 500, LOG_LEVEL: warn, PORT: 7}
limits: [{model: "gpt-*", tokens_per_minute: 9}]
clients: {web: {weight: 2.5}}
sessions: [{match: "a-*", budget: {tokens: 5}}]
`)
	given := []string{"OPENAI_API_KEY_FILE", fileOf(t, "sk-canary"), "CLIENT_API_KEYS", "web=canary", "LOG_LEVEL", "error", "CONFIG_FILE", file}
	var out bytes.Buffer
	if err := Print(&out, map[string]string{"PORT": "9"}, environment(given...)); err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{
		`OPENAI_API_KEY \[redacted\] OPENAI_API_KEY_FILE`, // where it comes from
		`CLIENT_API_KEYS \[redacted\] environment`,
		`RATE_LIMIT_PER_MIN 500 file`,
		`LOG_LEVEL error environment`, // the environment wins over the file
		`PORT 9 flag`,
		`LISTEN_ADDR 127\.0\.0\.1:9 default`,
		`QUEUE_MAX_BYTES \d+MiB default`,
		`limits\[0\]\.tokens_per_minute 9 file`,
		`clients\.web\.weight 2\.5 file`,
		`sessions\[0\]\.budget\.tokens 5 file`,
	} {
		if !regexp.MustCompile(`(?m)^` + strings.ReplaceAll(row, " ", " +") + `$`).Match(out.Bytes()) {
			t.Errorf("there is no row %s", row)
		}
	}
	for _, s := range settings {
		if !strings.Contains(out.String(), s.Name+" ") {
			t.Errorf("%s is missing", s.Name)
		}
	}
	if t.Failed() || strings.Contains(out.String(), "canary") || strings.Contains(out.String(), "settings.") {
		t.Errorf("printed\n%s", &out)
	}

	// What is wrong is said behind the table, which stays complete.
	out.Reset()
	err := Print(&out, nil, environment(append(given, "RATE_LIMIT_PER_MIN", "many")...))
	var faults *Error
	if !errors.As(err, &faults) || !strings.Contains(err.Error(), `RATE_LIMIT_PER_MIN="many"`) || !strings.Contains(out.String(), "SHUTDOWN_GRACE") {
		t.Errorf("got %v and\n%s", err, &out)
	}
}
