package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxErrorBody bounds what is read of an error's body, in bytes.
const maxErrorBody = 64 << 10

// Error is an answer of the sidecar other than 2xx. Use errors.As to get at it.
// SDKs that call a model through the sidecar raise errors of their own with the
// same status and code, such as 402 and "budget_exceeded".
type Error struct {
	StatusCode int    // HTTP status
	Code       string // the sidecar's machine-readable code, "" if it gave none
	Type       string // OpenAI's class of error, "" if not given
	Message    string // for people

	// RetryAfter is how long the sidecar asks to wait, 0 if it does not say.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", e.StatusCode)
	if e.Code != "" {
		fmt.Fprintf(&b, " %s", e.Code)
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	return b.String()
}

// readError makes an Error of an answer. What stands between us and the sidecar
// may answer too, so nothing is taken for granted but the status.
func readError(resp *http.Response) *Error {
	e := &Error{
		StatusCode: resp.StatusCode,
		Message:    http.StatusText(resp.StatusCode),
		RetryAfter: retryAfter(resp.Header, time.Now()),
	}
	var body struct {
		Error struct {
			Message, Type string
			Code          any // a string with us, a number with some upstreams
		}
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil || json.Unmarshal(data, &body) != nil {
		return e
	}
	if body.Error.Message != "" {
		e.Message = body.Error.Message
	}
	e.Type = body.Error.Type
	if body.Error.Code != nil {
		e.Code = fmt.Sprint(body.Error.Code)
	}
	return e
}

// retryAfter reads the wait that an answer asks for, the finer header first. A
// negative, unreadable or absurd value counts as none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	const most = 366 * 24 * time.Hour // keeps the conversions in range
	wait := func(n float64, unit time.Duration) time.Duration {
		if n *= float64(unit); n > 0 && n <= float64(most) { // false for NaN
			return time.Duration(n)
		}
		return 0
	}
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil {
		return wait(ms, time.Millisecond)
	}
	value := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(value, 64); err == nil {
		return wait(s, time.Second)
	}
	if at, err := http.ParseTime(value); err == nil {
		return wait(at.Sub(now).Seconds(), time.Second)
	}
	return 0
}
