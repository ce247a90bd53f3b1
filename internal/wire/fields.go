package wire

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"

	"github.com/openai/openai-go/packages/param"
)

// A parser reads the requests of one endpoint; P is the SDK's struct of them.
type parser[P any] struct {
	fields []field[P] // at most 64: parse marks them in one word
	byName map[string]int
	view   func(*reading[P]) // fills the view from what was decoded
}

// A field says what is done with one member of a request's top level. We act on
// all of them, so naming one twice is refused.
type field[P any] struct {
	name string
	set  func(*reading[P])
}

// A reading is a request while its members are read.
type reading[P any] struct {
	*Request
	params P // what is decoded with the SDK's types
	member   // the one at hand
}

// A member is the value of a field, and its offset in Raw.
type member struct {
	value []byte
	at    int
}

func newParser[P any](fields []field[P], view func(*reading[P])) *parser[P] {
	p := &parser[P]{fields, make(map[string]int, len(fields)), view}
	for i, f := range fields {
		p.byName[f.name] = i
	}
	return p
}

// parse reads r.Raw in one pass. duplicate is a field that is named twice; ok is
// false if Raw is not one JSON object.
func (p *parser[P]) parse(r *Request) (duplicate string, ok bool) {
	var (
		c    = reading[P]{Request: r}
		m    = membersOf(r.Raw)
		seen uint64
	)
	for m.next() {
		i, exact := p.lookup(m.name)
		if i < 0 {
			continue
		}
		f, bit := &p.fields[i], uint64(1)<<i
		switch {
		case seen&bit != 0: // the first wins, so a hostile body decodes each field once
			duplicate = cmp.Or(duplicate, f.name)
		case exact:
			c.member = member{m.value, m.at}
			f.set(&c)
		case f.name == "stream_options":
			r.optionsAlias = true
		}
		seen |= bit
	}
	if !m.valid() {
		return "", false
	}
	p.view(&c)
	return cmp.Or(duplicate, r.duplicate), true
}

// lookup returns the index of the field that a raw name means, -1 for none.
// exact is false for a name that only some parsers take for it, those that
// ignore case: enough to see a duplicate, not enough to believe the value.
func (p *parser[P]) lookup(raw []byte) (i int, exact bool) {
	if i, ok := p.byName[string(raw)]; ok {
		return i, true
	}
	if !unusual(raw) {
		return -1, false
	}
	name := unescape(raw)
	if i, ok := p.byName[string(name)]; ok {
		return i, true
	}
	for i, f := range p.fields {
		// No letter that folds to an ASCII one is shorter, so most names end here.
		if len(name) >= len(f.name) && bytes.EqualFold(name, []byte(f.name)) {
			return i, false
		}
	}
	return -1, false
}

// unusual reports whether a raw name can mean a field without being spelled
// like one. Folding reaches beyond ASCII: U+017F and U+212A fold to s and k.
func unusual(raw []byte) bool {
	for _, c := range raw {
		if c == '\\' || c >= 0x80 || 'A' <= c && c <= 'Z' {
			return true
		}
	}
	return false
}

// nameIs compares a raw name with a plain one.
func nameIs(raw []byte, name string) bool {
	return string(raw) == name || bytes.IndexByte(raw, '\\') >= 0 && string(unescape(raw)) == name
}

// maxSmall is the largest value, in bytes, that is given to the SDK's decoder,
// which spends some fifteen bytes of garbage on each byte it reads.
const maxSmall = 4096

// The setters leave a field of another type unset: the view says unknown.

func setInt(o *param.Opt[int64], v []byte) {
	if n, ok := intValue(v); ok {
		*o = param.NewOpt(n)
	}
}

func setString(o *param.Opt[string], v []byte) {
	if len(v) > maxSmall {
		return
	}
	if s, ok := stringValue(v); ok {
		*o = param.NewOpt(s)
	}
}

// setEnum sets the SDK's named string types.
func setEnum[S ~string](o *S, v []byte) {
	if len(v) > maxSmall {
		return
	}
	if s, ok := stringValue(v); ok {
		*o = S(s)
	}
}

// setSDK leaves a union or an object to the SDK's own decoder. Its error is of
// no interest: the bytes go up in any case.
func setSDK[T any](o *T, v []byte) {
	if len(v) > maxSmall {
		return
	}
	var t T
	if json.Unmarshal(v, &t) == nil {
		*o = t
	}
}

// count is what an upstream could accept as a count; 0 = unknown. The bound keeps
// products of two counts inside int64.
func count(o param.Opt[int64]) int64 {
	if o.Value < 0 || o.Value > math.MaxInt32 {
		return 0
	}
	return o.Value
}

// span returns a heavy field's bytes, nil for null.
func span(v []byte) []byte {
	if isNull(v) {
		return nil
	}
	return v
}
