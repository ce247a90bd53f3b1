package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func load(settings ...string) (*Config, error) {
	return Load(nil, environment(settings...))
}

// environment has settings that come as NAME, value pairs.
func environment(settings ...string) (getenv func(string) string) {
	return func(name string) string {
		for i := 0; i+1 < len(settings); i += 2 {
			if settings[i] == name {
				return settings[i+1]
			}
		}
		return ""
	}
}

func fileOf(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadConfig_Defaults(t *testing.T) {
	c, err := load("OPENAI_API_KEY", "sk-1")
	if err != nil {
		t.Fatal(err)
	}
	got := []any{
		c.BaseURL.String(), c.RequestsPerMinute, c.LearnedRequests, c.TokensPerMinute, c.LearnedTokens, c.LimitShare, c.Profile,
		c.QueueMaxWait, c.QueueMaxRequests, c.QueueHeartbeat, c.MaxBodyBytes, c.ListenAddr, c.RepositoryType, c.SQLiteDSN,
		c.DisconnectPolicy, c.LedgerDurability, c.LedgerOnFailure, c.SessionHeader, c.ShutdownGrace, c.LearnLimits,
	}
	want := []any{
		"https://api.openai.com/v1", int64(60), true, int64(0), true, 1.0, "auto",
		240 * time.Second, int64(10000), time.Duration(0), int64(32 << 20), "127.0.0.1:8080", "memory", "sessions.db",
		"drain", "full", "serve", "X-Session-Id", 25 * time.Second, true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if c.QueueMaxBytes <= 0 {
		t.Errorf("QUEUE_MAX_BYTES is %d", c.QueueMaxBytes)
	}
}

func TestLoadConfig_NamesEveryFaultAtOnce(t *testing.T) {
	_, err := load(
		"OPENAI_BASE_URL", "api.openai.com", "RATE_LIMIT_PER_MIN", "-1", "TOKEN_LIMIT_PER_MIN", "many", "MAX_CONCURRENT_REQUESTS", "1.5",
		"LEARN_LIMITS", "perhaps", "LIMIT_SHARE", "2/1", "PROVIDER_PROFILE", "bedrock", "UPSTREAM_PROXY", "ftp://x", "UPSTREAM_CA_FILE", "nowhere.pem", "UPSTREAM_PATIENCE", "long", "QUEUE_MAX_WAIT", "240", "QUEUE_MAX_REQUESTS", "0",
		"QUEUE_MAX_BYTES", "lots", "QUEUE_HEARTBEAT", "10ms", "MAX_BODY_BYTES", "-3MiB", "PORT", "65536", "LISTEN_ADDR", "8080",
		"CLIENT_API_KEYS", "=x", "ADMIN_API_KEYS", "=x", "ALLOW_UNAUTHENTICATED", "si", "ALLOWED_HOSTS", "http://x", "ALLOWED_ORIGINS", "chat.example", "ADMIN_ADDR", "x", "REPOSITORY_TYPE", "redis",
		"DISCONNECT_POLICY", "wait", "LEDGER_DURABILITY", "some", "LEDGER_ON_FAILURE", "panic", "SESSION_HEADER", "X Y",
		"LOG_FORMAT", "xml", "LOG_LEVEL", "loud", "SHUTDOWN_GRACE", "soon", "CONFIG_FILE", "nowhere.yaml",
	)
	var faults *Error
	if !errors.As(err, &faults) {
		t.Fatalf("got %v", err)
	}
	named := map[string]bool{}
	for _, line := range faults.Faults {
		name, _, _ := strings.Cut(strings.FieldsFunc(line, func(r rune) bool { return r == '=' || r == ':' })[0], " ")
		named[name] = true
		if strings.Contains(line, "\n") || !strings.Contains(line, "want ") {
			t.Errorf("not one line with the accepted form: %q", line)
		}
	}
	free := map[string]bool{"SQLITE_DSN": true, "POSTGRES_DSN": true, "LEDGER_JOURNAL": true} // any text may be right
	for _, s := range settings {
		if !named[s.Name] && !free[s.Name] {
			t.Errorf("no fault names %s", s.Name)
		}
	}
}

func TestLoadConfig_SettingsTogether(t *testing.T) {
	key := []string{"OPENAI_API_KEY", "sk-canary"}
	for _, c := range []struct {
		name     string
		settings []string
		want     string // in the one fault; "" = none
	}{
		{"all loopback names", []string{"LISTEN_ADDR", "localhost:1"}, ""},
		{"ipv6 loopback", []string{"LISTEN_ADDR", "[::1]:1"}, ""},
		{"open to the network", []string{"LISTEN_ADDR", "0.0.0.0:1"}, "CLIENT_API_KEYS or ALLOW_UNAUTHENTICATED"},
		{"open to the network without a host", []string{"LISTEN_ADDR", ":1"}, "CLIENT_API_KEYS or ALLOW_UNAUTHENTICATED"},
		{"open with keys", []string{"LISTEN_ADDR", ":1", "CLIENT_API_KEYS", "a=b"}, ""},
		{"open on purpose", []string{"LISTEN_ADDR", ":1", "ALLOW_UNAUTHENTICATED", "true"}, ""},
		{"open admin", []string{"ADMIN_ADDR", "0.0.0.0:2"}, "ADMIN_ADDR"},
		{"upstream is the listener", []string{"OPENAI_BASE_URL", "http://localhost:8080/v1"}, "our own listener"},
		{"upstream is the listener by address", []string{"OPENAI_BASE_URL", "http://127.0.0.1:8080/v1", "PORT", "8080"}, "our own listener"},
		{"upstream is the open listener", []string{"OPENAI_BASE_URL", "http://127.0.0.1:9/v1", "LISTEN_ADDR", ":9", "ALLOW_UNAUTHENTICATED", "true"}, "our own listener"},
		{"upstream is the admin listener", []string{"OPENAI_BASE_URL", "http://127.0.0.1:8081/v1", "ADMIN_ADDR", "127.0.0.1:8081"}, "our own listener"},
		{"upstream with a password", []string{"OPENAI_BASE_URL", "https://u:canary@h/v1"}, `"https://[redacted]@h/v1"`},
		{"upstream with a query", []string{"OPENAI_BASE_URL", "https://h/v1?key=canary"}, `"https://h/v1?[redacted]"`},
		{"upstream with a password that no URL can hold", []string{"OPENAI_BASE_URL", "https://u:canary%zz@h/v1"}, `"https://[redacted]@h/v1"`},
		{"sessions by a header of keys", []string{"SESSION_HEADER", "api-key"}, "without another use"},
		{"sessions by a header of ours", []string{"SESSION_HEADER", "x-queue-weight"}, "without another use"},
		{"sessions by a header of HTTP", []string{"SESSION_HEADER", "Content-Type"}, "without another use"},
		{"sessions by a header of the application's", []string{"SESSION_HEADER", "X-Conversation"}, ""},
		{"admin is the listener", []string{"ADMIN_ADDR", "127.0.0.1:8080"}, "another port"},
		{"admin is another port", []string{"ADMIN_ADDR", "127.0.0.1:8081"}, ""},
		{"upstream is another port", []string{"OPENAI_BASE_URL", "http://127.0.0.1:8081/v1"}, ""},
		{"postgres without address", []string{"REPOSITORY_TYPE", "postgres"}, "POSTGRES_DSN"},
		{"two keys of one client, while it changes them", []string{"CLIENT_API_KEYS", "a=b,a=c"}, ""},
		{"one key of two clients", []string{"CLIENT_API_KEYS", "a=b,c=b"}, "CLIENT_API_KEYS"},
		{"a key without a name in the place of a named one", []string{"CLIENT_API_KEYS", "key-2=b,c"}, "CLIENT_API_KEYS"},
		{"the same the other way round", []string{"CLIENT_API_KEYS", "b,key-1=c"}, "CLIENT_API_KEYS"},
		{"a client's name that the ledger would cut", []string{"CLIENT_API_KEYS", strings.Repeat("n", 129) + "=b"}, "CLIENT_API_KEYS"},
		{"a client's name that no log line shows", []string{"CLIENT_API_KEYS", "a\tb=c"}, "CLIENT_API_KEYS"},
		{"admins without a key", []string{"ADMIN_API_KEYS", " , "}, "ADMIN_API_KEYS"},
		{"an admin who is a client, too", []string{"CLIENT_API_KEYS", "a=b", "ADMIN_API_KEYS", "b"}, ""},
		{"operators' routes open to the network for admins", []string{"ADMIN_ADDR", "0.0.0.0:1", "ADMIN_API_KEYS", "b"}, ""},
		{"operators' routes open to the network for all", []string{"ADMIN_ADDR", "0.0.0.0:1"}, "ADMIN_API_KEYS, CLIENT_API_KEYS or"},
		{"the API open to the network for admins", []string{"LISTEN_ADDR", "0.0.0.0:1", "ADMIN_API_KEYS", "b"}, "CLIENT_API_KEYS or"},
		{"both key and key file", []string{"OPENAI_API_KEY_FILE", "x"}, "OPENAI_API_KEY and OPENAI_API_KEY_FILE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(append(key, c.settings...)...)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")):
				t.Errorf("got %v, want one fault with %q", err, c.want)
			case err != nil && strings.Contains(err.Error(), "canary"):
				t.Errorf("the fault holds a secret: %v", err)
			}
		})
	}
}

