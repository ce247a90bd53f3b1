package tokens

import "unicode/utf8"

// class sorts characters by how byte-pair tokenizers treat them: scripts apart,
// because a vocabulary has few entries for some and many for others, and ASCII by
// what it is used for.
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
	clSign    // the rest of ASCII
	clLatin   // accented Latin
	clViet    // Latin letters that only Vietnamese uses, nearly all with two accents
	clGreek
	clCyrillic
	clHebrew
	clArabic
	clNagari // Devanagari, Bengali, Gurmukhi: Indic scripts that vocabularies know
	clIndic  // and those that they hardly know
	clGeorgian
	clThai
	clKana
	clHan
	clHangul
	clPunct  // punctuation and symbols beyond ASCII, full-width forms
	clOther2 // scripts without a class, two bytes a character: Armenian and others
	clOther3 // three bytes: Khmer, Ethiopic and others
	clEmoji  // four bytes
	numClasses
)

// glyph is a character as the automaton sees it: its class in the low bits, and
// above them, for a to z, its place in the alphabet from 1.
type glyph = uint16

const (
	letterShift = 8
	classMask   = 1<<letterShift - 1
	special     = glyph(numClasses) // a byte that only glyphAt can sort
)

// glyphs sorts single bytes.
var glyphs = func() (t [256]glyph) {
	for b := range t {
		switch {
		case b >= utf8.RuneSelf, b == '"', b == '\\':
			t[b] = special
		case 'a' <= b && b <= 'z':
			t[b] = glyph(clLower) | glyph(b-'a'+1)<<letterShift
		default:
			t[b] = glyph(classOfRune(rune(b)))
		}
	}
	return t
}()

// glyphAt sorts the character at the start of b and returns its length, 0 at the
// quote that ends a string.
func glyphAt(b []byte) (glyph, int) {
	switch {
	case b[0] == '"':
		return 0, 0
	case b[0] == '\\':
		return escape(b)
	case b[0] < utf8.RuneSelf:
		return glyphs[b[0]], 1
	}
	c, n := classOfBytes(b)
	return glyph(c), n
}

// leads sorts by the first byte alone what it decides alone; 0 (clLower, which no
// such byte starts) asks for the whole character.
var leads = func() (t [256]class) {
	for lead := 0xc3; lead < 0xf0; lead++ {
		first, last := rune(lead&0x1f)<<6, rune(lead&0x1f)<<6|0x3f
		if lead >= 0xe0 {
			first, last = rune(lead&0xf)<<12, rune(lead&0xf)<<12|0xfff
		}
		c := classOfRune(max(first, utf8.RuneSelf))
		for r := max(first, utf8.RuneSelf); r <= last && c != clLower; r++ {
			if classOfRune(r) != c {
				c = clLower
			}
		}
		t[lead] = c
	}
	return t
}()

// classOfBytes sorts the character at the start of b, whose first byte is not
// ASCII, and returns its length. A byte that starts no character counts alone.
func classOfBytes(b []byte) (class, int) {
	if len(b) < 2 || b[1]&0xc0 != 0x80 {
		return clOther2, 1
	}
	if c := leads[b[0]]; c != clLower && len(b) >= 3 {
		if b[0] < 0xe0 {
			return c, 2
		}
		if b[2]&0xc0 == 0x80 {
			return c, 3
		}
	}
	r, n := utf8.DecodeRune(b)
	if n == 1 {
		return clOther2, 1
	}
	return classOfRune(r), n
}

// classOfASCII sorts what most requests consist of.
func classOfASCII(b byte) class {
	switch {
	case 'a' <= b && b <= 'z':
		return clLower
	case 'A' <= b && b <= 'Z':
		return clUpper
	case '0' <= b && b <= '9':
		return clDigit
	case b == ' ':
		return clSpace
	case b == '\n', b == '\r':
		return clNewline
	case b < ' ', b == 0x7f:
		return clTab
	}
	switch b {
	case '"', '\'', '`':
		return clQuote
	case '(', ')', '[', ']', '{', '}', '<', '>':
		return clBracket
	case '.', ',', ';', ':', '!', '?':
		return clStop
	case '-', '=', '_', '*', '#', '~', '+':
		return clRule
	}
	return clSign
}

// classOfRune sorts a character.
func classOfRune(r rune) class {
	switch {
	case r < utf8.RuneSelf:
		return classOfASCII(byte(r))
	case r < 0xa0:
		return clTab
	case r < 0xc0:
		return clPunct
	case r == 0x102, r == 0x103, r == 0x110, r == 0x111, r == 0x1a0, r == 0x1a1, r == 0x1af, r == 0x1b0, 0x1e00 <= r && r < 0x1f00:
		return clViet
	case r < 0x250:
		return clLatin
	case 0x370 <= r && r < 0x400, 0x1f00 <= r && r < 0x2000:
		return clGreek
	case 0x400 <= r && r < 0x530:
		return clCyrillic
	case 0x590 <= r && r < 0x600:
		return clHebrew
	case 0x600 <= r && r < 0x780, 0xfb50 <= r && r < 0xfe00, 0xfe70 <= r && r < 0xff00:
		return clArabic
	case r < 0x800:
		return clOther2
	case 0x900 <= r && r < 0xa80:
		return clNagari
	case 0xa80 <= r && r < 0xe00:
		return clIndic
	case 0xe00 <= r && r < 0xe80:
		return clThai
	case 0x10a0 <= r && r < 0x1100, 0x1c90 <= r && r < 0x1cc0:
		return clGeorgian
	case 0x2000 <= r && r < 0x2c00, 0x3000 <= r && r < 0x3040, 0xff00 <= r && r < 0xff66:
		return clPunct
	case 0x3040 <= r && r < 0x3100, 0xff66 <= r && r < 0xffa0:
		return clKana
	case 0x3400 <= r && r < 0xa000, 0xf900 <= r && r < 0xfb00, 0x20000 <= r && r < 0x40000:
		return clHan
	case 0xac00 <= r && r < 0xd7b0, 0x1100 <= r && r < 0x1200, 0x3130 <= r && r < 0x3190:
		return clHangul
	case r >= 0x10000:
		return clEmoji
	}
	return clOther3
}

// escape sorts the character that a JSON escape stands for and returns the length
// of the escape. A surrogate pair is one character of twelve bytes; a broken
// escape weighs as its bytes.
func escape(b []byte) (glyph, int) {
	if len(b) < 2 {
		return glyph(clSign), 1
	}
	switch b[1] {
	case 'n', 'r':
		return glyph(clNewline), 2
	case 't', 'b', 'f':
		return glyph(clTab), 2
	case '"':
		return glyph(clQuote), 2
	case '\\', '/':
		return glyph(clSign), 2
	case 'u':
		r, ok := hex4(b[2:])
		switch {
		case !ok:
			return glyph(clSign), 1
		case 'a' <= r && r <= 'z':
			return glyphs[r], 6
		case r < 0xd800 || r >= 0xe000:
			return glyph(classOfRune(r)), 6
		}
		if r < 0xdc00 && len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
			if low, ok := hex4(b[8:]); ok && low >= 0xdc00 && low < 0xe000 {
				return glyph(classOfRune((r-0xd800)<<10 | (low - 0xdc00) + 0x10000)), 12
			}
		}
		return glyph(clOther3), 6
	}
	return glyph(clSign), 1
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
