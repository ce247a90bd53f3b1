package session

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxIDLength is the longest session id accepted, in bytes.
const MaxIDLength = 128

// ErrInvalidID says that a session id is not 1–128 bytes of printable UTF-8, holds
// a character that paths are made of, or is one of the two dot names.
var ErrInvalidID = errors.New(`a session id is 1 to 128 bytes of printable UTF-8 without / \ ? # and neither "." nor ".."`)

// CheckID returns ErrInvalidID unless id may name a session.
func CheckID(id string) error {
	if id == "" || len(id) > MaxIDLength || id == "." || id == ".." || !utf8.ValidString(id) {
		return ErrInvalidID
	}
	for _, r := range id {
		if !unicode.IsPrint(r) || strings.ContainsRune(`/\?#`, r) {
			return ErrInvalidID
		}
	}
	return nil
}

// Ignored is a header that names no session, and why it does not. Both come
// from closed sets, and hold nothing that the client has sent.
type Ignored struct{ Header, Reason string }

// The reasons why a header names no session.
const (
	sentTwice   = "sent twice"
	isEmpty     = "empty"
	placeholder = "placeholder"
	notAnID     = "not an id"
)

// fromHeader reads the session that a header names, or "". Chat programs fill
// headers with what their users have typed, or with nothing. A request must not
// fail because of that, so what is no id is no session.
func (id *Identity) fromHeader(h http.Header, name string) string {
	values := h.Values(name)
	if len(values) == 0 {
		return ""
	}
	value := values[0]
	var reason string
	if decoded, err := url.PathUnescape(value); err == nil {
		value = decoded // headers carry no other script unless it is encoded
	}
	switch {
	case slices.ContainsFunc(values, func(v string) bool { return v != values[0] }):
		reason = sentTwice // which of them counts would be a guess
	case strings.TrimSpace(value) == "":
		reason = isEmpty
	case isPlaceholder(value):
		reason = placeholder
	case CheckID(value) != nil:
		reason = notAnID
	default:
		return value
	}
	if id.Ignored == (Ignored{}) {
		id.Ignored = Ignored{name, reason}
	}
	return ""
}

// placeholders match what templates, shells and scripts leave behind where a
// value is missing: {{user}}, ${user}, {user}, <user>, %user%, $USER, {% user %}.
var placeholders = regexp.MustCompile(`\{\{.*\}\}|\$\{.*\}|\{%.*%\}|^\{[^{}]*\}$|^<[^<>]*>$|^%[\w.-]+%$|^\$[A-Za-z_]\w*$|^\$\(.*\)$|^\[object \w+\]$`)

// nothings are the words by which programs print that there is no value.
var nothings = []string{"undefined", "null"}

func isPlaceholder(value string) bool {
	return placeholders.MatchString(value) || slices.Contains(nothings, value)
}
