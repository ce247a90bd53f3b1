package wire

import (
	"encoding/binary"
	"math/bits"
)

// Reading order: scanValue, then scanContainer, which holds the grammar's only
// loop, then the leaves. Every function takes the index where its value starts.
// It returns the index after the value, or -1 if the bytes are not JSON (RFC
// 8259). The accepted language is that of encoding/json's Valid, which FuzzWalk
// checks. So invalid UTF-8 inside strings passes.

// maxDepth is the deepest nesting accepted, encoding/json's own limit.
const maxDepth = 10000

// isJSON reports whether b is one JSON value.
func isJSON(b []byte) bool {
	end := scanValue(b, skipSpace(b, 0), 0)
	return end >= 0 && skipSpace(b, end) == len(b)
}

// scanValue returns the end of the value that starts at b[i], which must not be
// white space. depth is the number of containers already open around it.
func scanValue(b []byte, i, depth int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '{', '[':
		return scanContainer(b, i, depth)
	case '"':
		return scanString(b, i)
	case 't':
		return scanWord(b, i, "true")
	case 'f':
		return scanWord(b, i, "false")
	case 'n':
		return scanWord(b, i, "null")
	default:
		return scanNumber(b, i)
	}
}

// scanContainer walks an object or array without recursion: a hostile body
// costs one bit per level, on the stack, instead of a frame.
func scanContainer(b []byte, i, outer int) int {
	var (
		objects  [maxDepth/64 + 1]uint64 // bit d: the container at depth d is an object
		depth    int                     // of the innermost open container
		inObject bool
	)
	for {
		i = skipSpace(b, i)
		if inObject {
			if i = scanName(b, i); i < 0 {
				return -1
			}
		}
		if i >= len(b) {
			return -1
		}
		if c := b[i]; c == '{' || c == '[' {
			depth++
			if depth+outer > maxDepth {
				return -1
			}
			inObject = c == '{'
			if inObject {
				objects[depth>>6] |= 1 << (depth & 63)
			} else {
				objects[depth>>6] &^= 1 << (depth & 63)
			}
			i = skipSpace(b, i+1)
			if i >= len(b) {
				return -1
			}
			// An empty container closes here; anything else is read by the next round.
			if b[i] != c+2 { // '{'+2 is '}' and '['+2 is ']'
				continue
			}
		} else if i = scanValue(b, i, 0); i < 0 {
			return -1
		} else {
			i = skipSpace(b, i)
			if i >= len(b) {
				return -1
			}
			if b[i] == ',' {
				i++
				continue
			}
		}
		for { // one round per container that closes here
			closer := byte(']')
			if inObject {
				closer = '}'
			}
			if i >= len(b) || b[i] != closer {
				return -1
			}
			i++
			if depth--; depth == 0 {
				return i
			}
			inObject = objects[depth>>6]>>(depth&63)&1 != 0
			i = skipSpace(b, i)
			if i < len(b) && b[i] == ',' {
				i++
				break
			}
		}
	}
}

// scanName reads a member's name, its colon and the space around it, and
// returns where the value starts.
func scanName(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	if i = scanString(b, i); i < 0 {
		return -1
	}
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != ':' {
		return -1
	}
	return skipSpace(b, i+1)
}

// skipSpace returns the index of the next byte that is not JSON white space.
func skipSpace(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

func scanString(b []byte, i int) int {
	i++
	for {
		i = nextStop(b, i)
		if i >= len(b) || b[i] < ' ' {
			return -1
		}
		if b[i] == '"' {
			return i + 1
		}
		if i = scanEscape(b, i); i < 0 {
			return -1
		}
	}
}

// nextStop returns the index of the next quote, backslash or control character,
// len(b) if there is none. It reads eight bytes at a time: nearly all bytes of a
// request are inside strings, and an image is one string of megabytes.
func nextStop(b []byte, i int) int {
	for i+8 <= len(b) {
		if m := stringStops(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	for i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// stringStops marks, by the high bit of its lowest set byte, the first of eight
// bytes that a string scan must look at: a quote, a backslash or a control
// character. Marks above the first may be false (the borrow of the well-known
// zero-byte trick), hence only the first is used.
func stringStops(w uint64) uint64 {
	const (
		ones = 0x0101010101010101
		high = 0x8080808080808080
	)
	quote := w ^ ones*'"'
	slash := w ^ ones*'\\'
	return ((w - ones*' ') &^ w & high) | ((quote - ones) &^ quote & high) | ((slash - ones) &^ slash & high)
}

// scanEscape accepts lone surrogates, as encoding/json does: what to make of
// them is the upstream's affair.
func scanEscape(b []byte, i int) int {
	if i+1 >= len(b) {
		return -1
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		if _, ok := hex4(b[i+2:]); ok {
			return i + 6
		}
	}
	return -1
}

func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func scanWord(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

// scanNumber checks the grammar only; what a number is worth, and whether it fits
// anything, is asked of the few we read (intValue).
func scanNumber(b []byte, i int) int {
	if i < len(b) && b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	default:
		if i = scanDigits(b, i); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i] == '.' {
		if i = scanDigits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return scanDigits(b, i)
	}
	return i
}

// scanDigits wants at least one digit.
func scanDigits(b []byte, i int) int {
	from := i
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	if i == from {
		return -1
	}
	return i
}
