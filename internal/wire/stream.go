package wire

import "bytes"

// stream is a Watcher's place in an event stream. Offsets are into the bytes at
// hand: those held, followed by those that Push just brought.
//
// Lines are the unit, not events. A comment that is a heartbeat must leave at
// once, though no blank line follows it. Some clients act on a data line before
// they see the blank one.
//
// Reading order: pushStream and readLines cut lines; line and dataLine read them;
// inspect (event.go) judges; apply decides what leaves. bound (long.go) steps in
// if too much would be held.
type stream struct {
	phase phase
	ended bool // the format's own end has been seen
	endAt int  // after the line that made the phase what it is; unused while live

	data    []byte // the bytes at hand
	own     bool   // they are in Watcher.held, not the caller's
	release int    // everything before this may leave
	at, end int    // the line being read, without its terminator
	next    int    // the line after it; while no line ends after it, the bytes from here wait
	search  int    // no line ends between next and here
	skipLF  bool   // the last line ended with a CR at the end of the bytes at hand
	begun   bool   // a line has been read: no byte order mark any more

	long     bool // the line at next is too long to hold: what was read of it has left
	longData bool // and it is a data line, read by the tracker

	// The event being read.
	open    bool      // it has field lines
	eventAt int       // start of the first that is held
	settled bool      // it has been judged: the rest of its lines follow it
	multi   bool      // its JSON goes over several data lines, read by the tracker
	named   eventKind // by its event line
	told    bool      // it has data
	wholes  int       // events with data that have ended, up to identifyWithin

	// The chunk our splice caused, while it waits to be proved the last.
	strip            bool
	stripAt, stripTo int // stripTo is 0 until its blank line has come
}

type phase uint8

const (
	live      phase = iota
	usageHeld       // a usage chunk without choices is held: content after it takes that back
	ended           // the end is held, with everything after it
	spilled         // more came after the end than is held: everything passes
)

// verdict is what an event turned out to be.
type verdict uint8

const (
	content    verdict = iota
	usageChunk         // usage, and nothing in its choices
	terminal           // the format's own end
)

var (
	byteOrderMark = []byte("\xEF\xBB\xBF")
	newline       = []byte("\n")
)

func (w *Watcher) pushStream(p []byte) []byte {
	s := &w.stream
	if s.phase == spilled {
		return p
	}
	// Without anything held the caller's bytes are read, and returned, in place.
	s.data, s.own = p, len(w.held) > 0
	if s.own {
		w.held = append(w.held, p...)
		s.data = w.held
	}
	w.readLines()
	w.bound()
	defer w.count()
	data, n := s.data, s.release
	s.data, s.release = nil, 0
	s.move(n)
	if s.own {
		return w.release(data, n)
	}
	w.held = append(w.held[:0], data[n:]...)
	return data[:n:n]
}

// move lowers the offsets after the bytes before them have gone.
func (s *stream) move(n int) {
	s.at, s.end, s.next, s.search = s.at-n, s.end-n, s.next-n, s.search-n
	s.eventAt, s.endAt, s.stripAt = s.eventAt-n, s.endAt-n, s.stripAt-n
	if s.stripTo > 0 {
		s.stripTo -= n
	}
}

func (w *Watcher) readLines() {
	s := &w.stream
	for s.next < len(s.data) {
		if s.skipLF {
			s.skipLF = false
			if s.data[s.next] == '\n' {
				w.joinLF()
				continue
			}
		}
		end := lineEnd(s.data, max(s.search, s.next))
		if end < 0 {
			if s.search = len(s.data); s.long {
				w.passLong(len(s.data))
			}
			return
		}
		s.at, s.end, s.next = s.next, end, end+1
		if s.data[end] == '\r' {
			if s.skipLF = s.next == len(s.data); !s.skipLF && s.data[s.next] == '\n' {
				s.next++
			}
		}
		w.line()
	}
}

// lineEnd returns the index of the first line terminator at or after from: LF,
// CR or CRLF, as the standard says; -1 for none.
func lineEnd(b []byte, from int) int {
	end := bytes.IndexByte(b[from:], '\n')
	if end < 0 {
		end = len(b) - from
	}
	if cr := bytes.IndexByte(b[from:from+end], '\r'); cr >= 0 {
		return from + cr
	}
	if from+end == len(b) {
		return -1
	}
	return from + end
}

// joinLF gives an LF that was cut off from its CR the fate of that CR.
func (w *Watcher) joinLF() {
	s := &w.stream
	if s.release == s.next {
		s.release++
	}
	if s.strip && s.stripTo == s.next {
		s.stripTo++
	}
	s.next++
}

// line reads the line from at to end.
func (w *Watcher) line() {
	s := &w.stream
	if s.long {
		w.endLong()
		return
	}
	line := s.data[s.at:s.end]
	if !s.begun {
		s.begun = true
		line = bytes.TrimPrefix(line, byteOrderMark)
	}
	if len(line) == 0 {
		w.endEvent()
		w.pass()
		return
	}
	switch name, value := cutField(line); string(name) {
	case "data":
		w.openEvent()
		w.dataLine(value)
	case "event":
		w.openEvent()
		s.named = w.answer.kind(value)
	case "id", "retry":
		w.openEvent()
	}
	w.pass()
}

// cutField splits a line as the standard says: one space after the colon does
// not count, and a line without a colon is all name. A comment has no name.
func cutField(line []byte) (name, value []byte) {
	name, value, _ = bytes.Cut(line, []byte{':'})
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	return name, value
}

// openEvent notes where the event starts. Its fields before data are held, so
// that a chunk that is to be stripped can go with all its lines.
func (w *Watcher) openEvent() {
	if s := &w.stream; !s.open {
		s.open, s.eventAt = true, s.at
	}
}

// pass lets the lines up to next leave, unless they may belong to the end.
func (w *Watcher) pass() {
	if s := &w.stream; s.phase == live && (!s.open || s.settled) {
		s.release = s.next
	}
}

// dataLine judges the event as soon as its JSON is whole, which is normally on
// its only data line. A further data line is a new event, because some servers
// leave out the blank line and some clients read that.
func (w *Watcher) dataLine(value []byte) {
	s := &w.stream
	if s.strip && s.stripTo == 0 {
		s.stripTo = s.at
	}
	if s.settled {
		w.commit()
		s.settled, s.eventAt = false, s.at
	}
	s.told = true
	if !s.multi && whole(value) {
		w.apply(w.inspect(value))
		return
	}
	if !s.multi {
		s.multi = true
		w.t.reset()
	}
	w.t.feed(value)
	w.t.feed(newline)
	if w.t.done {
		s.multi = false
		w.apply(w.judge(s.eventData()))
	}
}

// eventData puts the data lines of the event being read together; nil if a part of
// it has left.
func (s *stream) eventData() (data []byte) {
	if s.eventAt < s.release {
		return nil
	}
	for lines := s.data[s.eventAt:s.end]; len(lines) > 0; {
		line := lines
		if end := lineEnd(lines, 0); end >= 0 {
			line, lines = lines[:end], lines[end+1:]
		} else {
			lines = nil
		}
		if name, value := cutField(line); string(name) == "data" {
			data = append(append(data, value...), '\n')
		}
	}
	return data
}

// whole reports whether data is not the first of several lines of an object.
func whole(data []byte) bool {
	data = bytes.TrimSpace(data)
	return len(data) == 0 || data[0] != '{' || data[len(data)-1] == '}'
}

// endEvent is called at a blank line. No client can read an event whose JSON is
// still not whole then, so it goes on unjudged.
func (w *Watcher) endEvent() {
	s := &w.stream
	if s.strip && s.stripTo == 0 {
		s.stripTo = s.next
	}
	if s.told {
		w.commit()
	}
	s.open, s.settled, s.multi, s.named, s.told = false, false, false, kindUnknown, false
}

// commit is called at the end of an event with data: clients have it now.
func (w *Watcher) commit() {
	w.stream.wholes = min(w.stream.wholes+1, identifyWithin)
	w.finished |= w.ending
	w.ending = 0
}

// apply decides what an event's verdict means for what is held. What is not
// released is held.
func (w *Watcher) apply(v verdict) {
	s := &w.stream
	w.opened = true
	if s.phase == ended {
		return // nobody reads on after the end; it stays together with it
	}
	switch v {
	case content:
		s.settled = true
		if s.phase == usageHeld {
			// The chunk held was not the last. Ours always is: if choices follow,
			// the upstream sent it by itself, and it goes on as it came.
			if w.t.event.hasChoices {
				s.strip = false
			}
			w.resume()
		}
	case usageChunk:
		if s.phase == usageHeld {
			s.release = max(s.release, s.eventAt) // the one before was not the last
		}
		s.phase, s.endAt = usageHeld, s.next
		s.strip = w.options.StripUsage && w.t.event.bare && s.eventAt >= s.release
		s.stripAt, s.stripTo = s.eventAt, 0
	case terminal:
		s.phase, s.ended, s.endAt = ended, true, s.next
	}
}

// resume goes back to live, without the chunk to be stripped if there is one.
func (w *Watcher) resume() {
	w.cut()
	w.stream.phase = live
}

// cut takes the chunk that our splice caused out of the bytes at hand.
func (w *Watcher) cut() {
	s := &w.stream
	if !s.strip {
		return
	}
	s.strip = false
	if !s.own { // the caller's bytes are not ours to move
		w.held = append(w.held[:0], s.data...)
		s.own = true
	}
	n := s.stripTo - s.stripAt
	w.held = append(w.held[:s.stripAt], s.data[s.stripTo:]...)
	s.data = w.held
	s.move(n)
}

// closeStream reads what is left as if its terminators had come.
func (w *Watcher) closeStream() {
	s := &w.stream
	s.data, s.own = w.held, true
	if s.next < len(s.data) || s.long {
		s.at, s.end, s.next = s.next, len(s.data), len(s.data)
		w.line()
	}
	w.endEvent()
	w.cut()
	w.held, s.data = s.data, nil
}
