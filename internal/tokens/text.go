package tokens

// unit is the fixed point of all weights: this many make one token.
const unit = 1 << 12

// state remembers just enough of what came before a character to tell how likely
// a token begins at it: how far into a word, a number or a run of signs we are.
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
	stCap1 // n capitals; stCap3 stays
	stCap2
	stCap3
	stMixed // letters after digits or after a change of case: identifiers, hashes, base64
	stDig1  // n digits into a group of three
	stDig2
	stDig3
	stMix1 // the same inside a word
	stMix2
	stMix3
	stQuote // one sign after something else
	stBracket
	stStop
	stRule
	stSign
	stSigns     // several
	stRules     // a drawn line
	stGreek     // inside a run of one script, in the order of the classes
	stScriptEnd = stGreek + state(numClasses-clGreek)
	numStates   = int(stScriptEnd)
)

// next is where a character of a class leads from a state.
func next(s state, c class) state {
	inWord := s >= stLow1 && s <= stMixed
	inDigits := s >= stDig1 && s <= stMix3
	switch {
	case c == clLower, c == clLatin, c == clViet:
		switch {
		case s >= stLow1 && s < stLow8:
			return s + 1
		case s == stLow8, s == stMixed:
			return s
		case s == stCap1:
			return stLow2
		case s == stCap2, s == stCap3, inDigits:
			return stMixed
		}
		return stLow1
	case c == clUpper:
		switch {
		case s == stCap1, s == stCap2:
			return s + 1
		case s == stCap3:
			return s
		case inWord, inDigits:
			return stMixed
		}
		return stCap1
	case c == clDigit:
		switch {
		case s == stDig1, s == stDig2, s == stMix1, s == stMix2:
			return s + 1
		case s == stMix3, inWord:
			return stMix1
		}
		return stDig1
	case c == clSpace && s != stNewline:
		if s == stSpace || s == stSpaces {
			return stSpaces
		}
		return stSpace
	case c == clTab && s != stNewline:
		return stSpaces
	case c == clSpace, c == clTab, c == clNewline:
		return stNewline
	case c <= clSign:
		switch {
		case c == clRule && (s == stRule || s == stRules):
			return stRules
		case s >= stQuote && s <= stRules:
			return stSigns
		}
		return stQuote + state(c-clQuote)
	}
	return stGreek + state(c-clGreek)
}

// cell is one step of the automaton: what it costs, in 1/unit tokens, and the row
// of the state that it leads to.
type cell struct{ cost, row uint16 }

// The automaton as one table. Rows are a power of two long, so that an index is a
// row, a class and a mask that spares the bounds check.
const (
	rowBits = 5
	rows    = 64
)

var steps = func() (t [rows << rowBits]cell) {
	for s := range state(numStates) {
		for c := range numClasses {
			t[int(s)<<rowBits|int(c)] = cell{cost: stepWeights[s][c], row: uint16(next(s, c)) << rowBits}
		}
	}
	return t
}()

// pairs is what a small letter costs more after another one: rare neighbours are
// seldom inside one token. Row and column 0 stand for anything else.
var pairs = func() (t [1 << 10]uint16) {
	for a, row := range pairWeights {
		for b, w := range row {
			t[(a+1)<<5|(b+1)] = w
		}
	}
	return t
}()

// text weighs characters as they come. The zero value is ready.
type text struct {
	cost  int64 // in 1/unit tokens
	wide  int64 // the part of cost beyond ASCII
	chars int64
}

// tokens is the cost in whole tokens.
func (t *text) tokens() int64 { return (t.cost + unit/2) / unit }

// scan weighs b, the inside of a JSON string, up to its closing quote or the end,
// and returns how many bytes that was. Escapes weigh as the characters that they
// stand for. Every scan starts anew: strings do not share tokens.
func (t *text) scan(b []byte) int {
	var (
		cost, pair uint64
		wide       uint64
		row        uint16 // of the state
		before     uint16 // the letter before, times 32
		hidden     int    // bytes that are no character of their own
		i          int
	)
	for i < len(b) {
		g := glyphs[b[i]]
		if g == special {
			var n int
			if g, n = glyphAt(b[i:]); n == 0 {
				break
			}
			i += n - 1
			hidden += n - 1
			if g >= glyph(clLatin) && g < special {
				wide += uint64(steps[(row|g)&(rows<<rowBits-1)].cost)
			}
		}
		i++
		e := steps[(row|g&classMask)&(rows<<rowBits-1)]
		letter := g >> letterShift
		cost += uint64(e.cost)
		pair += uint64(pairs[(before|letter)&(1<<10-1)])
		row, before = e.row, letter<<5
	}
	t.cost += int64(cost + pair)
	t.wide += int64(wide)
	t.chars += int64(i - hidden)
	return i
}
