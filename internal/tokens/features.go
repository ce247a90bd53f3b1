package tokens

// The sizes of what Features returns: rows of NumClasses, one for each state, then
// 26 rows of 26 letters.
const (
	NumClasses  = int(numClasses)
	NumFeatures = numStates*NumClasses + 26*26
)

// Features counts how often scan would use each weight on the inside of a JSON
// string: the steps of the automaton row by row, then the pairs of letters. It is
// for the fitting program in fit; its product with the weights is scan's cost.
func Features(b []byte) [NumFeatures]float64 {
	var f [NumFeatures]float64
	s, before := stStart, -1
	for len(b) > 0 {
		g, n := glyphAt(b)
		if n == 0 {
			break
		}
		b = b[n:]
		c, letter := class(g&classMask), int(g>>letterShift)-1
		f[int(s)*NumClasses+int(c)]++
		if before >= 0 && letter >= 0 {
			f[numStates*NumClasses+before*26+letter]++
		}
		s, before = next(s, c), letter
	}
	return f
}

// Guess is a plain weight for every feature, for the fitting program to start
// from and to fall back on where its corpus is silent: what one would say from
// knowing how tokenizers split text and nothing else.
func Guess() (g [NumFeatures]float64) {
	for s := range state(numStates) {
		for c := range numClasses {
			g[int(s)*NumClasses+int(c)] = guess(s, c)
		}
	}
	return g
}

func guess(s state, c class) float64 {
	inWord := s >= stLow1 && s <= stMixed
	inSigns := s >= stQuote && s <= stRules
	switch c {
	case clLower:
		switch {
		case s == stMixed:
			return 0.35
		case s >= stMix1 && s <= stMix3:
			return 0.7
		case s >= stLow6 && s <= stLow8:
			return 0.15
		case inWord:
			return 0.05
		}
		return 0.8
	case clUpper:
		switch {
		case s >= stCap1 && s <= stCap3:
			return 0.3
		case s == stMixed:
			return 0.6
		}
		return 0.8
	case clDigit:
		if s == stDig1 || s == stDig2 || s == stMix1 || s == stMix2 {
			return 0
		}
		return 1
	case clSpace:
		switch s {
		case stSpaces:
			return 0.02
		case stNewline:
			return 0.05
		}
		return 0.2
	case clNewline, clTab:
		if s == stNewline {
			return 0.1
		}
		return 0.6
	case clQuote, clBracket, clStop, clRule, clSign:
		switch {
		case c == clRule && s == stRules:
			return 0.05
		case c == clRule && s == stRule:
			return 0.1
		case inSigns:
			return 0.4
		}
		return 0.8
	case clLatin, clViet:
		if inWord {
			return 0.3
		}
		return 0.8
	case clHan:
		return 0.85
	case clPunct:
		return 0.8
	case clEmoji:
		return 2
	case clOther2:
		return 1
	}
	if next(s, c) == s { // inside a run of its script
		if c == clOther3 {
			return 0.7
		}
		return 0.4
	}
	return 0.9
}
