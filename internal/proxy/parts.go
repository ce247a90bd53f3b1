package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/budget"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/metrics"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// Sidecars may stand in a row, each by its own name in Via. More than maxHops
// of them are a loop over processes that do not know their own names again,
// such as replicas behind one address.
const (
	viaName = "llm-queue-proxy-"
	maxHops = 8
)

// Parts is what a proxy is made of. All are required but upstream, which is made
// from the settings where it is nil.
type Parts struct {
	Settings *atomic.Pointer[config.Config] // those in force: each request keeps the ones it came under
	Logger   *slog.Logger
	Ledger   *ledger.Store
	Limits   *limit.Limiter
	Tokens   *tokens.Estimator
	Metrics  *metrics.Metrics
	Upstream *upstream.Client
}

// A Proxy serves the API. It is safe for concurrent use.
type Proxy struct {
	settings *atomic.Pointer[config.Config]
	logger   *slog.Logger
	ledger   *ledger.Store
	limits   *limit.Limiter
	tokens   *tokens.Estimator
	metrics  *metrics.Metrics
	upstream *upstream.Client

	way      *config.Config // by whose settings the upstream is connected to
	key      *providerKey
	budgets  *budget.Book
	lineage  *budget.Lineage
	memory   *memory.Account // of all that requests and answers keep
	overhead *memory.Account // of what each takes beside that
	instance string          // our entry in the Via header
	seed     maphash.Seed

	repeats  repeatBudget
	plain    modelSet     // models whose provider rejects stream_options
	azure    atomic.Bool  // the provider is a gateway of Azure's that wants keys in its way
	drains   atomic.Int64 // answers read on for clients that left
	inFlight atomic.Int64 // answers under way
	ignored  sync.Map     // of session.Ignored that were told: a closed set
	lostAt   atomic.Int64 // when neither store nor journal took a record; Unix nanoseconds

	exchanges sync.WaitGroup
	over      context.Context // ends with the grace: every exchange ends with it
	endAll    context.CancelFunc
}

// New puts a proxy together.
func New(d Parts) *Proxy {
	name := make([]byte, 6)
	_, _ = rand.Read(name) // never fails
	cfg := d.Settings.Load()
	p := &Proxy{
		settings: d.Settings, logger: d.Logger, ledger: d.Ledger, limits: d.Limits,
		tokens: d.Tokens, metrics: d.Metrics, upstream: d.Upstream,
		way:      cfg,
		key:      newProviderKey(cfg, d.Logger),
		lineage:  budget.NewLineage(maxLinks),
		memory:   memory.NewAccount(cfg.QueueMaxBytes),
		overhead: memory.NewAccount(cmp.Or(cfg.OverheadBytes, math.MaxInt64)),
		instance: fmt.Sprintf("%s%x", viaName, name),
		seed:     maphash.MakeSeed(),
	}
	if p.upstream == nil {
		p.upstream = upstream.New(upstream.Config{
			Base: cfg.BaseURL, KeyHeader: keyHeader(cfg),
			Key:     p.key.current,
			Private: private(cfg),
			Secrets: p.callersKeys,
			Unread:  cfg.OverheadBytes,
			Way:     cfg.Way(),
			Via:     "1.1 " + p.instance,
		})
	}
	p.watchReach()
	p.budgets = p.newBudgets()
	p.over, p.endAll = context.WithCancel(context.Background())
	p.watch()
	return p
}

// private are the request headers that stay here. A session header of another name
// than ours may well be the provider's, too.
func private(cfg *config.Config) []string {
	if cfg.SessionHeader != session.DefaultHeader {
		return session.Headers()
	}
	return append(session.Headers(), session.DefaultHeader)
}

// callersKeys are the keys of those that are let in.
func (p *Proxy) callersKeys() []string {
	cfg := p.settings.Load()
	keys := make([]string, 0, len(cfg.ClientKeys)+len(cfg.AdminKeys))
	for _, k := range slices.Concat(cfg.ClientKeys, cfg.AdminKeys) {
		keys = append(keys, string(k.Key))
	}
	return keys
}

// Serve answers a request for /v1/...; what it returns is in the client's words.
func (p *Proxy) Serve(w http.ResponseWriter, r *http.Request, who httpapi.Caller) error {
	return told(p.handleProxy(w, r, who))
}

// Reconfigure takes up what the settings in force have new.
func (p *Proxy) Reconfigure() {
	cfg := p.settings.Load()
	p.key.configure(cfg)
	if !cfg.SameWay(p.way) {
		p.way = cfg
		p.upstream.Take(cfg.Way())
	}
	p.budgets.Reread() // prices may have changed
}

// RejectWaiting tells everybody who waits to come back.
func (p *Proxy) RejectWaiting() {
	p.budgets.RejectWaiting()
	p.limits.RejectWaiting()
}

// EndAll ends every request that is under way.
func (p *Proxy) EndAll() { p.endAll() }

// Wait waits until no request is under way, and its row is written.
func (p *Proxy) Wait() { p.exchanges.Wait() }

// Close ends what the proxy does beside requests. None may be under way.
func (p *Proxy) Close() { p.budgets.Close() }

// A Load is what requests under way keep.
type Load struct {
	Memory  memory.Held // bytes of requests and answers
	Answers int64       // that have been asked for and are not over
	Drains  int64       // of them, those whose clients have left
}

// Load tells what requests under way keep now.
func (p *Proxy) Load() Load {
	return Load{p.memory.Held(), p.inFlight.Load(), p.drains.Load()}
}
