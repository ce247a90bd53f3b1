package wire

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// members walks the members of one object:
//
//	m := membersOf(b)
//	for m.next() { … m.name, m.value … }
//	if !m.valid() { … b was not one JSON object … }
//
// It allocates nothing. Names are raw: see nameIs and unescape.
type members struct {
	b       []byte
	name    []byte // between the quotes, escapes as they are; the empty name is not nil
	value   []byte
	at      int // offset of value in b
	i       int
	started bool
	done    bool
	bad     bool
}

func membersOf(b []byte) members { return members{b: b} }

// next advances to the next member; false at the object's end or its first fault.
func (m *members) next() bool {
	if m.done || m.bad {
		return false
	}
	b := m.b
	i := skipSpace(b, m.i)
	if !m.started {
		m.started = true
		if i >= len(b) || b[i] != '{' {
			return m.fail()
		}
		if i = skipSpace(b, i+1); i < len(b) && b[i] == '}' {
			return m.finish(i + 1)
		}
	} else {
		switch {
		case i < len(b) && b[i] == '}':
			return m.finish(i + 1)
		case i < len(b) && b[i] == ',':
			i = skipSpace(b, i+1)
		default:
			return m.fail()
		}
	}
	if i >= len(b) || b[i] != '"' {
		return m.fail()
	}
	end := scanString(b, i)
	if end < 0 {
		return m.fail()
	}
	m.name = b[i+1 : end-1]
	if i = skipSpace(b, end); i >= len(b) || b[i] != ':' {
		return m.fail()
	}
	m.at = skipSpace(b, i+1)
	if m.i = scanValue(b, m.at, 1); m.i < 0 {
		return m.fail()
	}
	m.value = b[m.at:m.i:m.i]
	return true
}

func (m *members) fail() bool {
	m.bad = true
	return false
}

// finish also judges what follows the object: anything but space makes the
// body two things at once, which parsers read differently.
func (m *members) finish(i int) bool {
	m.done = true
	m.bad = skipSpace(m.b, i) != len(m.b)
	return false
}

// valid reports, once next has returned false, that the bytes were one object and nothing else.
func (m *members) valid() bool { return m.done && !m.bad }

// memberOf returns the value of the last member of that name; without one, null.
func memberOf(object []byte, name string) []byte {
	value := []byte("null")
	for m := membersOf(object); m.next(); {
		if nameIs(m.name, name) {
			value = m.value
		}
	}
	return value
}

// unescape decodes the inside of a JSON string that the scanner accepted.
// Without escapes it returns raw itself. Lone surrogates become U+FFFD.
func unescape(raw []byte) []byte {
	i := bytes.IndexByte(raw, '\\')
	if i < 0 {
		return raw
	}
	out := append(make([]byte, 0, len(raw)), raw[:i]...)
	for i < len(raw) {
		c := raw[i]
		if c != '\\' {
			out = append(out, c)
			i++
			continue
		}
		if i+1 >= len(raw) {
			break
		}
		c = raw[i+1]
		i += 2
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r, _ := hex4(raw[i:])
			i = min(i+4, len(raw))
			if utf16.IsSurrogate(r) {
				var low rune
				if rest := raw[i:]; len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
					low, _ = hex4(rest[2:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
			continue
		}
		out = append(out, c)
	}
	return out
}

// stringValue returns the text of a JSON string value; ok is false for any
// other type. The text is valid UTF-8.
func stringValue(v []byte) (s string, ok bool) {
	if len(v) < 2 || v[0] != '"' {
		return "", false
	}
	return strings.ToValidUTF8(string(unescape(v[1:len(v)-1])), "\uFFFD"), true
}

// intValue returns a JSON number's value if it is integral, however it is
// spelled: 100, 100.0 and 1e2 are one number. Beyond 2⁵³ parsers disagree, so
// nothing there counts as known.
func intValue(v []byte) (n int64, ok bool) {
	const exact = 1 << 53
	if len(v) == 0 || v[0] != '-' && (v[0] < '0' || v[0] > '9') {
		return 0, false
	}
	if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
		return n, -exact <= n && n <= exact
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > exact {
		return 0, false
	}
	return int64(f), true
}

func boolValue(v []byte) (b, ok bool) {
	return string(v) == "true", string(v) == "true" || string(v) == "false"
}

func isNull(v []byte) bool { return string(v) == "null" }
