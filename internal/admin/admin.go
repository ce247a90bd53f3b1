package admin

import (
	"log/slog"
	"net/http"
	"sync/atomic"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
)

// Admin serves the routes of operators: what was used, what waits, and how the
// program fares. All its fields are required, and stay as they are once it
// serves.
type Admin struct {
	Settings *atomic.Pointer[config.Config]
	Ledger   *ledger.Store
	Limits   *limit.Limiter
	Memory   *memory.Account // of what requests and answers hold
	Overhead *memory.Account // of what requests take beside that
	Metrics  http.Handler    // writes every series
	Logger   *slog.Logger
	Draining func() bool   // the service ends
	Away     func() string // the class of the fault that keeps us from the upstream; "" = it can be reached, or nobody has tried
	Unfit    func() error  // why requests are refused while the ledger fails; nil: they are not
}

// Routes are the operators' routes. With ADMIN_ADDR they are on its listener only,
// but for health and the one below /v1.
func (a *Admin) Routes() []httpapi.Route {
	own := httpapi.BothListeners
	if a.Settings.Load().AdminAddr != "" {
		own = httpapi.AdminListener
	}
	routes := []httpapi.Route{
		{Pattern: "GET /v1/session/{id}/status", On: httpapi.MainListener, To: httpapi.ToOwners, Handler: a.status},

		{Pattern: "GET /sessions/status", On: own, To: httpapi.ToOwners, Handler: a.statuses},
		{Pattern: "GET /sessions/{id}/status", On: own, To: httpapi.ToOwners, Handler: a.status},
		{Pattern: "GET /sessions/{id}/requests", On: own, To: httpapi.ToOwners, Handler: a.requests},
		{Pattern: "GET /sessions", On: own, To: httpapi.ToOwners, Handler: a.sessions},
		{Pattern: "DELETE /sessions/{id}", On: own, To: httpapi.ToOwners, Handler: a.deleteSession},
		{Pattern: "GET /usage", On: own, To: httpapi.ToOwners, Handler: a.usage},
		{Pattern: "GET /queue/status", On: own, To: httpapi.ToOwners, Handler: a.queue},
		{Pattern: "GET /metrics", On: own, To: httpapi.ToOperators, Handler: a.series},

		{Pattern: "GET /livez", On: httpapi.BothListeners, To: httpapi.ToAnybody, Handler: a.live},
		{Pattern: "GET /healthz", On: httpapi.BothListeners, To: httpapi.ToAnybody, Handler: a.live},
		{Pattern: "GET /readyz", On: httpapi.BothListeners, To: httpapi.ToAnybody, Handler: a.ready},
	}
	for i, r := range routes {
		routes[i].Handler = func(w http.ResponseWriter, req *http.Request, who httpapi.Caller) error {
			return told(r.Handler(w, req, who))
		}
	}
	return routes
}
