package middleware

import (
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// validID is the rule of the sidecar for ids in a path.
func validID(id string) bool {
	if id == "" || len(id) > 128 || id == "." || id == ".." || !utf8.ValidString(id) {
		return false
	}
	for _, r := range id {
		if !unicode.IsPrint(r) || strings.ContainsRune(`/\?#`, r) {
			return false
		}
	}
	return true
}

// validInHeader is the rule of the sidecar for ids in a header: there it takes
// what templates leave behind as no session.
func validInHeader(id string) bool {
	return validID(id) && strings.TrimSpace(id) != "" && !placeholders.MatchString(id) && id != "undefined" && id != "null"
}

var placeholders = regexp.MustCompile(`\{\{.*\}\}|\$\{.*\}|\{%.*%\}|^\{[^{}]*\}$|^<[^<>]*>$|^%[\w.-]+%$|^\$[A-Za-z_]\w*$|^\$\(.*\)$|^\[object \w+\]$`)

// encodeID is id as a header carries it. The sidecar decodes percent signs; other
// scripts, and spaces at the ends, do not survive in headers as they are.
func encodeID(id string) string {
	if strings.IndexFunc(id, func(r rune) bool { return r <= ' ' || r == '%' || r >= 0x7f }) < 0 {
		return id
	}
	return url.PathEscape(id)
}

// decodeID is what the sidecar reads in a header.
func decodeID(value string) string {
	if id, err := url.PathUnescape(value); err == nil {
		return id
	}
	return value
}
