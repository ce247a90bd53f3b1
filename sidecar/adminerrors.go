package main

import (
	"errors"
	"net/http"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
)

var errUnknownSession = &httpapi.Error{
	Status: http.StatusNotFound, Code: "unknown_session", Final: true,
	Message: "no request of this session has been answered",
}

// operators is a handler whose errors of the ledger are in the client's words.
func operators(h httpapi.Handler) httpapi.Handler {
	return func(w http.ResponseWriter, r *http.Request, client string) error {
		err := h(w, r, client)
		return storeTold(err)
	}
}

// storeTold puts what the ledger says into words for the client.
func storeTold(err error) error {
	switch {
	case httpapi.Silent(err):
		return err
	case errors.Is(err, ledger.ErrNotFound):
		return errUnknownSession
	case errors.Is(err, ledger.ErrUnavailable):
		return &httpapi.Error{Status: http.StatusServiceUnavailable, Code: "ledger_unavailable", RetryAfter: ledgerPause, Cause: err, Message: "the ledger cannot be reached at the moment"}
	case errors.Is(err, ledger.ErrInvalid):
		return &httpapi.Error{Status: http.StatusBadRequest, Code: "invalid_query", Cause: err, Message: "a query parameter is not of its form"}
	}
	return err
}
