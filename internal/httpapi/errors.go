package httpapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// An Error is an error a client sees: OpenAI-shaped, without addresses,
// keys or the text of internal errors, which cause keeps for the log.
type Error struct {
	Status     int
	Code       string
	Message    string
	RetryAfter time.Duration // 0 = no hint
	Final      bool          // x-should-retry: false
	Cause      error
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %v", e.Code, e.Cause)
	}
	return e.Code + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Cause }

// ErrClientGone ends the work of a request whose client has left.
var ErrClientGone = errors.New("client gone")

// An abortError cuts the connection: part of an answer is out, and only a
// broken connection can still tell the client that the rest will not come.
type abortError struct{ cause error }

func (e *abortError) Error() string { return "connection cut: " + e.cause.Error() }
func (e *abortError) Unwrap() error { return e.cause }

// Abort makes the error that cuts the connection because of cause.
func Abort(cause error) error { return &abortError{cause} }

// Invalid is the error of a request that cannot be understood.
func Invalid(code, message string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: code, Message: message}
}

var (
	errUnknownRoute = &Error{
		Status: http.StatusNotFound, Code: "unknown_route",
		Message: "unknown route: the API lives below /v1, for example base_url = http://HOST:PORT/v1/session/NAME",
	}
	errUnauthorized = &Error{
		Status: http.StatusUnauthorized, Code: "invalid_api_key", Final: true,
		Message: "a client key is needed: send one of CLIENT_API_KEYS as a bearer token, as api-key or as x-api-key",
	}
	errAdminNeeded = &Error{
		Status: http.StatusUnauthorized, Code: "invalid_api_key", Final: true,
		Message: "an admin key is needed: send one of ADMIN_API_KEYS as a bearer token, or as api-key",
	}
	errNotAdmin = &Error{
		Status: http.StatusForbidden, Code: "admin_key_needed", Final: true,
		Message: "this route is for one of ADMIN_API_KEYS",
	}
	errHost = &Error{
		Status: http.StatusMisdirectedRequest, Code: "host_not_allowed", Final: true,
		Message: "the Host header names neither a loopback name nor one of ALLOWED_HOSTS",
	}
	errOrigin = &Error{
		Status: http.StatusForbidden, Code: "origin_not_allowed", Final: true,
		Message: "the Origin header names neither this host nor one of ALLOWED_ORIGINS",
	}
	// ErrShuttingDown answers who comes, or still waits, at the end of the service.
	ErrShuttingDown = &Error{
		Status: http.StatusServiceUnavailable, Code: "shutting_down", RetryAfter: time.Second,
		Message: "the sidecar is shutting down",
	}
)

// ErrorOf finds what a client is told of an error: what an Error in its chain says,
// or no more than that something failed.
func ErrorOf(err error) *Error {
	var api *Error
	switch {
	case errors.As(err, &api):
		return api
	case errors.Is(err, session.ErrInvalidID):
		return Invalid("invalid_session_id", session.ErrInvalidID.Error())
	case errors.Is(err, session.ErrInvalidPath):
		return Invalid("invalid_path", session.ErrInvalidPath.Error())
	}
	return &Error{Status: http.StatusInternalServerError, Code: "internal_error", Cause: err, Message: "internal error; the log has the details"}
}

// writeError answers with e. Nothing of an answer may be out yet.
func writeError(w http.ResponseWriter, e *Error) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Del("Content-Length")
	if e.RetryAfter > 0 {
		h.Set("Retry-After-Ms", strconv.FormatInt(e.RetryAfter.Milliseconds(), 10))
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	if e.Final {
		h.Set("X-Should-Retry", "false")
	}
	kind := "server_error"
	if e.Status < 500 {
		kind = "invalid_request_error"
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(wire.ErrorBody(e.Message, kind, "", e.Code))
}

// Gone reports whether an error only says that the client has left.
func Gone(err error) bool {
	return errors.Is(err, ErrClientGone) || errors.Is(err, context.Canceled)
}

// Silent reports whether an error has no answer: the client has left, or part of
// an answer is out.
func Silent(err error) bool {
	if Gone(err) {
		return true
	}
	var aborted *abortError
	return errors.As(err, &aborted)
}
