package admin

import (
	"errors"
	"net/http"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
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
		text := "takes no records at the moment"
		if errors.Is(err, ledger.ErrTakenAway) {
			text = "its file was removed or replaced: records go to the journal"
		}
		return httpapi.WriteJSON(w, map[string]string{"status": "degraded", "ledger": text})
	}
	if err := a.Ledger.Readable(r.Context()); err != nil {
		a.Logger.Warn("ledger not readable", "error", err.Error())
		return httpapi.WriteJSON(w, map[string]string{"status": "degraded", "ledger": "takes records, but cannot be read at the moment"})
	}
	answer := map[string]string{"status": "ok"}
	if class := a.Away(); class != "" { // requests wait for it, or are told so
		answer["upstream"] = "cannot be reached: " + class
	}
	if done, at := a.Ledger.News(); done != "" {
		answer["ledger"] = "its file was removed or replaced at " + httpapi.Timestamp(at) + ": the log says what was done"
	}
	return httpapi.WriteJSON(w, answer)
}

func (a *Admin) series(w http.ResponseWriter, r *http.Request, _ httpapi.Caller) error {
	a.Metrics.ServeHTTP(w, r)
	return nil
}
