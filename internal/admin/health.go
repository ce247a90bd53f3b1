package admin

import (
	"net/http"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
)

func (a *Admin) live(w http.ResponseWriter, _ *http.Request, _ httpapi.Caller) error {
	return httpapi.WriteJSON(w, map[string]string{"status": "ok"})
}

// ready says whether this process should get requests. A provider that
// is down is no reason to say no: the queue is what requests are sent here for.
func (a *Admin) ready(w http.ResponseWriter, r *http.Request, _ httpapi.Caller) error {
	if a.Draining() {
		return httpapi.ErrShuttingDown
	}
	if err := a.Ledger.Ready(r.Context()); err != nil {
		a.Logger.Warn("ledger not ready", "error", err.Error())
		if refusing := a.Unfit(); refusing != nil {
			return refusing
		}
		return httpapi.WriteJSON(w, map[string]string{"status": "degraded", "ledger": "takes no records at the moment"})
	}
	return httpapi.WriteJSON(w, map[string]string{"status": "ok"})
}

func (a *Admin) series(w http.ResponseWriter, r *http.Request, _ httpapi.Caller) error {
	a.Metrics.ServeHTTP(w, r)
	return nil
}
