package wire

import (
	"encoding/json"
	"net/http"
	"strings"
)

// ErrorBody returns an OpenAI-shaped error object; an empty param or code is null.
func ErrorBody(message, typ, param, code string) []byte {
	type object struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	o := object{Message: message, Type: typ}
	if param != "" {
		o.Param = &param
	}
	if code != "" {
		o.Code = &code
	}
	b, err := json.Marshal(struct {
		Error object `json:"error"`
	}{o})
	if err != nil {
		panic(err) // strings always marshal
	}
	return b
}

const (
	maxErrorBody  = 4 << 10 // of a text that is looked at: the words are weighed by many patterns
	maxErrorNodes = 256     // values of a body that are looked at
	maxErrorDepth = 8
)

// errorObject is what we read of an upstream's error body, whoever made it.
type errorObject struct {
	message, typ, code string

	texts  []string    // all messages that the body holds, however deep; the first is message
	codes  []string    // all codes, types and reasons
	quotas []quota     // Google's google.rpc.QuotaFailure, and kin
	waits  []string    // what members say that are named after a wait, in the forms of waitNamed
	until  []string    // what members say that are named after the end of it
	header http.Header // that the body carries, such as OpenRouter's error.metadata.headers
	nodes  int
}

// A quota is one limit that a body names by id.
type quota struct{ id, value string }

// parseError reads OpenAI's {"error":{…}}, the same inside an array (Google),
// {"error":"text"}, a bare object (Mistral, vLLM), and plain text; and what is
// told deeper in it, by gateways that wrap what they got.
func parseError(body []byte) errorObject {
	body = body[skipSpace(body, 0):]
	whole := body
	if len(body) > 0 && body[0] == '[' {
		if end := scanValue(body, skipSpace(body, 1), 1); end > 0 {
			body = body[skipSpace(body, 1):end]
		}
	}
	var e errorObject
	if e.read(body, false) {
		e.gather(whole, 0)
	} else {
		e.message = plainText(body[:min(len(body), maxErrorBody)])
	}
	e.message = e.message[:min(len(e.message), maxErrorBody)]
	if e.message == "" && len(e.texts) > 0 {
		e.message = e.texts[0]
	}
	return e
}

// read takes the members of an object, or those of its error member if it has
// one and is not one itself, and reports whether it was an object.
func (e *errorObject) read(v []byte, isError bool) bool {
	var inner []byte
	m := membersOf(v)
	for m.next() {
		switch string(m.name) {
		case "error":
			inner = m.value
		case "message", "detail":
			if s, ok := stringValue(m.value); ok {
				e.message = s
			}
		case "type":
			e.typ, _ = stringValue(m.value)
		case "code":
			e.code = scalar(m.value)
		}
	}
	if s, ok := stringValue(inner); ok {
		e.message = s
	} else if len(inner) > 0 && inner[0] == '{' && !isError {
		*e = errorObject{}
		e.read(inner, true)
	}
	return m.valid()
}

// gather looks through a whole body: objects, arrays, and JSON inside of strings.
func (e *errorObject) gather(v []byte, depth int) {
	if e.nodes++; depth > maxErrorDepth || e.nodes > maxErrorNodes || len(v) == 0 {
		return
	}
	switch v[0] {
	case '{':
		var q quota
		for m := membersOf(v); m.next(); {
			e.member(&q, strings.ToLower(string(m.name)), m.value, depth)
		}
		if q.id != "" && len(e.quotas) < 16 {
			e.quotas = append(e.quotas, q)
		}
	case '[':
		for i := skipSpace(v, 1); i < len(v) && v[i] != ']' && e.nodes <= maxErrorNodes; {
			end := scanValue(v, i, 1)
			if end < 0 {
				return
			}
			e.gather(v[i:end], depth+1)
			if i = skipSpace(v, end); i < len(v) && v[i] == ',' {
				i = skipSpace(v, i+1)
			}
		}
	}
}

// member takes what one member says, by its name.
func (e *errorObject) member(q *quota, name string, value []byte, depth int) {
	e.nodes++
	text := scalar(value)
	switch {
	case text == "":
		if name == "headers" && value[0] == '{' {
			e.headers(value)
			return
		}
		e.gather(value, depth+1)
		return
	case text[0] == '{' || text[0] == '[': // what a gateway got, as it was
		if isJSON([]byte(text)) {
			e.gather([]byte(text), depth+1)
			return
		}
	}
	text = text[:min(len(text), maxErrorBody)]
	switch name {
	case "message", "detail", "details", "msg", "error", "error_message", "errormessage", "error_msg", "error_description", "status_msg", "title", "description", "raw":
		if len(e.texts) < 16 {
			e.texts = append(e.texts, text)
		}
	case "code", "type", "status", "reason", "error_code", "errorcode", "error_type", "errortype", "status_code", "limit_type", "subcode", "innercode":
		if len(e.codes) < 32 {
			e.codes = append(e.codes, text[:min(len(text), 256)])
		}
	case "quotaid", "quota_id", "quotametric", "quota_metric":
		q.id += " " + text[:min(len(text), 256)]
	case "quotavalue", "quota_value":
		q.value = text
	case "retrydelay", "retry_delay", "retry_after", "retryafter", "retry_after_seconds", "retryafterseconds", "resets_in_seconds", "reset_in_seconds", "reset_seconds", "resets_in", "reset_in", "reset_after", "wait_seconds":
		e.waits = append(e.waits, text[:min(len(text), 64)])
	case "retry_after_ms", "retryafterms", "resets_in_ms", "reset_in_ms", "retry_in_ms":
		e.waits = append(e.waits, text[:min(len(text), 64)]+"ms")
	case "resets_at", "reset_at", "resetsat", "resetat", "reset_time", "resettime", "limit_resets_at", "retry_at":
		e.until = append(e.until, text[:min(len(text), 64)])
	}
}

// headers takes the headers that a body carries.
func (e *errorObject) headers(object []byte) {
	if e.header == nil {
		e.header = http.Header{}
	}
	for m := membersOf(object); m.next() && len(e.header) < 64; {
		if text := scalar(m.value); text != "" && len(m.name) <= 128 && len(text) <= 256 {
			e.header.Set(string(m.name), text)
		}
	}
}

// scalar is a string's text, or the digits of a number; "" for all else.
func scalar(v []byte) string {
	if s, ok := stringValue(v); ok {
		return s
	}
	if len(v) > 0 && (v[0] == '-' || '0' <= v[0] && v[0] <= '9') && len(v) <= 32 {
		return string(v)
	}
	return ""
}

// plainText is a body that is no JSON, without the tags of a web page.
func plainText(b []byte) string {
	s := string(b)
	if !strings.HasPrefix(s, "<") {
		return s
	}
	var text strings.Builder
	for len(s) > 0 {
		at := strings.IndexByte(s, '<')
		if at < 0 {
			at = len(s)
		}
		text.WriteString(s[:at])
		text.WriteByte(' ')
		s = s[at:]
		end := strings.IndexByte(s, '>')
		if end < 0 {
			break
		}
		for _, silent := range []string{"style", "script"} {
			if len(s) > len(silent) && strings.EqualFold(s[1:1+len(silent)], silent) {
				if at := strings.Index(strings.ToLower(s), "</"+silent); at > 0 {
					end = at - 1
				}
			}
		}
		s = s[end+1:]
	}
	return strings.TrimSpace(text.String())
}
