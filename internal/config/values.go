package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
)

// A Secret prints as "[redacted]" wherever it ends up: logs, errors, JSON,
// YAML. Its value is taken out by an explicit string(s).
type Secret string

const redacted = "[redacted]"

func (s Secret) String() string               { return redacted }
func (s Secret) GoString() string             { return redacted }
func (s Secret) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(redacted)) }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// errForm says only that a value has not its form: the fault's line tells the
// form, and never repeats a secret.
var errForm = errors.New("not of the accepted form")

type setter = func(c *Config, value string) error

func text(field func(*Config) *string) setter {
	return func(c *Config, v string) error {
		*field(c) = v
		return nil
	}
}

func secretText(field func(*Config) *Secret) setter {
	return func(c *Config, v string) error {
		if strings.ContainsFunc(v, unfitForHeader) {
			return errForm
		}
		*field(c) = Secret(v)
		return nil
	}
}

// unfitForHeader finds what no header can carry.
func unfitForHeader(r rune) bool { return r <= ' ' || r == 0x7f }

func oneOf(field func(*Config) *string, allowed ...string) setter {
	return func(c *Config, v string) error {
		if !slices.Contains(allowed, v) {
			return errForm
		}
		*field(c) = v
		return nil
	}
}

func boolean(field func(*Config) *bool) setter {
	return func(c *Config, v string) (err error) {
		*field(c), err = strconv.ParseBool(v)
		return err
	}
}

func count(field func(*Config) *int64, least int64) setter {
	return func(c *Config, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < least || n > 1e12 {
			return errForm
		}
		*field(c) = n
		return nil
	}
}

func duration(field func(*Config) *time.Duration, least time.Duration) setter {
	return func(c *Config, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < least {
			return errForm
		}
		*field(c) = d
		return nil
	}
}

func size(field func(*Config) *int64) setter {
	return func(c *Config, v string) error {
		n, err := parseSize(v)
		if err == nil {
			*field(c) = n
		}
		return err
	}
}

// parseSize reads "1048576", "32MiB", "32MB" or "32M": all but KB, MB and GB
// are powers of 1024.
func parseSize(v string) (int64, error) {
	units := []struct {
		suffix string
		factor int64
	}{
		{"KiB", 1 << 10},
		{"MiB", 1 << 20},
		{"GiB", 1 << 30},
		{"KB", 1e3},
		{"MB", 1e6},
		{"GB", 1e9},
		{"K", 1 << 10},
		{"M", 1 << 20},
		{"G", 1 << 30},
		{"B", 1},
		{"", 1},
	}
	for _, u := range units {
		if digits, ok := strings.CutSuffix(v, u.suffix); ok {
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil || n <= 0 || n > math.MaxInt64/u.factor {
				return 0, errForm
			}
			return n * u.factor, nil
		}
	}
	return 0, errForm
}

func address(field func(*Config) *string) setter {
	return func(c *Config, v string) error {
		_, port, err := net.SplitHostPort(v)
		if err != nil {
			return errForm
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return errForm
		}
		*field(c) = v
		return nil
	}
}

func setPort(_ *Config, v string) error { // Load makes LISTEN_ADDR's default of it
	_, err := strconv.ParseUint(v, 10, 16)
	return err
}

func setBaseURL(c *Config, v string) error {
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return errForm
	}
	c.BaseURL = u
	return nil
}

func setRequestsPerMinute(c *Config, v string) error {
	c.LearnedRequests = false
	return count(func(c *Config) *int64 { return &c.RequestsPerMinute }, 0)(c, v)
}

func setTokensPerMinute(c *Config, v string) error {
	c.LearnedTokens = false
	return count(func(c *Config) *int64 { return &c.TokensPerMinute }, 0)(c, v)
}

func setShare(c *Config, v string) error {
	over, under, fraction := strings.Cut(v, "/")
	share, err := strconv.ParseFloat(strings.TrimSpace(over), 64)
	if err == nil && fraction {
		var divisor float64
		divisor, err = strconv.ParseFloat(strings.TrimSpace(under), 64)
		share /= divisor
	}
	if err != nil || !(share > 0 && share <= 1) {
		return errForm
	}
	c.LimitShare = share
	return nil
}

func setQueueBytes(c *Config, v string) error {
	return size(func(c *Config) *int64 { return &c.QueueMaxBytes })(c, v)
}

func setHeartbeat(c *Config, v string) error {
	if v == "off" {
		c.QueueHeartbeat = 0
		return nil
	}
	return duration(func(c *Config) *time.Duration { return &c.QueueHeartbeat }, time.Second)(c, v)
}

func setHeaderName(c *Config, v string) error {
	for _, b := range []byte(v) {
		if !(b == '-' || b == '_' || '0' <= b && b <= '9' || 'a' <= b|0x20 && b|0x20 <= 'z') {
			return errForm
		}
	}
	name := textproto.CanonicalMIMEHeaderKey(v)
	if slices.Contains(takenHeaders, name) || slices.Contains(session.Headers(), name) || strings.HasPrefix(name, "Content-") {
		return errForm
	}
	c.SessionHeader = name
	return nil
}

// takenHeaders mean something else. A session's name is stored and shown, so a
// header that carries keys must not become one.
var takenHeaders = []string{
	"Authorization", "Proxy-Authorization", "Api-Key", "X-Api-Key", "Cookie", "Host", "Origin", "Via",
	"Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func setHosts(c *Config, v string) error {
	for _, host := range splitList(v) {
		if strings.ContainsAny(host, "/ ") {
			return errForm
		}
		c.AllowedHosts = append(c.AllowedHosts, strings.ToLower(host))
	}
	return nil
}

func setOrigins(c *Config, v string) error {
	for _, text := range splitList(v) {
		origin, err := session.ParseOrigin(text)
		if err != nil {
			return err
		}
		c.AllowedOrigins = append(c.AllowedOrigins, origin)
	}
	return nil
}

// keyList reads keys. Those of one name are one client, so that a key can be replaced while
// both work. One without a name is called by its place.
func keyList(unnamed string, field func(*Config) *[]ClientKey) setter {
	return func(c *Config, v string) error {
		entries := splitList(v)
		if len(entries) == 0 {
			return errForm // a list without a key must not open the door
		}
		var list []ClientKey
		places := map[string]bool{}
		for i, entry := range entries {
			name, key, named := strings.Cut(entry, "=")
			if !named || key == "" && strings.HasSuffix(entry, "=") {
				// A key of its own may end in "=" padding.
				name, key = fmt.Sprintf("%s-%d", unnamed, i+1), entry
				places[name] = true
			}
			known := slices.ContainsFunc(list, func(k ClientKey) bool {
				return k.Key == Secret(key) || k.Name == name && places[name]
			})
			if !fitName(name) || key == "" || known {
				return errForm
			}
			list = append(list, ClientKey{name, Secret(key), places[name]})
		}
		*field(c) = list
		return nil
	}
}

// maxName bounds a client's name, in bytes: the ledger keeps it whole, and two that it cut would be one client.
const maxName = 128

func fitName(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// splitList splits at commas and line ends, so that a mounted file may hold
// one entry a line.
func splitList(v string) []string {
	fields := strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == '\n' || r == '\r' })
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	return slices.DeleteFunc(fields, func(s string) bool { return s == "" })
}
