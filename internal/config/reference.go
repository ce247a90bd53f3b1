package config

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// fileKeys says what each key of CONFIG_FILE means: its accepted form and its
// meaning. A test holds it to the File struct.
var fileKeys = []struct{ path, form, doc string }{
	{"settings.NAME", "as in the environment", "a setting of the table above, by its name; flags and the environment win over it. Secrets are refused here"},
	{"limits[].model", "a pattern such as `gpt-4o*`", "the models that these limits hold for, each for itself; the first pattern that matches counts"},
	{"limits[].requests_per_minute", "a whole number, 0 = none", "requests per minute"},
	{"limits[].tokens_per_minute", "a whole number, 0 = none", "tokens per minute, input and output together"},
	{"limits[].input_tokens_per_minute", "a whole number, 0 = none", "input tokens per minute, where the provider counts them apart"},
	{"limits[].output_tokens_per_minute", "a whole number, 0 = none", "output tokens per minute, likewise"},
	{"limits[].requests_per_day", "a whole number, 0 = none", "requests per day; used up, requests are refused with `daily_limit`"},
	{"limits[].tokens_per_day", "a whole number, 0 = none", "tokens per day, likewise"},
	{"limits[].concurrent", "a whole number, 0 = none", "requests in flight"},
	{"limits[].profile", "auto, openai, azure, anthropic or postpaid", "how the provider charges and refills these models; as PROVIDER_PROFILE"},
	{"clients.NAME.weight", "0.1 to 100", "the client's share of a limit beside other clients, 1 by default. NAME is from CLIENT_API_KEYS"},
	{"clients.NAME.priority", "high, normal or low", "the most a client may ask for, normal by default"},
	{"sessions[].match", "a pattern such as `agent-*`", "the sessions that this rule holds for; the first pattern that matches counts"},
	{"sessions[].weight", "0.1 to 100", "the session's share beside other sessions of its client, 1 by default"},
	{"sessions[].budget.tokens", "a whole number, 0 = no bound", "tokens that may be used in a period"},
	{"sessions[].budget.money", "such as `5.00 USD`", "money that may be used in a period; needs prices"},
	{"sessions[].budget.per", "hour, day, month or ever", "the period, in UTC; day by default"},
	{"sessions[].budget.action", "reject or warn", "what happens when it is used up; reject by default"},
	{"sessions[].budget.each", "client or session", "who has a budget of its own: each client, all of whose matching sessions draw on it, or each session; client by default"},
	{"currency", "three letters such as USD", "of all prices and budgets; USD by default"},
	{"prices[].model", "a name, or a pattern such as `gpt-4o*`", "the models that this price is for"},
	{"prices[].from", "a date such as 2026-01-01", "the day, in UTC, from which it holds; since ever by default"},
	{"prices[].input", "a decimal string such as `\"2.50\"`", "per million input tokens"},
	{"prices[].cached_input", "a decimal string", "per million input tokens that the provider had cached; as input by default"},
	{"prices[].cache_write", "a decimal string", "per million input tokens that the provider wrote to its cache; as input by default"},
	{"prices[].reasoning", "a decimal string", "per million output tokens that were thought, and not shown; as output by default"},
	{"prices[].output", "a decimal string", "per million output tokens"},
	{"retention.requests", "such as `90d` or `36h`; 0 = for ever", "how long a row for each request is kept, 90d by default"},
	{"retention.hourly", "such as `90d` or `36h`; 0 = for ever", "how long hourly totals are kept, 90d by default"},
}

// WriteReference writes docs/configuration.md: the settings table, the keys of
// CONFIG_FILE, and the rules that hold for both.
func WriteReference(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Configuration

This page is made by ` + "`llm-queue-proxy config reference`" + ` from the tables the program reads its settings by.

- **Precedence**: a flag, then the environment, then ` + "`settings`" + ` in CONFIG_FILE, then the default.
- **Flags**: RATE_LIMIT_PER_MIN is ` + "`--rate-limit-per-min`" + `. Secrets have none: a command line is visible to every user of the machine.
- **Secrets** X are also read from the file that X_FILE names. Both at once, and an empty file, are errors.
- **Errors**: all faults are named at once, one line each, and end the program with exit status 78. ` + "`config check`" + ` says the same
  without starting; ` + "`config print`" + ` shows every value and where it comes from, secrets redacted.
- **Reload**: SIGHUP reads CONFIG_FILE and the X_FILEs again, and takes up all that is new or, if anything is wrong, nothing; the log
  and the metric ` + "`llm_queue_proxy_config_last_reload_successful`" + ` say which. Waiting requests keep their places. Settings marked "restart"
  keep their values, and are named in the log where they have changed.
- **Rotation**: OPENAI_API_KEY_FILE is looked at before every request, and once more when the provider answers 401, without any signal.

## Settings

| variable | default | accepted | meaning | on SIGHUP |
|---|---|---|---|---|
`)
	for _, s := range settings {
		def, hangup := s.def, "taken up"
		if def == "" {
			def = "required"
		}
		if slices.Contains(needsRestart, s.Name) {
			hangup = "restart"
		}
		name := "`" + s.Name + "`"
		if file := s.file(); file != "" {
			name += ", `" + file + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, cell(def), cell(s.form), cell(s.Doc), hangup)
	}
	b.WriteString(`
## CONFIG_FILE

YAML; every key is optional, an unknown one is an error. [examples/config.yaml](../examples/config.yaml) has them all. All of it but
` + "`retention`" + ` is taken up on SIGHUP.

| key | accepted | meaning |
|---|---|---|
`)
	for _, k := range fileKeys {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.path, cell(k.form), cell(k.doc))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cell keeps a text from ending its cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }
