package httpapi

import (
	"net/http"
	"strings"
)

// keyProtocol begins the subprotocol by which browsers, whose WebSocket takes
// no headers, send their key.
const keyProtocol = "openai-insecure-api-key."

// WantsWebsocket reports whether r asks to become a websocket, the one upgrade
// that is tunnelled: through any other (h2c) a client could send requests past
// the queue.
func WantsWebsocket(r *http.Request) bool {
	if r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ContentLength != 0 || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return false
	}
	for _, line := range r.Header["Connection"] {
		for option := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(option), "upgrade") {
				return true
			}
		}
	}
	return false
}

// protocolKey is the key that a browser's websocket carries as a subprotocol.
func protocolKey(r *http.Request) string {
	for _, line := range r.Header["Sec-Websocket-Protocol"] {
		for protocol := range strings.SplitSeq(line, ",") {
			if key, ok := strings.CutPrefix(strings.TrimSpace(protocol), keyProtocol); ok {
				return key
			}
		}
	}
	return ""
}
