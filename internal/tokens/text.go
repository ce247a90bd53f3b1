package tokens

import "unicode/utf8"

// unit is the fixed point of all costs: this many make one token.
const unit = 1 << 12

// class sorts characters by how byte-pair tokenizers treat them.
type class uint8

const (
	clLower class = iota
	clUpper
	clDigit
	clSpace
	clNewline
	clTab     // tabs and other control characters
	clQuote   // " ' `
	clBracket // ()[]{}<>
	clStop    // . , ; : ! ?
	clRule    // - = _ * # ~ +: what lines and tables are drawn with
	clSign    // the rest of ASCII punctuation
	clLatin   // accented Latin
	clGreek
	clCyrillic
	clHebrew
	clArabic
	clIndic
	clThai
	clKana
	clHan
	clHangul
	clPunct // punctuation beyond ASCII, full-width forms
	clOther // two and three byte scripts without a class
	clEmoji // four bytes
	numClasses
)

// state remembers just enough of what came before.
type state uint8

const (
	stStart   state = iota
	stSpace         // one space
	stSpaces        // white space that is more than one space
	stNewline       // newlines, and spaces after them: indentation
	stLow1          // n letters into a word; stLow8 stays
	stLow2
	stLow3
	stLow4
	stLow5
	stLow6
	stLow7
	stLow8
	stCap   // one capital that began a word
	stCaps  // several
	stMixed // letters after digits or after a change of case: identifiers, hashes, base64
	stDig1  // n digits into a group of three
	stDig2
	stDig3
	stPunct1
	stPunct2 // two or more
	stScript // + class - clGreek: inside a run of one script
	numStates = stScript + state(numClasses-clGreek)
)

// next is where a character of a class leads from a state.
func next(s state, c class) state {
	switch {
	case c == clLower || c == clLatin:
		switch {
		case s >= stLow1 && s < stLow8:
			return s + 1
		case s == stLow8, s == stMixed:
			return s
		case s == stCap:
			return stLow2
		case s == stCaps, s >= stDig1 && s <= stDig3:
			return stMixed
		}
		return stLow1
	case c == clUpper:
		switch {
		case s == stCap, s == stCaps:
			return stCaps
		case s >= stLow1 && s <= stLow8, s == stMixed, s >= stDig1 && s <= stDig3:
			return stMixed
		}
		return stCap
	case c == clDigit:
		switch s {
		case stDig1, stDig2:
			return s + 1
		}
		return stDig1
	case c == clSpace:
		switch s {
		case stNewline:
			return stNewline
		case stSpace, stSpaces:
			return stSpaces
		}
		return stSpace
	case c == clNewline:
		return stNewline
	case c == clTab:
		if s == stNewline {
			return stNewline
		}
		return stSpaces
	case c <= clSign:
		if s == stPunct1 || s == stPunct2 {
			return stPunct2
		}
		return stPunct1
	}
	return stScript + state(c-clGreek)
}

// cell is one step of the automaton: where it leads and what it costs.
type cell struct {
	cost uint16
	next state
}

// stride is the row length of steps, a power of two so that an index is a shift.
const stride = 32

// classOf sorts single bytes; bytes of longer characters are sorted by runeClass.
var classOf = func() (t [utf8.RuneSelf]class) {
	for b := range t {
		switch {
		case 'a' <= b && b <= 'z':
			t[b] = clLower
		case 'A' <= b && b <= 'Z':
			t[b] = clUpper
		case '0' <= b && b <= '9':
			t[b] = clDigit
		case b == ' ':
			t[b] = clSpace
		case b == '\n' || b == '\r':
			t[b] = clNewline
		case b < ' ' || b == 0x7f:
			t[b] = clTab
		default:
			t[b] = clSign
		}
	}
	for c, set := range map[class]string{clQuote: "\"'`", clBracket: "()[]{}<>", clStop: ".,;:!?", clRule: "-=_*#~+"} {
		for _, b := range []byte(set) {
			t[b] = c
		}
	}
	return t
}()

var steps = func() (t [int(numStates) * stride]cell) {
	for s := range numStates {
		for c := range numClasses {
			t[int(s)*stride+int(c)] = cell{cost: uint16(stepCost(s, c) * unit), next: next(s, c)}
		}
	}
	return t
}()

// stepCost is how many tokens a character adds on average.
func stepCost(s state, c class) float64 {
	inWord := s >= stLow1 && s <= stMixed
	switch c {
	case clLower:
		switch {
		case s == stLow6 || s == stLow7 || s == stLow8:
			return 0.24
		case inWord:
			return 0
		}
		return 0.885
	case clUpper:
		switch {
		case s == stCap || s == stCaps:
			return 0.032
		case inWord:
			return 1.533
		}
		return 0.885
	case clDigit:
		if s == stDig1 || s == stDig2 {
			return 0
		}
		return 1.233
	case clSpace, clTab:
		if s == stSpace {
			return 1.187
		}
		return 0
	case clNewline:
		if s == stNewline {
			return 0
		}
		return 1.187
	case clQuote, clBracket, clStop, clRule, clSign:
		if s == stPunct1 || s == stPunct2 {
			return 0.257
		}
		return 0.691
	case clLatin:
		if inWord {
			return 0.09
		}
		return 0.975
	case clGreek, clCyrillic:
		return 0.332
	case clHebrew, clArabic:
		return 0.367
	case clHan:
		return 0.908
	case clKana:
		return 0.686
	case clEmoji:
		return 2.081
	}
	return 0.7
}

