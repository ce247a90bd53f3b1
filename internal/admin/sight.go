package admin

import (
	"net/http"
	"net/url"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
)

// seenBy is the ledger as a caller sees it: whoever sees everything may narrow it to one client by ?client=, and a client
// has its own sessions only. others is the error for one that asks for another's.
func (a *Admin) seenBy(who httpapi.Caller, query url.Values, others error) (*ledger.Reader, error) {
	switch {
	case who.Sees != httpapi.SeesEverything && query.Has("client") && query.Get("client") != who.Name:
		return nil, others
	case who.Sees != httpapi.SeesEverything:
		return a.Ledger.Of(who.Name), nil
	case query.Has("client"):
		return a.Ledger.Of(query.Get("client")), nil
	}
	return &a.Ledger.Reader, nil
}

// sessionOf is the session that a request names, and the ledger to look for it in. Another client's is as
// unknown as one that does not exist.
func (a *Admin) sessionOf(r *http.Request, who httpapi.Caller) (id string, seen *ledger.Reader, err error) {
	id = r.PathValue("id")
	if err := session.CheckID(id); err != nil {
		return "", nil, err
	}
	seen, err = a.seenBy(who, r.URL.Query(), errUnknownSession)
	return id, seen, err
}
