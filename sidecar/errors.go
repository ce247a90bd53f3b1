package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/budget"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// An apiError is an error a client sees: OpenAI-shaped, without addresses,
// keys or the text of internal errors, which cause keeps for the log.
type apiError struct {
	status     int
	code       string
	message    string
	retryAfter time.Duration // 0 = no hint
	final      bool          // x-should-retry: false
	cause      error
}

func (e *apiError) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %v", e.code, e.cause)
	}
	return e.code + ": " + e.message
}

func (e *apiError) Unwrap() error { return e.cause }

// errClientGone ends the work of a request whose client has left.
var errClientGone = errors.New("client gone")

// An abortError cuts the connection: part of an answer is out, and only a
// broken connection can still tell the client that the rest will not come.
type abortError struct{ cause error }

func (e *abortError) Error() string { return "connection cut: " + e.cause.Error() }
func (e *abortError) Unwrap() error { return e.cause }

func invalid(code, message string) *apiError {
	return &apiError{status: http.StatusBadRequest, code: code, message: message}
}

var (
	errUnknownRoute = &apiError{
		status: http.StatusNotFound, code: "unknown_route",
		message: "unknown route: the API lives below /v1, for example base_url = http://HOST:PORT/v1/session/NAME",
	}
	errDoubleV1 = &apiError{
		status: http.StatusNotFound, code: "unknown_route",
		message: "the path holds /v1 twice: the base_url of the client ends with one /v1 too many",
	}
	errLoop = &apiError{
		status: http.StatusLoopDetected, code: "loop_detected", final: true,
		message: "this request has passed this sidecar before, or too many of them: OPENAI_BASE_URL leads back to it",
	}
	errUnauthorized = &apiError{
		status: http.StatusUnauthorized, code: "invalid_api_key", final: true,
		message: "a client key is needed: send one of CLIENT_API_KEYS as a bearer token, or as api-key",
	}
	errHost = &apiError{
		status: http.StatusMisdirectedRequest, code: "host_not_allowed", final: true,
		message: "the Host header names none of ALLOWED_HOSTS",
	}
	errOrigin = &apiError{
		status: http.StatusForbidden, code: "origin_not_allowed", final: true,
		message: "the Origin header names none of ALLOWED_HOSTS",
	}
	errBodySize = &apiError{
		status: http.StatusRequestEntityTooLarge, code: "request_too_large", final: true,
		message: "the body is larger than MAX_BODY_BYTES",
	}
	errBodies = &apiError{
		status: http.StatusServiceUnavailable, code: "queue_full", retryAfter: 5 * time.Second,
		message: "the bodies of the waiting requests fill QUEUE_MAX_BYTES",
	}
	errShuttingDown = &apiError{
		status: http.StatusServiceUnavailable, code: "shutting_down", retryAfter: time.Second,
		message: "the sidecar is shutting down",
	}
	errLedger = &apiError{
		status: http.StatusServiceUnavailable, code: "ledger_unavailable", retryAfter: ledgerPause,
		message: "usage cannot be recorded at the moment, and LEDGER_ON_FAILURE is refuse",
	}
	errNoPrice = &apiError{
		status: http.StatusPaymentRequired, code: "price_unknown", final: true,
		message: "the session has a budget in money, and the model has no price that it could be held to",
	}
	errBudgetHeld = &apiError{
		status: http.StatusServiceUnavailable, code: "queue_timeout", retryAfter: time.Second,
		message: "the request waited as long as it may for what other requests have reserved of its budget",
	}
	errUnknownSession = &apiError{
		status: http.StatusNotFound, code: "unknown_session", final: true,
		message: "no request of this session has been answered",
	}
)

