package wire

import (
	"bytes"
	"net/http"
)

const (
	includeUsage = "include_usage"

	optionsMember = `,"stream_options":{"include_usage":true}`
	optionsObject = `{"include_usage":true}`
	usageMember   = `"include_usage":true`
)

// Splice says how Raw has to be changed before it goes up: the bytes from from up to
// to give way to text. Only a stream whose client should have asked for usage and did
// not is changed. Every other byte stays as it was.
//
// The upstream refuses a stream_options that is not an object and an include_usage
// that is not a boolean, so both go up as they came. If one of the two stands in
// another case, a splice would name it twice.
func (r *Request) Splice() (from, to int, text string, spliced bool) {
	if !r.Valid || !r.Stream || r.wantsUsage || !r.Endpoint.format().asksUsage {
		return 0, 0, "", false
	}
	from, to, text = r.usageSplice()
	return from, to, text, text != ""
}

// usageSplice says which bytes of Raw give way to which, one case per shape of
// stream_options; an empty insert means hands off.
func (r *Request) usageSplice() (at, end int, insert string) {
	if r.optionsAlias {
		return 0, 0, ""
	}
	v, at := r.options.value, r.options.at
	if v == nil {
		return r.streamEnd, r.streamEnd, optionsMember
	}
	if isNull(v) {
		return at, at + len(v), optionsObject
	}
	if v[0] != '{' {
		return 0, 0, ""
	}
	m := membersOf(v)
	empty := true
	for m.next() {
		empty = false
		if !nameIs(m.name, includeUsage) {
			if bytes.EqualFold(unescape(m.name), []byte(includeUsage)) {
				return 0, 0, ""
			}
			continue
		}
		if _, ok := boolValue(m.value); !ok && !isNull(m.value) {
			return 0, 0, ""
		}
		return at + m.at, at + m.at + len(m.value), "true"
	}
	if empty {
		return at + 1, at + 1, usageMember
	}
	return at + 1, at + 1, usageMember + ","
}

// RejectsStreamOptions reports whether an answer refuses the stream_options
// member that our splice may have caused. Mistral's servers and others built on
// pydantic say 422.
func RejectsStreamOptions(status int, body []byte) bool {
	if status != http.StatusBadRequest && status != http.StatusUnprocessableEntity {
		return false
	}
	body = bytes.ToLower(body[:min(len(body), maxErrorBody)])
	return bytes.Contains(body, []byte("stream_options")) ||
		bytes.Contains(body, []byte("stream options")) ||
		bytes.Contains(body, []byte(includeUsage))
}
