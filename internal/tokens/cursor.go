package tokens

import "bytes"

// cursor reads JSON in place. It never fails: bytes that are no JSON are stepped
// over, because the upstream and not the estimator judges a request. Every method
// moves forward or is at the end, so a walk is linear in its bytes.
type cursor struct {
	b []byte
	i int
}

// peek skips white space and returns the next byte, 0 at the end.
func (c *cursor) peek() byte {
	for c.i < len(c.b) {
		switch ch := c.b[c.i]; ch {
		case ' ', '\t', '\n', '\r':
			c.i++
		default:
			return ch
		}
	}
	return 0
}

// enter consumes open if it comes next.
func (c *cursor) enter(open byte) bool {
	if c.peek() != open {
		return false
	}
	c.i++
	return true
}

// more reports whether another element comes before end, and consumes the comma
// before it or the end.
func (c *cursor) more(end byte) bool {
	for {
		switch c.peek() {
		case 0:
			return false
		case end:
			c.i++
			return false
		case ',', ':':
			c.i++
		case ']', '}': // the other bracket: malformed, step over it
			c.i++
		default:
			return true
		}
	}
}

// key reads a member's name and its colon. Names that are no string are skipped
// and come back empty.
func (c *cursor) key() []byte {
	if c.peek() != '"' {
		c.skip()
		return nil
	}
	k := c.str()
	if c.peek() == ':' {
		c.i++
	}
	return k
}

// str consumes a string and returns what stands between its quotes, escapes as
// they are.
func (c *cursor) str() []byte {
	start := c.i + 1
	i := start
	for {
		n := bytes.IndexByte(c.b[min(i, len(c.b)):], '"')
		if n < 0 {
			c.i = len(c.b)
			return c.b[min(start, len(c.b)):]
		}
		i += n
		if !escaped(c.b[start:i]) {
			c.i = i + 1
			return c.b[start:i]
		}
		i++
	}
}

// escaped reports whether the byte after s is taken by a backslash.
func escaped(s []byte) bool {
	n := 0
	for n < len(s) && s[len(s)-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

// skip consumes one value of any kind.
func (c *cursor) skip() {
	switch c.peek() {
	case 0:
	case '"':
		c.str()
	case '{', '[':
		c.nested()
	default:
		c.scalar()
	}
}

// nested consumes an array or object by counting brackets.
func (c *cursor) nested() {
	for depth := 0; c.i < len(c.b); {
		switch c.b[c.i] {
		case '"':
			c.str()
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		c.i++
		if depth == 0 {
			return
		}
	}
}

// scalar consumes a number, literal or whatever else stands before the next
// delimiter, at least one byte.
func (c *cursor) scalar() {
	for start := c.i; c.i < len(c.b); c.i++ {
		switch c.b[c.i] {
		case ',', ']', '}', '{', '[', '"', ':', ' ', '\t', '\n', '\r':
			if c.i > start {
				return
			}
		}
	}
}

// value consumes one value and returns its bytes.
func (c *cursor) value() []byte {
	c.peek()
	start := c.i
	c.skip()
	return bytes.TrimSpace(c.b[start:c.i])
}
