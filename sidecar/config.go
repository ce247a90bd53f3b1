package main

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/price"
)

// Config is every setting of the program, read and checked. The zero value of
// a limit means "none of ours"; Learned* says that the user set nothing and
// the provider's own headers decide.
type Config struct {
	APIKey      Secret
	BaseURL     *url.URL
	Profile     string // auto, openai, azure, anthropic, postpaid
	LearnLimits bool
	LimitShare  float64 // this process's part of every limit, in (0, 1]

	RequestsPerMinute int64 // with LearnedRequests: only until learned
	LearnedRequests   bool
	TokensPerMinute   int64
	LearnedTokens     bool
	MaxConcurrent     int64 // requests in flight upstream

	QueueMaxWait     time.Duration // over all attempts of a request
	QueueMaxRequests int64
	QueueMaxBytes    int64         // of bodies held while they wait
	QueueHeartbeat   time.Duration // 0 = off
	MaxBodyBytes     int64         // of a metered request

	ListenAddr           string
	AdminAddr            string // "" = the main listener serves everything
	ClientKeys           []ClientKey
	AllowUnauthenticated bool
	AllowedHosts         []string // nil: loopback names while bound to loopback, else any
	SessionHeader        string

	RepositoryType   string // memory, sqlite, postgres
	SQLiteDSN        string
	PostgresDSN      Secret
	LedgerJournal    string // "" = the ledger finds a place, "off" = none
	LedgerDurability string // full, normal, async
	LedgerOnFailure  string // serve, refuse

	DisconnectPolicy string // drain, cancel
	ShutdownGrace    time.Duration
	LogFormat        string // auto, text, json
	LogLevel         string // debug, info, warn, error

	File File

	prices     *price.Table      // of File; nil: none are known
	sources    sources           // where all of this came from, to be read again
	texts      map[string]Secret // each setting as it was written, "" = not set
	apiKeyFile string            // where APIKey came from, if from a file
	pending    []string          // settings that have changed but need a restart
}

// A ClientKey lets one client in.
type ClientKey struct {
	Name string
	Key  Secret
}

const defaultRequestsPerMinute = 60

// A setting is one row of the configuration reference.
type setting struct {
	name   string
	def    string // shown and, unless it describes itself in words, parsed
	form   string // what a value looks like, for the reader of a fault
	doc    string
	secret bool
	set    func(c *Config, value string) error
}