// text weighs characters as they come. The zero value is ready.
type text struct {
	cost  int64 // in 1/unit tokens
	chars int64
	state state
}

// tokens is the cost in whole tokens.
func (t *text) tokens() int64 { return (t.cost + unit/2) / unit }

// next adds one character of a class.
func (t *text) add(c class) {
	e := steps[int(t.state)*stride+int(c)]
	t.cost += int64(e.cost)
	t.chars++
	t.state = e.next
}

// scan weighs b from its first byte up to an unescaped quote, as inside a JSON
// string, and returns how many bytes it read, without the quote. Escapes weigh as
// the characters that they stand for.
func (t *text) scan(b []byte) int {
	cost, st := t.cost, t.state
	i, hidden := 0, 0 // hidden: bytes that are no character of their own
loop:
	for i < len(b) {
		ch := b[i]
		var c class
		switch {
		case ch >= utf8.RuneSelf:
			n := 0
			c, n = runeClass(b[i:])
			i += n
			hidden += n - 1
		case ch == '"':
			break loop
		case ch == '\\':
			n := 0
			c, n = escape(b[i:])
			i += n
			hidden += n - 1
		default:
			c = classOf[ch]
			i++
		}
		e := steps[int(st)*stride+int(c)]
		cost += int64(e.cost)
		st = e.next
	}
	t.cost, t.state = cost, st
	t.chars += int64(i - hidden)
	return i
}

// runeClass sorts the character at the start of b, whose first byte is not ASCII,
// and returns its length. A byte that starts no character counts as one.
func runeClass(b []byte) (class, int) {
	r, n := utf8.DecodeRune(b)
	return classOfRune(r), n
}

// classOfRune sorts characters beyond ASCII by script.
func classOfRune(r rune) class {
	switch {
	case r < utf8.RuneSelf:
		return classOf[r&0x7f]
	case r < 0xa0:
		return clTab
	case r < 0xc0:
		return clPunct
	case r < 0x250, 0x1e00 <= r && r < 0x1f00:
		return clLatin
	case 0x370 <= r && r < 0x400, 0x1f00 <= r && r < 0x2000:
		return clGreek
	case 0x400 <= r && r < 0x530:
		return clCyrillic
	case 0x590 <= r && r < 0x600:
		return clHebrew
	case 0x600 <= r && r < 0x780, 0xfb50 <= r && r < 0xfe00, 0xfe70 <= r && r < 0xff00:
		return clArabic
	case 0x900 <= r && r < 0xe00:
		return clIndic
	case 0xe00 <= r && r < 0xe80:
		return clThai
	case 0x2000 <= r && r < 0x2c00, 0x3000 <= r && r < 0x3040, 0xff00 <= r && r < 0xff66:
		return clPunct
	case 0x3040 <= r && r < 0x3100, 0xff66 <= r && r < 0xffa0:
		return clKana
	case 0x3400 <= r && r < 0xa000, 0xf900 <= r && r < 0xfb00:
		return clHan
	case 0xac00 <= r && r < 0xd7b0, 0x1100 <= r && r < 0x1200, 0x3130 <= r && r < 0x3190:
		return clHangul
	case r >= 0x20000 && r < 0x40000:
		return clHan
	case r >= 0x10000:
		return clEmoji
	}
	return clOther
}

// escape sorts the character that an escape stands for and returns the length of
// the escape. A surrogate pair is one character of twelve bytes; a broken escape
// weighs as its bytes.
func escape(b []byte) (class, int) {
	if len(b) < 2 {
		return clSign, 1
	}
	switch b[1] {
	case 'n', 'r':
		return clNewline, 2
	case 't', 'b', 'f':
		return clTab, 2
	case '"':
		return clQuote, 2
	case 'u':
		r, ok := hex4(b[2:])
		if !ok {
			return clSign, 1
		}
		if r >= 0xd800 && r < 0xe000 {
			if len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
				if low, ok := hex4(b[8:]); ok && low >= 0xdc00 && low < 0xe000 {
					return clEmoji, 12
				}
			}
			return clOther, 6
		}
		return classOfRune(r), 6
	}
	return clSign, 2
}

// hex4 reads the four digits of a \u escape.
func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, ch := range b[:4] {
		switch {
		case '0' <= ch && ch <= '9':
			r = r<<4 | rune(ch-'0')
		case 'a' <= ch|0x20 && ch|0x20 <= 'f':
			r = r<<4 | rune(ch|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}
