package admin

import (
	"errors"
	"net/http"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
)

var errUnknownSession = &httpapi.Error{
	Status: http.StatusNotFound, Code: "unknown_session", Final: true,
	Message: "no request of this session has been answered",
}

// errOthers answers a client that asks for what another one has, whether or not there is any.
var errOthers = &httpapi.Error{
	Status: http.StatusForbidden, Code: "admin_key_needed", Final: true,
	Message: "client: another client's sessions and usage are for one of ADMIN_API_KEYS",
}

var errAmbiguous = &httpapi.Error{
	Status: http.StatusConflict, Code: "ambiguous_session", Final: true,
	Message: "several clients have a session of this id: say whose by ?client=NAME, with an empty name for nobody's",
}

// storePause is when a client may ask again for what the store could not say.
const storePause = 5 * time.Second

// told puts what the ledger says into words for the client.
func told(err error) error {
	switch {
	case httpapi.Silent(err):
		return err
	case errors.Is(err, ledger.ErrNotFound):
		return errUnknownSession
	case errors.Is(err, ledger.ErrAmbiguous):
		return errAmbiguous
	case errors.Is(err, ledger.ErrUnavailable):
		return &httpapi.Error{Status: http.StatusServiceUnavailable, Code: "ledger_unavailable", RetryAfter: storePause, Cause: err, Message: "the ledger cannot be reached at the moment"}
	case errors.Is(err, ledger.ErrInvalid):
		return &httpapi.Error{Status: http.StatusBadRequest, Code: "invalid_query", Cause: err, Message: "a query parameter is not of its form"}
	}
	return err
}
