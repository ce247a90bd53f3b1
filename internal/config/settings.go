package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Setting is one row of the configuration reference.
type Setting struct {
	Name   string
	def    string // shown and, unless it describes itself in words, parsed
	form   string // what a value looks like, for the reader of a fault
	Doc    string
	Secret bool // its value is never shown
	set    func(c *Config, value string) error
}

// settings is the whole environment, in the order the reference prints it.
var settings = []Setting{
	{"OPENAI_API_KEY", "", "a key of the provider", "key sent upstream; it replaces whatever Authorization the client sent", true, secretText(func(c *Config) *Secret { return &c.APIKey })},
	{"OPENAI_BASE_URL", "https://api.openai.com/v1", "an http(s) URL without user and query", "upstream, with or without a trailing slash", false, setBaseURL},
	{"RATE_LIMIT_PER_MIN", "60 until learned", "a whole number, 0 = no cap", "requests per minute toward the upstream, over all models", false, setRequestsPerMinute},
	{"TOKEN_LIMIT_PER_MIN", "learned", "a whole number, 0 = no cap", "tokens per minute, over all models", false, setTokensPerMinute},
	{"MAX_CONCURRENT_REQUESTS", "0", "a whole number, 0 = no cap", "requests in flight upstream", false, count(func(c *Config) *int64 { return &c.MaxConcurrent }, 0)},
	{"LEARN_LIMITS", "true", "true or false", "learn limits and levels from the upstream's headers and 429 bodies", false, boolean(func(c *Config) *bool { return &c.LearnLimits })},
	{"LIMIT_SHARE", "1", `a number or fraction above 0 and up to 1, such as "0.5" or "1/3"`, "this process's part of every limit", false, setShare},
	{"PROVIDER_PROFILE", "auto", "auto, openai, azure, anthropic or postpaid", "how the upstream charges and refills", false, oneOf(func(c *Config) *string { return &c.Profile }, "auto", "openai", "azure", "anthropic", "postpaid")},
	{"UPSTREAM_PROXY", "env", "env, off, or the URL of an http, https or socks5 proxy", "way to the upstream; `env` is HTTPS_PROXY and NO_PROXY, for an https upstream only", false, setProxy},
	{"UPSTREAM_CA_FILE", "none", "a PEM file with certificates", "certificates that the upstream may be vouched for by, beside the system's", false, setCAFile},
	{"UPSTREAM_PATIENCE", "15s, 60s once it has answered", "a duration, 0s = none", "how long an upstream that cannot be reached is tried, once for all who wait, before 502 `upstream_unreachable`", false, duration(func(c *Config) *time.Duration { return &c.UpstreamPatience }, 0)},
	{"QUEUE_MAX_WAIT", "240s", "a positive duration", "longest wait, over all attempts, before a clear refusal", false, duration(func(c *Config) *time.Duration { return &c.QueueMaxWait }, 1)},
	{"QUEUE_MAX_REQUESTS", "10000", "a whole number from 1", "requests that may wait at once", false, count(func(c *Config) *int64 { return &c.QueueMaxRequests }, 1)},
	{"QUEUE_MAX_BYTES", "a quarter of the memory limit", "a size such as 512MiB", "bytes that requests and answers may hold at once", false, setQueueBytes},
	{"QUEUE_HEARTBEAT", "off", `a duration from 1s, or "off"`, "for streaming requests: after this long in the queue answer 200 and send a line of one space every so often; later refusals then cut the connection", false, setHeartbeat},
	{"MAX_BODY_BYTES", "32MiB", "a size such as 32MiB", "largest body of a metered request", false, size(func(c *Config) *int64 { return &c.MaxBodyBytes })},
	{"PORT", "8080", "a port from 0 to 65535", "port of the listener", false, setPort},
	{"LISTEN_ADDR", "127.0.0.1:$PORT", "host:port", "full address; anything but loopback needs CLIENT_API_KEYS or ALLOW_UNAUTHENTICATED=true", false, address(func(c *Config) *string { return &c.ListenAddr })},
	{"CLIENT_API_KEYS", "none", "comma-separated name=key or key", "when set, every route but the health routes needs one of these as a bearer token, in api-key or in x-api-key, and a client sees its own sessions only", true, keyList("key", func(c *Config) *[]ClientKey { return &c.ClientKeys })},
	{"ADMIN_API_KEYS", "none", "comma-separated name=key or key", "who may see every client's sessions, usage and queue, and the metrics; they are no keys for /v1", true, keyList("admin", func(c *Config) *[]ClientKey { return &c.AdminKeys })},
	{"ALLOW_UNAUTHENTICATED", "false", "true or false", "serve a non-loopback address without client keys", false, boolean(func(c *Config) *bool { return &c.AllowUnauthenticated })},
	{"ALLOWED_HOSTS", "loopback names while bound to loopback, else any", "comma-separated host names", "accepted Host headers beside the loopback names; others get 421", false, setHosts},
	{"ALLOWED_ORIGINS", "none", `comma-separated origins such as https://chat.example, or "*"`, "web pages that may call the API; their preflight needs no key and no place. \"*\" needs CLIENT_API_KEYS or ALLOW_UNAUTHENTICATED=true beside it. Other pages get 403", false, setOrigins},
	{"ADMIN_ADDR", "none", "host:port", "a second listener for sessions, usage, queue and metrics; the main one then serves /v1 and health only", false, address(func(c *Config) *string { return &c.AdminAddr })},
	{"REPOSITORY_TYPE", "memory", "memory, sqlite or postgres", "where usage is kept", false, oneOf(func(c *Config) *string { return &c.RepositoryType }, "memory", "sqlite", "postgres")},
	{"SQLITE_DSN", "sessions.db", "a path or SQLite URI", "database file of REPOSITORY_TYPE=sqlite", false, text(func(c *Config) *string { return &c.SQLiteDSN })},
	{"POSTGRES_DSN", "none", "a Postgres connection URL", "database of REPOSITORY_TYPE=postgres", true, secretText(func(c *Config) *Secret { return &c.PostgresDSN })},
	{"DISCONNECT_POLICY", "drain", "drain or cancel", "client left mid-answer: read on for a while to learn its usage, or cancel", false, oneOf(func(c *Config) *string { return &c.DisconnectPolicy }, "drain", "cancel")},
	{"LEDGER_JOURNAL", "none for memory, beside the SQLite file, for postgres in the state folder", `a path, or "off"`, "file where records wait while the database is down; each process has its own", false, text(func(c *Config) *string { return &c.LedgerJournal })},
	{"LEDGER_DURABILITY", "full", "full, normal or async", "what a crash may cost", false, oneOf(func(c *Config) *string { return &c.LedgerDurability }, "full", "normal", "async")},
	{"LEDGER_ON_FAILURE", "serve", "serve or refuse", "when no record can be written: serve and log it, or refuse new requests", false, oneOf(func(c *Config) *string { return &c.LedgerOnFailure }, "serve", "refuse")},
	{"SESSION_HEADER", "X-Session-Id", "the name of a header without another use", "header that carries the session when the path does not", false, setHeaderName},
	{"LOG_FORMAT", "auto", "auto, text or json", "text on a terminal, JSON elsewhere", false, oneOf(func(c *Config) *string { return &c.LogFormat }, "auto", "text", "json")},
	{"LOG_LEVEL", "info", "debug, info, warn or error", "least severe level that is logged", false, oneOf(func(c *Config) *string { return &c.LogLevel }, "debug", "info", "warn", "error")},
	{"SHUTDOWN_GRACE", "25s", "a positive duration", "how long SIGTERM lets queue and streams finish", false, duration(func(c *Config) *time.Duration { return &c.ShutdownGrace }, 1)},
	{"CONFIG_FILE", "none", "a path", "YAML file of settings, per-model limits, clients, sessions, prices and retention", false, nil},
}

