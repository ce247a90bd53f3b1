package wire

// tracker reads one JSON value of any size as it passes. It keeps the few members
// that tell what the answer is and what it cost: those of the top level and of
// the wrapper. It works on any split of the bytes, in constant memory, and
// allocates only to keep what it found.
//
// It follows structure and checks little grammar, because an answer goes to the
// client whatever it is. The validating walk checks what is kept (parseUsage).
//
// Reading order: feed is the whole automaton; begin, open, endString and endValue
// are its steps; tracked.go says what is kept.
type tracker struct {
	format *answerFormat

	depth    int
	done     bool // the value has ended
	junk     bool // and something else followed, or its end is another kind's
	inString bool
	escaped  bool // after a backslash in a string
	inScalar bool // in a number or a word

	// Names are read in the top object, in one object inside it, and in the choices.
	objects  [depthChoice + 1]bool // objects[d]: the container at depth d is an object we read names in
	inside   slot                  // the member whose object is open at depth 2
	wantName bool
	inName   bool
	name     [64]byte // raw; a longer name is none of ours, however it is escaped
	nameLen  int
	member   slot // of the value that comes next, or is being read

	capturing bool
	overflow  bool
	kept      []byte // the raw value so far

	wantFirst bool // directly after the [ of choices
	inChoices bool
	choice    int64 // index of the choice being read
	ends      bool  // it has a finish reason
	event     trackedEvent
}

// depthChoice is where the objects in choices stand.
const depthChoice = 3

// reset makes the tracker ready for another value.
func (t *tracker) reset() {
	*t = tracker{format: t.format, kept: t.kept[:0]}
}

// plain marks the bytes that an object or array we don't read can be skipped over.
var plain = func() (p [256]bool) {
	for i := range p {
		p[i] = true
	}
	for _, c := range []byte(`"[]{}`) {
		p[c] = false
	}
	return p
}()

// feed reads the next bytes of the value.
func (t *tracker) feed(p []byte) {
	from := 0 // where the captured part of p starts
	for i := 0; i < len(p); {
		if t.done {
			t.junk = t.junk || skipSpace(p, i) < len(p)
			return
		}
		if t.inString {
			end := t.stringEnd(p, i)
			if t.inName {
				t.addName(p[i:end])
			}
			i = end
			if t.inString { // p ended first
				break
			}
			t.endString(p[from:i])
			continue
		}
		// Where no names are read, only what opens and closes matters: of an answer
		// of embeddings that is nearly every byte.
		if t.depth > 0 && !t.reading() && !t.wantFirst {
			for i < len(p) && plain[p[i]] {
				i++
			}
			if i == len(p) {
				break
			}
		}
		c := p[i]
		if t.inScalar && (c <= ' ' || c == ',' || c == '}' || c == ']') {
			t.inScalar = false
			t.endValue(p[from:i])
		}
		if c <= ' ' {
			i++
			continue
		}
		if t.wantFirst {
			t.wantFirst = false
			t.event.noChoices = c == ']'
			t.event.hasChoices = t.event.hasChoices || c != ']'
		}
		switch c {
		case '"':
			t.inString = true
			t.inName = t.reading() && t.wantName
			if t.inName {
				t.nameLen = 0
			} else if t.begin() {
				from = i
			}
		case '{', '[':
			if t.begin() {
				from = i
			}
			t.open(c)
		case '}', ']':
			if t.depth > 0 {
				if t.depth == depthChoice && t.inChoices {
					t.endChoice()
				}
				t.depth--
				t.junk = t.depth == 0 && t.objects[1] != (c == '}')
				t.endValue(p[from : i+1])
			}
		case ',':
			if t.reading() {
				t.wantName, t.member = true, none
			}
		case ':':
			t.wantName = false
		default:
			if !t.inScalar {
				t.inScalar = true
				if t.begin() {
					from = i
				}
			}
		}
		i++
	}
	if t.capturing {
		t.keep(p[from:])
	}
}

// reading reports whether names are read in the innermost container.
func (t *tracker) reading() bool { return t.depth < len(t.objects) && t.objects[t.depth] }

// atMember reports whether the next value is that of a member we read.
func (t *tracker) atMember() bool { return t.reading() && t.member != none && !t.wantName }

// begin is called at a value's first byte and reports whether it is captured.
func (t *tracker) begin() bool {
	if !t.atMember() || t.capturing {
		return false
	}
	switch t.member {
	case slotChoices, slotWrapper:
		return false
	}
	t.capturing, t.overflow = true, false
	t.kept = t.kept[:0]
	return true
}

// open enters an object or array. Names are read in the top object, and inside
// the members that wrap a whole answer.
func (t *tracker) open(c byte) {
	member := none
	if t.atMember() {
		member = t.member
	}
	t.inScalar = false
	t.depth++
	if t.depth < len(t.objects) {
		t.objects[t.depth] = c == '{' && (t.depth == 1 || member == slotWrapper || t.depth == depthChoice && t.inChoices)
		if t.objects[t.depth] {
			t.wantName = true
			if t.depth < depthChoice {
				t.inside = member
			} else {
				t.choice, t.ends = 0, false
			}
		}
	}
	t.wantFirst = c == '[' && member == slotChoices
	if t.depth < depthChoice {
		t.inChoices = t.wantFirst
	}
}

// endChoice notes the choice that has just been read.
func (t *tracker) endChoice() {
	t.event.seen |= 1 << t.choice
	if t.ends {
		t.event.finished |= 1 << t.choice
	}
}

// endString is called after the closing quote; tail is the captured part of the
// bytes at hand.
func (t *tracker) endString(tail []byte) {
	if t.inName {
		t.inName = false
		t.member = none
		if t.nameLen <= len(t.name) {
			t.member = t.slotOf(unescape(t.name[:t.nameLen-1])) // without the quote
		}
		return
	}
	t.endValue(tail)
}

// endValue is called when a value ends, with the depth already that of its parent.
func (t *tracker) endValue(tail []byte) {
	if t.depth == 0 {
		t.done = true
		return
	}
	if !t.reading() {
		return
	}
	if t.depth == 1 && t.inside != none && t.member == none {
		t.member = t.inside // its object has just closed
	}
	if t.depth == 1 {
		t.inside = none
	}
	if t.capturing {
		t.keep(tail)
		t.capturing = false
		if !t.overflow {
			t.found(t.member, t.kept)
		} else if t.member == slotError {
			t.event.failed = true
		}
	} else if t.member == slotChoices && !t.event.hasChoices {
		t.event.noChoices = true // [] or null
	}
	t.member = none
}

// keep takes part of a captured value. One that is too long is given up, not cut.
func (t *tracker) keep(b []byte) {
	if t.overflow || len(t.kept)+len(b) > maxKept {
		t.overflow = true
		return
	}
	t.kept = append(t.kept, b...)
}

// addName counts past the end of name, which marks the name as none of ours.
func (t *tracker) addName(b []byte) {
	if t.nameLen <= len(t.name) {
		copy(t.name[min(t.nameLen, len(t.name)):], b)
	}
	t.nameLen += len(b)
}

// stringEnd returns the index after the string's closing quote, or len(p) when
// it is not in p.
func (t *tracker) stringEnd(p []byte, i int) int {
	for i < len(p) {
		if t.escaped {
			t.escaped = false
			i++
			continue
		}
		if i = nextStop(p, i); i == len(p) {
			break
		}
		switch p[i] {
		case '"':
			t.inString = false
			return i + 1
		case '\\':
			t.escaped = true
		}
		i++
	}
	return i
}
