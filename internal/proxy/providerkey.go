package proxy

import (
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// A providerKey is the key that is sent upstream. Where it comes from
// OPENAI_API_KEY_FILE, the file is looked at before every attempt, so that a
// rotated key needs neither a restart nor a signal. Its path is looked up anew
// each time, for Kubernetes swaps a symlink on the way to it. It is safe for
// concurrent use.
type providerKey struct {
	logger *slog.Logger

	mu     sync.Mutex
	path   string // "" = the key is not from a file
	seen   os.FileInfo
	key    string
	failed bool // the last reading, which has been logged
}

func newProviderKey(cfg *config.Config, logger *slog.Logger) *providerKey {
	k := &providerKey{logger: logger}
	k.configure(cfg)
	return k
}

// configure takes up the key of new settings.
func (k *providerKey) configure(cfg *config.Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.path, k.key, k.seen = cfg.APIKeyFile, string(cfg.APIKey), nil
}

// keyHeader is the header that the provider wants its keys in. Which one it is, the
// profile says, or the host.
func keyHeader(cfg *config.Config) string {
	host := cfg.BaseURL.Hostname()
	switch {
	case cfg.Profile == "azure", cfg.Profile == "auto" && wire.DialectOfHost(host) == "azure":
		return upstream.AzureKey
	case wire.DialectOfHost(host) == "anthropic":
		return upstream.AnthropicKey
	}
	return upstream.Bearer
}

// azureGateway reports whether an answer says that a gateway on another host of Azure's
// does not take our key as a bearer token. It is asked once more then, in Azure's way.
func (x *exchange) azureGateway(resp *http.Response) bool {
	return resp.StatusCode == http.StatusUnauthorized && !x.rekeyed && x.req.cfg.Profile == "auto" &&
		resp.Request != nil && resp.Request.Header.Get(upstream.AzureKey) == "" && !upstream.IsToken(x.p.upstream.KeyOf(resp)) &&
		wire.ParseRateLimit(x.p.upstream.Host(), resp.Header, time.Now()).Profile == "azure" && x.repeatable()
}

// current is the key to send now.
func (k *providerKey) current() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.path == "" {
		return k.key
	}
	info, err := os.Stat(k.path)
	if err == nil && k.seen != nil && os.SameFile(info, k.seen) && info.ModTime().Equal(k.seen.ModTime()) && info.Size() == k.seen.Size() {
		return k.key
	}
	k.read(info, err)
	return k.key
}

// replaced reports whether there is another key than the one the provider has
// just refused. It reads the file even if that looks as before.
func (k *providerKey) replaced(refused string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.path != "" {
		k.read(os.Stat(k.path))
	}
	return k.key != refused
}

// read takes the file's key, or keeps the old one where the file has none. The
// info is from before the reading: a file changed meanwhile is read again.
func (k *providerKey) read(info os.FileInfo, err error) {
	key := ""
	if err == nil {
		key, err = config.ReadKey(k.path)
	}
	if err != nil {
		if !k.failed {
			k.logger.Warn("the provider's key cannot be read, the old one stays", "file", k.path, "error", err.Error())
		}
		k.failed = true
		k.seen = nil
		return
	}
	k.failed = false
	k.seen = info
	if key != k.key {
		k.key = key
		k.logger.Info("the provider's key is a new one", "file", k.path)
	}
}