// settings is the whole environment, in the order the reference prints it.
var settings = []setting{
	{"OPENAI_API_KEY", "", "a key of the provider", "key sent upstream; it replaces whatever Authorization the client sent", true, secretText(func(c *Config) *Secret { return &c.APIKey })},
	{"OPENAI_BASE_URL", "https://api.openai.com/v1", "an http(s) URL without user and query", "upstream, with or without a trailing slash", false, setBaseURL},
	{"RATE_LIMIT_PER_MIN", "60 until learned", "a whole number, 0 = no cap", "requests per minute toward the upstream, over all models", false, setRequestsPerMinute},
	{"TOKEN_LIMIT_PER_MIN", "learned", "a whole number, 0 = no cap", "tokens per minute, over all models", false, setTokensPerMinute},
	{"MAX_CONCURRENT_REQUESTS", "0", "a whole number, 0 = no cap", "requests in flight upstream", false, count(func(c *Config) *int64 { return &c.MaxConcurrent }, 0)},
	{"LEARN_LIMITS", "true", "true or false", "learn limits and levels from the upstream's headers and 429 bodies", false, boolean(func(c *Config) *bool { return &c.LearnLimits })},
	{"LIMIT_SHARE", "1", `a number or fraction above 0 and up to 1, such as "0.5" or "1/3"`, "this process's part of every limit", false, setShare},
	{"PROVIDER_PROFILE", "auto", "auto, openai, azure, anthropic or postpaid", "how the upstream charges and refills", false, oneOf(func(c *Config) *string { return &c.Profile }, "auto", "openai", "azure", "anthropic", "postpaid")},
	{"QUEUE_MAX_WAIT", "240s", "a positive duration", "longest wait, over all attempts, before a clear refusal", false, duration(func(c *Config) *time.Duration { return &c.QueueMaxWait }, 1)},
	{"QUEUE_MAX_REQUESTS", "10000", "a whole number from 1", "requests that may wait at once", false, count(func(c *Config) *int64 { return &c.QueueMaxRequests }, 1)},
	{"QUEUE_MAX_BYTES", "a quarter of the memory limit", "a size such as 512MiB", "bytes of request bodies held at once", false, setQueueBytes},
	{"QUEUE_HEARTBEAT", "off", `a duration from 1s, or "off"`, "for streaming requests: after this long in the queue answer 200 and send a line of one space every so often; later refusals then cut the connection", false, setHeartbeat},
	{"MAX_BODY_BYTES", "32MiB", "a size such as 32MiB", "largest body of a metered request", false, size(func(c *Config) *int64 { return &c.MaxBodyBytes })},
	{"PORT", "8080", "a port from 0 to 65535", "port of the listener", false, setPort},
	{"LISTEN_ADDR", "127.0.0.1:$PORT", "host:port", "full address; anything but loopback needs CLIENT_API_KEYS or ALLOW_UNAUTHENTICATED=true", false, address(func(c *Config) *string { return &c.ListenAddr })},
	{"CLIENT_API_KEYS", "none", "comma-separated name=key or key", "when set, every route but the health routes needs one of these as a bearer token or in api-key", true, setClientKeys},
	{"ALLOW_UNAUTHENTICATED", "false", "true or false", "serve a non-loopback address without client keys", false, boolean(func(c *Config) *bool { return &c.AllowUnauthenticated })},
	{"ALLOWED_HOSTS", "loopback names while bound to loopback, else any", "comma-separated host names", "accepted Host headers; others get 421", false, setHosts},
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

// A configError is every fault of the settings at once. It ends the program
// with exit status 78 (EX_CONFIG).
type configError struct{ faults []string }

func (e *configError) Error() string { return strings.Join(e.faults, "\n") }

// LoadConfig reads flags (keyed by setting name), then the environment, then
// the file that CONFIG_FILE names, then the defaults. The error is a
// *configError with one line for each fault.
func LoadConfig(flags map[string]string, getenv func(string) string) (*Config, error) {
	c, faults := readConfig(sources{flags: flags, getenv: getenv}, nil)
	if len(faults) > 0 {
		return nil, &configError{faults}
	}
	return c, nil
}

// readConfig returns what can be read, and what is wrong with it. With the
// settings of a running program, those that need a restart stay as they are
// there, and pending names them.
func readConfig(src sources, running *Config) (*Config, []string) {
	c := &Config{
		LearnedRequests: true, RequestsPerMinute: defaultRequestsPerMinute, LearnedTokens: true,
		QueueMaxBytes: memoryLimit() / 4,
		sources:       src, texts: map[string]Secret{},
	}
	var faults []string
	file, _ := settingNamed("CONFIG_FILE")
	if path, _, _ := src.lookup(file); path != "" {
		faults = append(faults, c.File.load(path)...)
		src.file = c.File.Settings
		c.sources.file = src.file
	}
	port := "8080"
	for _, s := range settings {
		value, origin, fault := src.lookup(s)
		if fault != "" {
			faults = append(faults, fault)
			continue
		}
		if running != nil && slices.Contains(needsRestart, s.name) && running.texts[s.name] != Secret(value) {
			if value != "" && s.set != nil && s.set(new(Config), value) != nil {
				faults = append(faults, s.fault(value))
			}
			c.pending = append(c.pending, s.name)
			value = string(running.texts[s.name])
		}
		c.texts[s.name] = Secret(value)
		switch {
		case s.name == "CONFIG_FILE":
			continue
		case value == "" && s.name == "OPENAI_API_KEY":
			faults = append(faults, s.name+": not set; want "+s.form)
			continue
		case value == "" && s.name == "LISTEN_ADDR":
			value = "127.0.0.1:" + port
		case value == "" && s.literalDefault():
			value = s.def
		case value == "":
			continue
		}
		switch err := s.set(c, value); {
		case err != nil:
			faults = append(faults, s.fault(value))
		case s.name == "PORT":
			port = value
		case s.name == "OPENAI_API_KEY" && origin == "OPENAI_API_KEY_FILE":
			c.apiKeyFile = src.getenv(origin)
		}
	}
	c.prices, _ = c.File.priceTable() // what is wrong with it, Validate says
	if running != nil {
		// Inherited sockets have addresses that no setting tells.
		c.ListenAddr, c.AdminAddr = running.ListenAddr, running.AdminAddr
	}
	faults = append(faults, c.Validate()...)
	if running != nil && c.File.Retention != running.File.Retention {
		c.pending = append(c.pending, "retention")
		c.File.Retention = running.File.Retention
	}
	return c, faults
}

// literalDefault reports whether def is a value, rather than words about one.
func (s setting) literalDefault() bool {
	return s.def != "" && s.def != "none" && s.def != "learned" && s.def != "off" && !strings.Contains(s.def, " ")
}

// words lists the values of a setting that accepts a few words only, such as
// "drain or cancel"; nil for any other.
func (s setting) words() []string {
	if !strings.Contains(s.form, " or ") {
		return nil
	}
	words := strings.Split(strings.ReplaceAll(s.form, " or ", ", "), ", ")
	if slices.ContainsFunc(words, func(w string) bool { return strings.ContainsAny(w, ` "=`) }) {
		return nil
	}
	return words
}

func (s setting) fault(value string) string {
	if s.secret {
		return fmt.Sprintf("%s: value not accepted; want %s", s.name, s.form)
	}
	return fmt.Sprintf("%s=%q: want %s", s.name, s.shown(value), s.form)
}

// shown is value as it may be printed. A URL that is refused may be refused for
// the password in it.
func (s setting) shown(value string) string {
	if s.secret {
		return redacted
	}
	if s.name != "OPENAI_BASE_URL" {
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

// Validate checks what settings mean together; each fault is one line.
func (c *Config) Validate() []string {
	var faults []string
	if !loopback(c.ListenAddr) && len(c.ClientKeys) == 0 && !c.AllowUnauthenticated {
		faults = append(faults, fmt.Sprintf("LISTEN_ADDR=%q: not a loopback address; want CLIENT_API_KEYS or ALLOW_UNAUTHENTICATED=true beside it", c.ListenAddr))
	}
	if c.AdminAddr != "" && !loopback(c.AdminAddr) && len(c.ClientKeys) == 0 && !c.AllowUnauthenticated {
		faults = append(faults, fmt.Sprintf("ADMIN_ADDR=%q: not a loopback address; want CLIENT_API_KEYS or ALLOW_UNAUTHENTICATED=true beside it", c.AdminAddr))
	}
	if c.AdminAddr != "" && c.AdminAddr == c.ListenAddr && !strings.HasSuffix(c.AdminAddr, ":0") {
		faults = append(faults, fmt.Sprintf("ADMIN_ADDR=%q: LISTEN_ADDR is the same; want another port", c.AdminAddr))
	}
	if c.BaseURL != nil && (pointsAt(c.BaseURL, c.ListenAddr) || pointsAt(c.BaseURL, c.AdminAddr)) {
		faults = append(faults, fmt.Sprintf("OPENAI_BASE_URL=%q: this is our own listener; want the provider's address", c.BaseURL))
	}
	if c.RepositoryType == "postgres" && c.PostgresDSN == "" {
		faults = append(faults, "POSTGRES_DSN: not set; want a Postgres connection URL with REPOSITORY_TYPE=postgres")
	} else if c.RepositoryType == "postgres" {
		if err := ledger.CheckPostgresDSN(string(c.PostgresDSN)); err != nil {
			faults = append(faults, "POSTGRES_DSN: "+err.Error())
		}
	}
	return append(faults, c.File.validate(c.ClientKeys)...)
}

// loopback reports whether a listen address is reachable from this host only.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true // already a fault of its own
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// pointsAt reports whether u is the listener at address. Names other than
// localhost are not resolved: a request that comes round all the same is
// recognised by its Via header.
func pointsAt(u *url.URL, address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return false
	}
	upstreamPort := u.Port()
	if upstreamPort == "" {
		upstreamPort = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if upstreamPort != port {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
	any := slices.Contains([]string{"", "0.0.0.0", "::"}, host)
	return u.Hostname() == host || local && (any || loopback(address))
}
