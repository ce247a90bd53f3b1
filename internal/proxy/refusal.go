package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/budget"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

var (
	errLoop = &httpapi.Error{
		Status: http.StatusLoopDetected, Code: "loop_detected", Final: true,
		Message: "this request has passed this sidecar before, or too many of them: OPENAI_BASE_URL leads back to it",
	}
	errBodySize = &httpapi.Error{
		Status: http.StatusRequestEntityTooLarge, Code: "request_too_large", Final: true,
		Message: "the body is larger than MAX_BODY_BYTES",
	}
	errMemory = &httpapi.Error{
		Status: http.StatusServiceUnavailable, Code: "queue_full", RetryAfter: 5 * time.Second,
		Message: "what requests and answers hold fills QUEUE_MAX_BYTES",
	}
	errCrowd = &httpapi.Error{
		Status: http.StatusServiceUnavailable, Code: "queue_full", RetryAfter: 5 * time.Second,
		Message: "as many requests are under way as the memory allows",
	}
	errLedger = &httpapi.Error{
		Status: http.StatusServiceUnavailable, Code: "ledger_unavailable", RetryAfter: ledgerPause,
		Message: "usage cannot be recorded at the moment, and LEDGER_ON_FAILURE is refuse",
	}
	errNoPrice = &httpapi.Error{
		Status: http.StatusPaymentRequired, Code: "price_unknown", Final: true,
		Message: "the session has a budget in money, and the model has no price that it could be held to",
	}
	errBudgetHeld = &httpapi.Error{
		Status: http.StatusServiceUnavailable, Code: "queue_timeout", RetryAfter: time.Second,
		Message: "the request waited as long as it may for what other requests have reserved of its budget",
	}
)

// told puts an error into words for the client. One that has no answer, or is
// in such words, stays as it is.
func told(err error) error {
	if err == nil || httpapi.Silent(err) {
		return err
	}
	var (
		api       *httpapi.Error
		rejected  *limit.Rejected
		sent      *upstream.Error
		hint      *session.HintError
		duplicate *wire.DuplicateFieldError
		exceeded  *budget.ExceededError
	)
	switch {
	case errors.As(err, &api):
		return err
	case errors.As(err, &sent) && sent.Kind == upstream.Unreachable:
		return noConnection(sent.Class, sent.Final, err)
	case errors.As(err, &rejected):
		return rejection(rejected)
	case errors.As(err, &exceeded):
		return usedUp(exceeded)
	case errors.Is(err, budget.ErrClosed):
		return httpapi.ErrShuttingDown
	case errors.As(err, &sent) && sent.Kind == upstream.Timeout:
		return &httpapi.Error{Status: http.StatusGatewayTimeout, Code: "upstream_timeout", Final: true, Cause: err, Message: "the provider did not answer in time; it may have done the work"}
	case errors.As(err, &sent) && sent.Kind == upstream.NotSent:
		return noConnection(upstream.Closed, false, err)
	case errors.As(err, &sent):
		return &httpapi.Error{Status: http.StatusBadGateway, Code: "upstream_broken", Final: true, Cause: err, Message: "the connection to the provider broke before its answer; it may have done the work"}
	case errors.As(err, &hint):
		return httpapi.Invalid("invalid_hint", hint.Error())
	case errors.As(err, &duplicate):
		return httpapi.Invalid("duplicate_field", duplicate.Error())
	}
	return err
}

// rejection words a refusal of the queue. Retry-After stays below 60 s, above
// which SDKs ignore it, except where waiting that long is pointless anyway.
func rejection(r *limit.Rejected) *httpapi.Error {
	e := &httpapi.Error{Status: http.StatusServiceUnavailable, Code: r.Reason.String(), RetryAfter: min(max(r.RetryAfter, time.Second), 59*time.Second), Cause: r}
	switch r.Reason {
	case limit.QueueFull:
		e.Message = "the queue is full"
	case limit.QueueTimeout:
		e.Message = "the request waited as long as it may and found no place"
	case limit.DeadlineUnreachable:
		e.Message = fmt.Sprintf("the request cannot be sent within its deadline: the wait is about %s", r.Forecast.Round(time.Second))
	case limit.AttemptsExhausted:
		e.Message = "the provider turned the request away at every attempt"
	case limit.Draining:
		return httpapi.ErrShuttingDown
	case limit.DailyLimit:
		e.Final, e.RetryAfter = true, r.RetryAfter
		e.Message = "a daily limit is used up"
		if !r.ResetAt.IsZero() {
			e.Message += " until " + r.ResetAt.UTC().Format(time.RFC3339)
		}
	}
	if r.Said != "" {
		e.Message += fmt.Sprintf("; the provider said: %q", r.Said)
	}
	return e
}

// usedUp words the refusal of a budget, with the honest time of its reset.
func usedUp(b *budget.ExceededError) *httpapi.Error {
	e := &httpapi.Error{Status: http.StatusPaymentRequired, Code: "budget_exceeded", Final: true, Cause: b}
	e.Message = fmt.Sprintf("the budget of the sessions %q is used up", b.Limit.Name)
	if !b.ResetAt.IsZero() {
		e.RetryAfter = max(time.Until(b.ResetAt), time.Millisecond)
		e.Message += " until " + b.ResetAt.UTC().Format(time.RFC3339)
	}
	return e
}
