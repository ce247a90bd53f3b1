package wire

import (
	"net/http"
	"net/url"
	"strings"
)

// controls are the POSTs below the API's base that cost nothing and name no model: they
// store, change or end something. A * stands for one segment, ** for any number. A
// request that is not in here may cost, whatever it is.
var controls = []string{
	"**/cancel",
	"files",
	"uploads",
	"uploads/*/parts",
	"uploads/*/complete",
	"conversations",
	"conversations/*",
	"conversations/*/items",
	"chat/completions/*", // the metadata of a stored answer
	"fine_tuning/jobs/*/pause",
}

// IsControl reports whether a request asks for nothing that costs, so that it need not
// wait for any model. The path is that of EndpointOf. A websocket is asked for by GET
// too, and may cost: the caller knows.
func IsControl(method, path string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodDelete:
		return true
	case http.MethodPost:
	default:
		return false
	}
	if plain, err := url.PathUnescape(path); err == nil {
		path = plain
	}
	segments := strings.Split(strings.Trim(path, "/"), "/")
	for _, pattern := range controls {
		if matchSegments(strings.Split(pattern, "/"), segments) {
			return true
		}
	}
	return false
}

func matchSegments(pattern, segments []string) bool {
	if pattern[0] == "**" {
		if len(segments) < len(pattern) {
			return false
		}
		pattern, segments = pattern[1:], segments[len(segments)-len(pattern)+1:]
	}
	if len(pattern) != len(segments) {
		return false
	}
	for i, p := range pattern {
		if p != segments[i] && (p != "*" || segments[i] == "") {
			return false
		}
	}
	return true
}