func TestLoadConfig_ReadsSecretsFromFiles(t *testing.T) {
	c, err := load("OPENAI_API_KEY_FILE", fileOf(t, "sk-1\n"), "CLIENT_API_KEYS_FILE", fileOf(t, "web=a\nbatch=b\n"))
	if err != nil {
		t.Fatal(err)
	}
	if string(c.APIKey) != "sk-1" || len(c.ClientKeys) != 2 || c.ClientKeys[1].Name != "batch" || string(c.ClientKeys[1].Key) != "b" {
		t.Errorf("got %q, %d client keys", string(c.APIKey), len(c.ClientKeys))
	}
}

func TestLoadConfig_FlagBeatsEnvironment(t *testing.T) {
	c, err := Load(map[string]string{"PORT": "2"}, environment("OPENAI_API_KEY", "sk-1", "PORT", "1", "RATE_LIMIT_PER_MIN", "7"))
	if err != nil {
		t.Fatal(err)
	}
	if c.ListenAddr != "127.0.0.1:2" || c.RequestsPerMinute != 7 || c.LearnedRequests {
		t.Errorf("got %s and %d requests (learned: %v)", c.ListenAddr, c.RequestsPerMinute, c.LearnedRequests)
	}
}

const wholeFile = `
limits:
  - model: "gpt-4o*"
    requests_per_minute: 500
    tokens_per_minute: 30000
    input_tokens_per_minute: 20000
    output_tokens_per_minute: 10000
    requests_per_day: 10000
    tokens_per_day: 1000000
    concurrent: 8
    profile: openai
clients:
  web:   {weight: 4, priority: high}
  batch: {weight: 1, priority: low}
sessions:
  - match: "agent-*"
    weight: 2
    budget: {tokens: 1000000, money: "5.00 USD", per: day, action: reject, each: session}
currency: USD
prices:
  - {model: "gpt-4o", from: 2026-01-01, input: "2.50", cached_input: "1.25", cache_write: "3.125", output: "10.00", reasoning: "12"}
retention: {requests: 90d, hourly: 90d}
`

