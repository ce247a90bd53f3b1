package wire

import "bytes"

// If an event or a line is too long to hold, the tracker reads it and it passes,
// all but the line's terminator. The terminator decides for every client whether
// the event has happened. So usage behind a megabyte of text is found and held
// back in constant memory.

// bound lets go what has grown beyond what may be held: an event that is not whole yet,
// or what follows the end. The end itself is held whatever its size.
func (w *Watcher) bound() {
	s := &w.stream
	from := s.release
	if s.phase != live {
		from = s.endAt
	}
	most := w.most(len(s.data) - from)
	if len(s.data)-from <= most {
		return
	}
	w.opened = true
	switch s.phase {
	case ended:
		w.cut()
		s.phase, s.release = spilled, len(s.data)
		return
	case usageHeld:
		if s.strip && s.stripTo == 0 {
			s.stripTo = s.next
		}
		w.resume()
		s.spill(s.next)
	}
	switch {
	case len(s.data)-s.release <= most:
	case len(s.data)-s.next > most/2:
		w.beginLong()
	default:
		// An event of very many lines: all but its last terminator leaves.
		s.spill(s.end)
	}
}

// most is how many bytes may be held, of n that would be.
func (w *Watcher) most(n int) int {
	if n <= holdUnasked {
		w.short = false
		return holdEvents
	}
	if w.short = !w.options.Memory.TryResize(int64(max(n, cap(w.held)+cap(w.spare)))); w.short {
		return holdUnasked
	}
	return holdEvents
}

// spill lets a part of the event being read leave before it is judged.
func (s *stream) spill(to int) {
	s.release = to
	s.eventAt = to - 1 // which tells apply that it cannot be stripped any more
}

// beginLong lets the start of a line leave that is too long to hold, and has
// the tracker read it as it passes.
func (w *Watcher) beginLong() {
	s := &w.stream
	line := s.data[s.next:]
	if !s.begun {
		s.begun = true
		line = bytes.TrimPrefix(line, byteOrderMark)
	}
	name, value := cutField(line)
	s.long, s.longData = true, string(name) == "data"
	if s.longData {
		s.open, s.settled = true, false
		if !s.multi {
			s.multi = true
			w.t.reset()
		}
		w.t.feed(value)
	}
	s.next, s.search = len(s.data), len(s.data)
	s.spill(len(s.data))
}

// passLong lets more of a long line leave.
func (w *Watcher) passLong(to int) {
	s := &w.stream
	if s.longData {
		w.t.feed(s.data[s.next:to])
	}
	s.next, s.search = to, to
	s.spill(to)
}

// endLong is called at the end of a long line. Its terminator waits for the
// verdict: until the client has that, it has no event.
func (w *Watcher) endLong() {
	s := &w.stream
	next := s.next
	s.next = s.at
	w.passLong(s.end)
	s.next, s.search, s.long = next, next, false
	if s.longData {
		w.t.feed(newline)
		if w.t.done {
			s.multi = false
			w.apply(w.judge(nil))
		}
	}
	w.pass()
}
