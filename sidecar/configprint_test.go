package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
)

func TestConfigPrint_SaysValueAndOrigin(t *testing.T) {
	file := writeFile(t, "config.yaml", `
settings: {RATE_LIMIT_PER_MIN: 500, LOG_LEVEL: warn, PORT: 7}
limits: [{model: "gpt-*", tokens_per_minute: 9}]
clients: {web: {weight: 2.5}}
sessions: [{match: "a-*", budget: {tokens: 5}}]
`)
	env := pairs([]string{"OPENAI_API_KEY_FILE", writeFile(t, "key", "sk-canary"), "CLIENT_API_KEYS", "web=canary", "LOG_LEVEL", "error", "CONFIG_FILE", file})
	getenv := func(name string) string { return env[name] }
	var out bytes.Buffer
	if err := run(context.Background(), []string{"config", "print", "--port", "9"}, getenv, &out, io.Discard); err != nil {
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
		if !strings.Contains(out.String(), s.name+" ") {
			t.Errorf("%s is missing", s.name)
		}
	}
	if t.Failed() || strings.Contains(out.String(), "canary") || strings.Contains(out.String(), "settings.") {
		t.Errorf("printed\n%s", &out)
	}

	// What is wrong is said behind the table, which stays complete.
	env["RATE_LIMIT_PER_MIN"] = "many"
	out.Reset()
	err := run(context.Background(), []string{"config", "print"}, getenv, &out, io.Discard)
	var faults *configError
	if !errors.As(err, &faults) || exitStatus(err) != exitConfig || !strings.Contains(err.Error(), `RATE_LIMIT_PER_MIN="many"`) || !strings.Contains(out.String(), "SHUTDOWN_GRACE") {
		t.Errorf("got %v and\n%s", err, &out)
	}
}
