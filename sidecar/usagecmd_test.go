package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// command runs the program once.
func command(t *testing.T, env []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	settings := sidecartest.Pairs(env)
	var out, errs bytes.Buffer
	err = run(t.Context(), args, func(name string) string { return settings[name] }, &out, &errs)
	return out.String(), errs.String(), err
}

const twoPrices = `
prices:
  - {model: "gpt-4o", input: "2.50", output: "10.00"}
  - {model: "org/*", from: 2026-01-01, input: "1", output: "1"}
`

// The store and the running sidecar answer alike, in every grouping and format.
func TestUsageCommand(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	settings := append(append(sidecartest.SQLite(t), withFile(t, twoPrices)...), "CLIENT_API_KEYS", "a=k1,b=k2", "ADMIN_API_KEYS", "k3")
	s := start(t, base, settings...)
	day := time.Now().UTC().Format(time.DateOnly)
	for i, model := range []string{"gpt-4o", "=1+1", "org/x", "gpt-4o"} {
		key := [...]string{"k1", "k2"}[i%2]
		wantAnswered(t, sidecartest.Send(t, "POST", fmt.Sprintf("%s/v1/session/-s%d/chat/completions", s.URL, i%3), strings.Replace(sidecartest.Chat, "gpt-4o", model, 1), "Authorization", "Bearer "+key))
	}
	env := append(settings, "OPENAI_API_KEY", "sk-1", "LISTEN_ADDR", strings.TrimPrefix(s.URL, "http://"))
	if day != time.Now().UTC().Format(time.DateOnly) {
		t.Skip("the requests are of two days: it was midnight in UTC")
	}
	for _, c := range []struct {
		args []string
		want []string // the first column of the CSV
	}{
		{nil, []string{"session", "'-s0", "'-s0", "'-s2", "'-s1"}},
		{[]string{"--by", "session"}, []string{"session", "'-s0", "'-s0", "'-s2", "'-s1"}},
		{[]string{"--by=session", "--client=b"}, []string{"session", "'-s0", "'-s1"}},
		{[]string{"--by=model", "--client=b"}, []string{"model", "'=1+1", "gpt-4o"}},
		{[]string{"--by=client", "--client=b"}, []string{"client", "b"}},
		{[]string{"--session=-s0", "--by=client", "--client=a"}, []string{"client", "a"}},
		{[]string{"--by=model"}, []string{"model", "'=1+1", "gpt-4o", "org/x"}},
		{[]string{"--by=client"}, []string{"client", "a", "b"}},
		{[]string{"--by=day"}, []string{"day", day}},
		{[]string{"--by=day", "--since=2h", "--until", day + "T23:59:59Z"}, []string{"day", day}},
		{[]string{"--by=model", "--since=2000-01-01", "--until=365d"}, []string{"model"}},
		{[]string{"--session=-s0"}, []string{"session", "'-s0"}},
		{[]string{"--session=-s0", "--by=model"}, []string{"model", "gpt-4o"}},
		{[]string{"--session=-s0", "--by=client", "--since=1h"}, []string{"client", "a", "b"}},
		{[]string{"--session=-s0", "--by=day"}, []string{"day", day}},
		{[]string{"--session=-s0", "--by=day", "--until=1h"}, []string{"day"}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			for _, format := range []string{"csv", "json", "table"} {
				args := append([]string{"usage", "--format", format}, c.args...)
				asked, _, err := command(t, env, args...)
				if err != nil {
					t.Fatal(err)
				}
				read, _, err := command(t, env, append(args, "--store")...)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(asked, read); diff != "" {
					t.Errorf("%s: the sidecar and its store differ:\n%s", format, diff)
				}
				switch format {
				case "csv":
					rows, err := csv.NewReader(strings.NewReader(asked)).ReadAll()
					var names []string
					for _, row := range rows {
						names = append(names, row[0])
					}
					if c.want[0] == "session" {
						c.want, names = sorted(c.want), sorted(names) // the order is that of the last use, to the millisecond
					}
					if diff := cmp.Diff(c.want, names); err != nil || diff != "" {
						t.Errorf("%v %s in\n%s", err, diff, asked)
					}
				case "json":
					var doc struct {
						By   string
						Rows []map[string]any
					}
					if err := json.Unmarshal([]byte(asked), &doc); err != nil || len(doc.Rows) != len(c.want)-1 || doc.By != c.want[0] {
						t.Errorf("%v in %s", err, asked)
					}
				case "table":
					if lines := strings.Count(asked, "\n"); lines != len(c.want) || !strings.Contains(asked, strings.ToUpper(c.want[0])) {
						t.Errorf("table\n%s", asked)
					}
				}
			}
		})
	}
	t.Run("money", func(t *testing.T) {
		out, _, err := command(t, env, "usage", "--by=model", "--format=csv")
		rows, err2 := csv.NewReader(strings.NewReader(out)).ReadAll()
		if err != nil || err2 != nil || len(rows) != 4 {
			t.Fatal(err, err2, out)
		}
		if rows[0][7] != "cost USD" || rows[1][7] != "" || rows[1][8] == "0" || !strings.HasPrefix(rows[2][7], "0.00") || rows[2][8] != "0" {
			t.Errorf("%q", rows)
		}
		one, _, err := command(t, env, "usage", "--session=-s0", "--by=model", "--format=csv")
		if err != nil || !strings.Contains(one, rows[2][7]) { // all of gpt-4o is of this session
			t.Errorf("%v: the session costs\n%s, want %s", err, one, rows[2][7])
		}
	})
	for name, args := range map[string][]string{
		"format": {"--format=xml"}, "by": {"--by=week"}, "since": {"--by=day", "--since=yesterday"}, "session with since": {"--since=1h"}, "argument": {"model"},
	} {
		if _, _, err := command(t, env, append([]string{"usage"}, args...)...); err == nil || exitStatus(err) != exitUsage {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := command(t, env, "usage", "--session=nobody"); err == nil || !strings.Contains(err.Error(), "404 Not Found: no request of this session") {
		t.Errorf("an unknown session: %v", err)
	}
	if _, _, err := command(t, append(slices.Clone(env), "SQLITE_DSN", "no/such.db"), "usage", "--store"); err == nil || !strings.Contains(err.Error(), "no/such.db: no such file") {
		t.Errorf("a store that is not there: %v", err)
	}
	if _, _, err := command(t, []string{"OPENAI_API_KEY", "x"}, "usage", "--store"); err == nil || exitStatus(err) != exitConfig {
		t.Errorf("the store of a memory ledger: %v", err)
	}
}

// sorted is a CSV's first column with the names below its head in order.
func sorted(names []string) []string {
	return append(names[:1:1], slices.Sorted(slices.Values(names[1:]))...)
}

// What the command prints is what the file takes, and a name with quotes stays one.
func TestPricesImport(t *testing.T) {
	const list = `{"gpt-made-up":{"input_cost_per_token":2.5e-06,"cache_read_input_token_cost":1.25e-06,"output_cost_per_token":1e-05,"litellm_provider":"openai"},
		"o\"dd: {name} # x":{"input_cost_per_token":1e-6,"output_cost_per_token":0,"litellm_provider":"other"},
		"long":{"input_cost_per_token":1e-6,"input_cost_per_token_above_128k_tokens":2e-6,"output_cost_per_token":1e-6,"litellm_provider":"other"}}`
	path := sidecartest.WriteFile(t, "list.json", list)
	out, errs, err := command(t, nil, "prices", "import", path, "--from", "2026-01-01")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(errs, `"long": taken over without input_cost_per_token_above_128k_tokens`) || !strings.Contains(out, "# without input_cost") {
		t.Errorf("out:\n%s\nerr:\n%s", out, errs)
	}
	c, err := configOf("OPENAI_API_KEY", "sk-1", "CONFIG_FILE", sidecartest.WriteFile(t, "c.yaml", out))
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Price{
		{Model: "gpt-made-up", From: "2026-01-01", Input: "2.5", CachedInput: "1.25", Output: "10"},
		{Model: "long", From: "2026-01-01", Input: "1", Output: "1"},
		{Model: `o"dd: {name} # x`, From: "2026-01-01", Input: "1", Output: "0"},
	}
	if diff := cmp.Diff(want, c.File.Prices); diff != "" {
		t.Errorf("%s\n%s", diff, out)
	}
	out, _, err = command(t, nil, "prices", "import", path, "--provider=openai", "--model=gpt*", "--format=litellm")
	if err != nil || strings.Count(out, "{model:") != 1 || strings.Contains(out, "from:") {
		t.Errorf("%v\n%s", err, out)
	}
	out, _, err = command(t, nil, "prices", "import", sidecartest.WriteFile(t, "api.json", `{"p":{"models":{"m":{"cost":{"input":3,"output":15}}}}}`))
	if err != nil || !strings.Contains(out, `{model: "m", input: "3", output: "15"}`) {
		t.Errorf("%v\n%s", err, out)
	}
	for name, c := range map[string]struct {
		args   []string
		status int
	}{
		"no file": {nil, 2}, "two files": {[]string{path, path}, 2}, "pattern": {[]string{path, "--model=["}, 2}, "date": {[]string{path, "--from=today"}, 2}, "format": {[]string{path, "--format=csv"}, 2},
		"missing": {[]string{path + "x"}, 1}, "no list": {[]string{sidecartest.WriteFile(t, "x", "[]")}, 1}, "nothing fits": {[]string{path, "--model=none"}, 1},
	} {
		if out, _, err := command(t, nil, append([]string{"prices", "import"}, c.args...)...); err == nil || exitStatus(err) != c.status || out != "" {
			t.Errorf("%s: %v, %q", name, err, out)
		}
	}
}
