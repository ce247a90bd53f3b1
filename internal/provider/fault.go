package provider

import (
	"net/http"
	"time"
)

// Fault is one thing that goes wrong with one answer. The zero value is a sound answer.
// Make them with the constructors below.
type Fault struct {
	name string

	// Instead of an answer; nothing is admitted or billed.
	instead func(s *Server, w http.ResponseWriter, r *http.Request, model string)

	// Before the answer, which is admitted and billed.
	interim int           // 1xx status sent first
	stall   time.Duration // silence before the headers; negative: until the client leaves
	header  http.Header   // added

	// To the answer's body.
	at       int64         // byte at which action happens
	action   action        // what happens there
	pause    time.Duration // with actionStall; negative: until the client leaves
	gzip     bool
	noDone   bool
	usage    usageFault
	inserted string // raw bytes put before the answer's last event, or its body
}

type action int

const (
	actionNone  action = iota
	actionCut          // close the connection
	actionReset        // RST
	actionStall        // pause, then go on
	actionEnd          // end the body cleanly: a truncation that framing does not show
)

type usageFault int

const (
	usageSound usageFault = iota
	usageNone
	usageZero
	usageTwice
	usageEverywhere
)

// String names the fault, as in Entry.Fault.
func (f Fault) String() string { return f.name }

// Sound is no fault: it lets one request of a script pass.
func Sound() Fault { return Fault{} }

// Status answers with code and body instead, for example 503 with a
// Retry-After header. A body that begins with { is sent as JSON.
func Status(code int, header http.Header, body string) Fault {
	return Fault{name: "status", instead: func(_ *Server, w http.ResponseWriter, _ *http.Request, _ string) {
		if len(body) > 0 && body[0] == '{' {
			w.Header().Set("Content-Type", "application/json")
		}
		for k, v := range header {
			w.Header()[http.CanonicalHeaderKey(k)] = v
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	}}
}

// ServerError answers with the provider's JSON error of that status, without retry hints.
func ServerError(code int) Fault {
	return Fault{name: "server error", instead: func(_ *Server, w http.ResponseWriter, _ *http.Request, _ string) {
		refuse(w, code, apiError{Message: "The server had an error while processing your request. Sorry about that!", Type: "server_error"})
	}}
}

// Overloaded answers 503 with a hint when to come back.
func Overloaded(after time.Duration) Fault {
	return Fault{name: "overloaded", instead: func(s *Server, w http.ResponseWriter, _ *http.Request, _ string) {
		setRetry(w.Header(), s.cfg.Dialect, after)
		refuse(w, http.StatusServiceUnavailable, apiError{Message: "That model is currently overloaded with other requests.", Type: "server_error"})
	}}
}

// Throttle answers 429 as if the model's tokens were used up, whatever the
// account says, and hints at after.
func Throttle(after time.Duration) Fault {
	return Fault{name: "throttle", instead: func(s *Server, w http.ResponseWriter, _ *http.Request, model string) {
		limit := s.accountConfig(model).TPM
		if limit == 0 {
			limit = 30000
		}
		// The numbers agree with the time: Used+Requested-Limit is refilled within after.
		requested := max(1, int64(after.Minutes()*float64(limit)))
		s.throttle(w, model, Verdict{
			RetryAfter: after, Dimension: "tokens", Per: "min",
			Limit: limit, Used: limit, Requested: requested,
		})
	}}
}

// Quota answers 429 insufficient_quota, which waiting does not cure.
func Quota() Fault {
	return Fault{name: "quota", instead: func(_ *Server, w http.ResponseWriter, _ *http.Request, _ string) {
		refuse(w, http.StatusTooManyRequests, apiError{Message: quotaText, Type: "insufficient_quota", Code: "insufficient_quota"})
	}}
}

// TooLarge answers 429 "Request too large", which waiting does not cure either.
func TooLarge() Fault {
	return Fault{name: "too large", instead: func(s *Server, w http.ResponseWriter, _ *http.Request, model string) {
		s.throttle(w, model, Verdict{Permanent: true, Dimension: "tokens", Per: "min", Limit: 30000, Requested: 30601})
	}}
}

// Garbage answers 200 with a web page: a captive portal, a proxy's error page.
func Garbage() Fault {
	return Fault{name: "garbage", instead: func(_ *Server, w http.ResponseWriter, _ *http.Request, _ string) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte("<!DOCTYPE html><html><body>\xff\xfe{\"usage\":</body></html>"))
	}}
}

// Hangup closes the connection after reading the request, without one byte of an answer.
func Hangup() Fault {
	return Fault{name: "hangup", instead: func(*Server, http.ResponseWriter, *http.Request, string) {
		panic(http.ErrAbortHandler)
	}}
}

// NoHeaders never answers: it holds the request, billed, until the client leaves.
func NoHeaders() Fault { return Fault{name: "no headers", stall: -1} }

// Stall waits d before the headers.
func Stall(d time.Duration) Fault { return Fault{name: "stall", stall: d} }

// StallAfterBytes sends n bytes of the body, pauses for d (negative: until the
// client leaves), then goes on.
func StallAfterBytes(n int64, d time.Duration) Fault {
	return Fault{name: "stall after bytes", at: n, action: actionStall, pause: d}
}

// CutAfterBytes closes the connection after n bytes of the body.
func CutAfterBytes(n int64) Fault { return Fault{name: "cut", at: n, action: actionCut} }

// ResetAfterBytes sends RST after n bytes of the body. What the client still gets
// of them is up to its kernel.
func ResetAfterBytes(n int64) Fault { return Fault{name: "reset", at: n, action: actionReset} }

// EndAfterBytes ends the body cleanly after n bytes: only the missing end of the
// content shows that it is truncated.
func EndAfterBytes(n int64) Fault { return Fault{name: "end", at: n, action: actionEnd} }

// NoDone ends a stream cleanly without its terminal event ([DONE] or response.completed).
func NoDone() Fault { return Fault{name: "no done", noDone: true} }

// NoUsage leaves the usage out of the answer.
func NoUsage() Fault { return Fault{name: "no usage", usage: usageNone} }

// ZeroUsage reports a usage of explicit zeros.
func ZeroUsage() Fault { return Fault{name: "zero usage", usage: usageZero} }

// UsageTwice repeats a stream's usage chunk.
func UsageTwice() Fault { return Fault{name: "usage twice", usage: usageTwice} }

// UsageEverywhere reports cumulative usage in every chunk of a stream, as vLLM's
// continuous_usage_stats do.
func UsageEverywhere() Fault { return Fault{name: "usage everywhere", usage: usageEverywhere} }

// Insert puts raw bytes before the last event of a stream (or before a JSON body):
// comments, error events, broken JSON, lines without end.
func Insert(raw string) Fault { return Fault{name: "insert", inserted: raw} }

// GzipAnyway compresses the answer, whatever the client accepts.
func GzipAnyway() Fault { return Fault{name: "gzip", gzip: true} }

// WithHeader adds headers to a sound answer.
func WithHeader(h http.Header) Fault { return Fault{name: "header", header: h} }

// CloseAfter answers soundly and closes the connection: over HTTP/2 this is a graceful GOAWAY.
func CloseAfter() Fault {
	return Fault{name: "close after", header: http.Header{"Connection": {"close"}}}
}

// Interim sends an informational status (102, 103) before a sound answer.
func Interim(code int) Fault { return Fault{name: "interim", interim: code} }
