package wire

import "encoding/json"

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

// errorObject is what we read of an upstream's error body, whoever made it.
type errorObject struct {
	message, typ, code string
	retryDelay         string // Google's google.rpc.RetryInfo
}

// parseError reads OpenAI's {"error":{…}}, the same inside an array (Google),
// {"error":"text"}, a bare object (Mistral, vLLM), and plain text.
func parseError(body []byte) errorObject {
	body = body[skipSpace(body, 0):]
	if len(body) > 0 && body[0] == '[' {
		if end := scanValue(body, skipSpace(body, 1), 1); end > 0 {
			body = body[skipSpace(body, 1):end]
		}
	}
	var e errorObject
	if found := e.read(body, false); !found {
		e.message = string(body[:min(len(body), maxErrorBody)])
	}
	e.message = e.message[:min(len(e.message), maxErrorBody)]
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
			e.code, _ = stringValue(m.value)
		case "details":
			e.retryDelay = findRetryDelay(m.value)
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

// findRetryDelay looks through Google's list of details.
func findRetryDelay(v []byte) string {
	if len(v) == 0 || v[0] != '[' {
		return ""
	}
	for i := skipSpace(v, 1); i < len(v) && v[i] != ']'; {
		end := scanValue(v, i, 1)
		if end < 0 {
			return ""
		}
		for m := membersOf(v[i:end]); m.next(); {
			if string(m.name) == "retryDelay" {
				s, _ := stringValue(m.value)
				return s
			}
		}
		if i = skipSpace(v, end); i < len(v) && v[i] == ',' {
			i = skipSpace(v, i+1)
		}
	}
	return ""
}