func TestLoadConfig_ReadsTheWholeFile(t *testing.T) {
	c, err := load("OPENAI_API_KEY", "sk-1", "CLIENT_API_KEYS", "web=a,batch=b", "CONFIG_FILE", fileOf(t, wholeFile))
	if err != nil {
		t.Fatal(err)
	}
	want := File{
		Limits: []ModelLimit{{
			Model: "gpt-4o*", RequestsPerMinute: 500, TokensPerMinute: 30000, InputTokensPerMinute: 20000, OutputTokensPerMinute: 10000,
			RequestsPerDay: 10000, TokensPerDay: 1000000, Concurrent: 8, Profile: "openai",
		}},
		Clients:   map[string]ClientRule{"web": {4, "high"}, "batch": {1, "low"}},
		Sessions:  []SessionRule{{"agent-*", 2, &Budget{1000000, "5.00 USD", "day", "reject", "session"}}},
		Currency:  "USD",
		Prices:    []Price{{"gpt-4o", "2026-01-01", "2.50", "1.25", "3.125", "12", "10.00"}},
		Retention: Retention{"90d", "90d"},
	}
	if diff := cmp.Diff(want, c.File); diff != "" {
		t.Error(diff)
	}
}

func TestLoadConfig_NamesFaultsOfTheFileByPath(t *testing.T) {
	_, err := load("OPENAI_API_KEY", "sk-1", "CLIENT_API_KEYS", "web=a", "CONFIG_FILE", fileOf(t, `
limit: []
limits:
  - {model: "[", requests_per_minute: -1, rpm: 3}
  - {model: m, requests_per_minute: 9, requests_per_day: 3, profile: x}
clients: {webb: {weight: 0.01}, web: {priority: urgent}}
sessions:
  - {match: a, weight: 1000, budget: {per: week, money: "5 dollars", action: shout, each: day}}
  - {match: b, budget: {money: "0.00 USD"}}
  - {match: c, budget: {money: "5.00 EUR"}}
  - {match: d, budget: {tokens: -1}}
currency: Dollar
prices:
  - {model: m, from: yesterday, input: "1e3"}
  - {model: "[", input: "1", output: "1", cached_input: x, cache_write: x, reasoning: x}
  - {model: m, from: 2026-01-01, input: "1", output: "1"}
  - {model: m, from: 2026-01-01, input: "1", output: "1"}
retention: {requests: long}
`))
	var faults *Error
	if !errors.As(err, &faults) {
		t.Fatalf("got %v", err)
	}
	all := "\n" + strings.Join(faults.Faults, "\n")
	for _, path := range []string{
		": limit: unknown key", ": limits[0].rpm: unknown key", "\nlimits[0].model=", "\nlimits[0].requests_per_minute=", "\nlimits[1].requests_per_minute=", "\nlimits[1].profile=",
		`clients="webb"`, "\nclients.webb.weight=", "\nclients.web.priority=", "\nsessions[0].weight=", "\nsessions[0].budget.per=", "\nsessions[0].budget.money=",
		"\nsessions[0].budget.action=", "\nsessions[0].budget.each=", "\nsessions[1].budget.money=", "\nsessions[2].budget.money=", "\nsessions[3].budget.tokens=",
		"\ncurrency=", "\nprices[1].model=", "\nprices[1].cached_input=", "\nprices[1].cache_write=", "\nprices[1].reasoning=", "\nprices[3].from=", "\nprices[0].from=", "\nprices[0].input=", "\nprices[0].output=", "\nretention.requests=",
	} {
		if !strings.Contains(all, path) {
			t.Errorf("no fault for %s in:%s", path, all)
		}
	}
}

func TestSecret_NeverPrints(t *testing.T) {
	s := Secret("sk-canary")
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if text := fmt.Sprintf(format, s) + fmt.Sprintf(format, struct{ S Secret }{s}); strings.Contains(text, "canary") || strings.Contains(text, "63616e617279") {
			t.Errorf("%s prints %s", format, text)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(wholeFile))
	f.Add([]byte("limits: [{model: x, requests_per_minute: 1e400}]"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		var file File
		if faults := file.parse("f", data); len(faults) == 0 {
			file.validate(nil)
		}
	})
}

// TestCompletion_KnowsTheWords: what a shell is offered for a flag is what the
// setting accepts.
func TestCompletion_KnowsTheWords(t *testing.T) {
	offered := 0
	for _, s := range settings {
		for _, word := range s.Words() {
			offered++
			if err := s.set(new(Config), word); err != nil {
				t.Errorf("%s is offered %q, which it does not accept", s.Name, word)
			}
		}
	}
	if offered < 20 {
		t.Errorf("%d words are offered", offered)
	}
}
