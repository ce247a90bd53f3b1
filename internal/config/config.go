package config

import (
	"crypto/x509"
	"net/url"
	"slices"
	"strings"
	"time"

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

	UpstreamProxy    string        // env, off, or a URL, which may hold a password
	Proxy            *url.URL      // that the upstream is reached through, by UpstreamProxy; nil: none
	UpstreamPatience time.Duration // with a provider that cannot be reached; below 0: 15 s, and 60 s once it has answered

	QueueMaxWait     time.Duration // over all attempts of a request
	QueueMaxRequests int64
	OverheadBytes    int64         // that requests may take beside what they hold; 0 = no bound
	QueueMaxBytes    int64         // of bodies held while they wait
	QueueHeartbeat   time.Duration // 0 = off
	MaxBodyBytes     int64         // of a metered request

	ListenAddr           string
	AdminAddr            string // "" = the main listener serves everything
	ClientKeys           []ClientKey
	AdminKeys            []ClientKey // who may see everything
	AllowUnauthenticated bool
	AllowedHosts         []string // beside the loopback names; nil: those only while bound to loopback, else any
	AllowedOrigins       []string // web pages that may call the API, as browsers name them; "*" = any
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

	Prices     *price.Table // of File; nil: none are known
	APIKeyFile string       // where APIKey came from, if from a file
	Pending    []string     // settings that have changed but need a restart

	roots     *x509.CertPool // nil: the system's
	rootsText []byte         // what was added to those

	sources sources           // where all of this came from, to be read again
	texts   map[string]Secret // each setting as it was written, "" = not set
}

// A ClientKey lets one client in. Several may have one name: they are one client.
type ClientKey struct {
	Name string
	Key  Secret

	byPlace bool // it was given no name
}

const defaultRequestsPerMinute = 60

// An Error is every fault of the settings at once, a line each. It ends the program
// with exit status 78 (EX_CONFIG).
type Error struct{ Faults []string }

func (e *Error) Error() string { return strings.Join(e.Faults, "\n") }

// Load reads flags (keyed by setting name), then the environment, then the file
// that CONFIG_FILE names, then the defaults. Its error is an *Error.
func Load(flags map[string]string, getenv func(string) string) (*Config, error) {
	c, faults := readConfig(sources{flags: flags, getenv: getenv}, nil)
	if len(faults) > 0 {
		return nil, &Error{faults}
	}
	return c, nil
}

// Read is Load for those who can do with part of the settings. It leaves out what
// is wrong.
func Read(flags map[string]string, getenv func(string) string) *Config {
	c, _ := readConfig(sources{flags: flags, getenv: getenv}, nil)
	return c
}

// readConfig returns what can be read, and what is wrong with it. With the
// settings of a running program, those that need a restart stay as they are
// there, and pending names them.
func readConfig(src sources, running *Config) (*Config, []string) {
	c := &Config{
		LearnedRequests: true, RequestsPerMinute: defaultRequestsPerMinute, LearnedTokens: true,
		QueueMaxBytes: memoryLimit() / 4, OverheadBytes: memoryLimit() / 2, UpstreamPatience: -1,
		sources: src, texts: map[string]Secret{},
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
		if running != nil && slices.Contains(needsRestart, s.Name) && running.texts[s.Name] != Secret(value) {
			if value != "" && s.set != nil && s.set(new(Config), value) != nil {
				faults = append(faults, s.fault(value))
			}
			c.Pending = append(c.Pending, s.Name)
			value = string(running.texts[s.Name])
		}
		c.texts[s.Name] = Secret(value)
		switch {
		case s.Name == "CONFIG_FILE":
			continue
		case value == "" && s.Name == "OPENAI_API_KEY":
			faults = append(faults, s.Name+": not set; want "+s.form)
			continue
		case value == "" && s.Name == "LISTEN_ADDR":
			value = "127.0.0.1:" + port
		case value == "" && s.literalDefault():
			value = s.def
		case value == "":
			continue
		}
		switch err := s.set(c, value); {
		case err != nil:
			faults = append(faults, s.fault(value)+because(err))
		case s.Name == "PORT":
			port = value
		case s.Name == "OPENAI_API_KEY" && origin == "OPENAI_API_KEY_FILE":
			c.APIKeyFile = src.getenv(origin)
		}
	}
	proxy, fault := c.proxyOf(src.getenv)
	if c.Proxy = proxy; fault != "" {
		faults = append(faults, fault)
	}
	c.Prices, _ = c.File.PriceTable() // what is wrong with it, Validate says
	if running != nil {
		// Inherited sockets have addresses that no setting tells.
		c.ListenAddr, c.AdminAddr = running.ListenAddr, running.AdminAddr
	}
	faults = append(faults, c.Validate()...)
	if running != nil && c.File.Retention != running.File.Retention {
		c.Pending = append(c.Pending, "retention")
		c.File.Retention = running.File.Retention
	}
	return c, faults
}