// Settings lists every setting in the order of the reference.
func Settings() []Setting { return slices.Clone(settings) }

// file names the variable of a file that has the setting's value; "" = there is none.
func (s Setting) file() string {
	if s.Secret || s.Name == "UPSTREAM_PROXY" { // which may hold a password
		return s.Name + "_FILE"
	}
	return ""
}

// literalDefault reports whether def is a value, rather than words about one.
func (s Setting) literalDefault() bool {
	return s.def != "" && s.def != "none" && s.def != "learned" && s.def != "off" && !strings.Contains(s.def, " ")
}

// Words lists the values of a setting that accepts a few words only, such as
// "drain or cancel"; nil for any other.
func (s Setting) Words() []string {
	if !strings.Contains(s.form, " or ") {
		return nil
	}
	words := strings.Split(strings.ReplaceAll(s.form, " or ", ", "), ", ")
	if slices.ContainsFunc(words, func(w string) bool { return strings.ContainsAny(w, ` "=`) }) {
		return nil
	}
	return words
}

func (s Setting) fault(value string) string {
	if s.Secret {
		return fmt.Sprintf("%s: value not accepted; want %s", s.Name, s.form)
	}
	return fmt.Sprintf("%s=%q: want %s", s.Name, s.shown(value), s.form)
}

// shown is value as it may be printed. A URL that is refused may be refused for
// the password in it.
func (s Setting) shown(value string) string {
	if s.Secret {
		return redacted
	}
	if s.Name != "OPENAI_BASE_URL" && s.Name != "UPSTREAM_PROXY" {
		return value
	}
	before, _, queried := strings.Cut(value, "?")
	if queried {
		before += "?" + redacted
	}
	if at := strings.LastIndex(before, "@"); at >= 0 {
		scheme := ""
		if i := strings.Index(before[:at], "://"); i >= 0 {
			scheme = before[:i+3]
		}
		before = scheme + redacted + before[at:]
	}
	return before
}