// toAPIError finds what a client is told of an error.
func toAPIError(err error) *apiError {
	var (
		api       *apiError
		rejected  *limit.Rejected
		sent      *upstream.Error
		hint      *session.HintError
		duplicate *wire.DuplicateFieldError
		exceeded  *budget.ExceededError
	)
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &rejected):
		return rejection(rejected)
	case errors.As(err, &exceeded):
		return usedUp(exceeded)
	case errors.Is(err, budget.ErrClosed):
		return errShuttingDown
	case errors.As(err, &sent) && sent.Kind == upstream.Timeout:
		return &apiError{status: http.StatusGatewayTimeout, code: "upstream_timeout", final: true, cause: err, message: "the provider did not answer in time; it may have done the work"}
	case errors.As(err, &sent) && sent.Kind == upstream.NotSent:
		return &apiError{status: http.StatusBadGateway, code: "upstream_unreachable", retryAfter: time.Second, cause: err, message: "no connection to the provider"}
	case errors.As(err, &sent):
		return &apiError{status: http.StatusBadGateway, code: "upstream_broken", final: true, cause: err, message: "the connection to the provider broke before its answer; it may have done the work"}
	case errors.Is(err, session.ErrInvalidID):
		return invalid("invalid_session_id", session.ErrInvalidID.Error())
	case errors.Is(err, session.ErrInvalidPath):
		return invalid("invalid_path", session.ErrInvalidPath.Error())
	case errors.As(err, &hint):
		return invalid("invalid_hint", hint.Error())
	case errors.As(err, &duplicate):
		return invalid("duplicate_field", duplicate.Error())
	case errors.Is(err, ledger.ErrNotFound):
		return errUnknownSession
	case errors.Is(err, ledger.ErrUnavailable):
		return &apiError{status: http.StatusServiceUnavailable, code: "ledger_unavailable", retryAfter: ledgerPause, cause: err, message: "the ledger cannot be reached at the moment"}
	case errors.Is(err, ledger.ErrInvalid):
		return &apiError{status: http.StatusBadRequest, code: "invalid_query", cause: err, message: "a query parameter is not of its form"}
	}
	return &apiError{status: http.StatusInternalServerError, code: "internal_error", cause: err, message: "internal error; the log has the details"}
}

// rejection words a refusal of the queue. Retry-After stays below 60 s, above
// which SDKs ignore it, except where waiting that long is pointless anyway.
func rejection(r *limit.Rejected) *apiError {
	e := &apiError{status: http.StatusServiceUnavailable, code: r.Reason.String(), retryAfter: min(max(r.RetryAfter, time.Second), 59*time.Second), cause: r}
	switch r.Reason {
	case limit.QueueFull:
		e.message = "the queue is full"
	case limit.QueueTimeout:
		e.message = "the request waited as long as it may and found no place"
	case limit.DeadlineUnreachable:
		e.message = fmt.Sprintf("the request cannot be sent within its deadline: the wait is about %s", r.Forecast.Round(time.Second))
	case limit.AttemptsExhausted:
		e.message = "the provider turned the request away at every attempt"
	case limit.Draining:
		return errShuttingDown
	case limit.DailyLimit:
		e.final, e.retryAfter = true, r.RetryAfter
		e.message = "a daily limit is used up"
		if !r.ResetAt.IsZero() {
			e.message += " until " + r.ResetAt.UTC().Format(time.RFC3339)
		}
	}
	return e
}

// usedUp words the refusal of a budget, with the honest time of its reset.
func usedUp(b *budget.ExceededError) *apiError {
	e := &apiError{status: http.StatusPaymentRequired, code: "budget_exceeded", final: true, cause: b}
	e.message = fmt.Sprintf("the budget of the sessions %q is used up", b.Limit.Name)
	if !b.ResetAt.IsZero() {
		e.retryAfter = max(time.Until(b.ResetAt), time.Millisecond)
		e.message += " until " + b.ResetAt.UTC().Format(time.RFC3339)
	}
	return e
}

// writeError answers with e. Nothing of an answer may be out yet.
func writeError(w http.ResponseWriter, e *apiError) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Del("Content-Length")
	if e.retryAfter > 0 {
		h.Set("Retry-After-Ms", strconv.FormatInt(e.retryAfter.Milliseconds(), 10))
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	if e.final {
		h.Set("X-Should-Retry", "false")
	}
	kind := "server_error"
	if e.status < 500 {
		kind = "invalid_request_error"
	}
	w.WriteHeader(e.status)
	_, _ = w.Write(wire.ErrorBody(e.message, kind, "", e.code))
}

// gone reports whether an error only says that the client has left.
func gone(err error) bool {
	return errors.Is(err, errClientGone) || errors.Is(err, context.Canceled)
}
