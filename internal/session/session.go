// Package session answers who is asking: it takes the session, its parent and
// the caller's queue hints from a request's path and headers, and validates
// them. It holds no state.
package session

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// DefaultHeader carries the session unless SESSION_HEADER names another.
const DefaultHeader = "X-Session-Id"

const (
	parentHeader   = "X-Parent-Session-Id"
	timeoutHeader  = "X-Queue-Timeout"
	priorityHeader = "X-Queue-Priority"
	weightHeader   = "X-Queue-Weight"
)

// ErrInvalidPath says that a path holds dot segments, empty segments or
// backslashes: two parsers could disagree on what such a path names.
var ErrInvalidPath = errors.New("the path holds an empty or dot segment, or a backslash")

// A HintError says that one of the X-Queue-* headers cannot be read.
type HintError struct {
	Header, Want string
}

func (e *HintError) Error() string { return fmt.Sprintf("header %s: want %s", e.Header, e.Want) }

// Identity is what a request says about its sender and its wishes.
// Hints are wishes: what they may achieve is the limiter's business.
type Identity struct {
	Session string  // "" when the request names none
	Parent  string  // session whose budget this one draws on, "" for none
	Ignored Ignored // a header whose session was not taken; zero: all were
	Target

	MaxWait  time.Duration // X-Queue-Timeout; 0 = not sent
	Priority string        // "high", "normal", "low", or "" when not sent
	Weight   float64       // X-Queue-Weight, clamped to 0.1–100; 0 = not sent
}

// From reads the identity of a request for the API. header names the header
// that carries the session where the path names none. The error wraps
// ErrInvalidID, ErrInvalidPath or is a *HintError.
func From(r *http.Request, header string) (Identity, error) {
	var id Identity
	path := r.URL.EscapedPath()
	if err := CheckPath(path); err != nil {
		return id, err
	}
	named, path, err := cutSession(path)
	if err != nil {
		return id, err
	}
	id.Target = targetOf(path)
	if id.Session = named; named == "" {
		id.Session = id.fromHeader(r.Header, header)
	}
	id.Parent = id.fromHeader(r.Header, parentHeader)
	return id, id.readHints(r.Header)
}

func (id *Identity) readHints(h http.Header) error {
	if v := h.Get(timeoutHeader); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			return &HintError{timeoutHeader, `a positive duration such as "30s" or "2m"`}
		}
		id.MaxWait = d
	}
	if v := h.Get(priorityHeader); v != "" {
		if v != "high" && v != "normal" && v != "low" {
			return &HintError{priorityHeader, `"high", "normal" or "low"`}
		}
		id.Priority = v
	}
	if v := h.Get(weightHeader); v != "" {
		w, err := strconv.ParseFloat(v, 64)
		if err != nil || math.IsNaN(w) || w <= 0 {
			return &HintError{weightHeader, "a number from 0.1 to 100"}
		}
		id.Weight = min(max(w, 0.1), 100)
	}
	return nil
}

// Headers lists the request headers that are addressed to the sidecar and do
// not travel on to the provider, besides the session header itself.
func Headers() []string {
	return []string{parentHeader, timeoutHeader, priorityHeader, weightHeader}
}

// CheckPath returns ErrInvalidPath for an escaped path that a cleaning parser
// would change: empty segments, dot segments (plain or encoded) and
// backslashes. Encoded slashes are legal and stay encoded: providers name
// models like "org%2Fname".
func CheckPath(escaped string) error {
	for segment := range strings.SplitSeq(strings.TrimPrefix(escaped, "/"), "/") {
		plain, err := url.PathUnescape(segment)
		if err != nil || strings.Contains(plain, `\`) {
			return ErrInvalidPath
		}
		// An encoded slash hides further segments, which a lenient server would see.
		for part := range strings.SplitSeq(plain, "/") {
			if part == "." || part == ".." {
				return ErrInvalidPath
			}
		}
	}
	if strings.Contains(escaped, "//") {
		return ErrInvalidPath
	}
	return nil
}
