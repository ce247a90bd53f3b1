package wire

import (
	"bytes"
	"slices"
)

// shape is what an answer is, by its bytes. Its label does not decide: servers
// send events as text/plain, and errors as text/event-stream.
type shape uint8

const (
	unseen      shape = iota // nothing yet but blanks and comments
	eventStream              // server-sent events
	oneValue                 // one JSON value
	unread                   // something else: it passes as it comes, and says nothing
)

// fieldNames are those that a line of an event begins with.
var fieldNames = []string{"data", "event", "id", "retry"}

// pushUnseen looks for the first byte that says what the answer is. Blanks and
// comments before it are signs of life and leave at once. No more is held than
// the beginning of a name.
func (w *Watcher) pushUnseen(p []byte) []byte {
	data := p
	if len(w.held) > 0 {
		data = append(w.held, p...)
		w.held = nil
	}
	i := 0
	for i < len(data) {
		if w.skipLine {
			end := bytes.IndexAny(data[i:], "\r\n")
			if end < 0 {
				return data
			}
			w.skipLine = false
			i += end
		}
		if i = skipSpace(data, i); i == len(data) {
			break
		}
		mark := len(byteOrderMark)
		switch rest := data[i:]; {
		case !w.marked && bytes.HasPrefix(rest, byteOrderMark):
			w.marked = true
			i += mark
		case !w.marked && len(rest) < mark && bytes.HasPrefix(byteOrderMark, rest):
			return w.keep(data, i)
		case rest[0] == ':':
			w.skipLine = true
		case (rest[0] == '{' || rest[0] == '[') && !w.opened:
			w.shape, w.list = oneValue, rest[0] == '['
			return join(data[:i], w.pushValue(rest))
		default:
			switch known, whole := fieldLine(rest); {
			case known:
				w.shape = eventStream
				return join(data[:i], w.pushStream(rest))
			case !whole:
				return w.keep(data, i)
			case !w.options.Stream:
				w.shape, w.opened = unread, true
				return data
			}
			// Events may be preceded by a line that means nothing.
			w.skipLine, w.opened = true, true
		}
	}
	return data
}

// keep holds data from i on, for the next Push.
func (w *Watcher) keep(data []byte, i int) []byte {
	w.held = append([]byte(nil), data[i:]...)
	return data[:i]
}

// join returns two parts of an answer as one.
func join(a, b []byte) []byte {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	return append(slices.Clip(a), b...)
}

// fieldLine reports whether a line begins with a name of a field. If whole is
// false, more bytes may yet make it one.
func fieldLine(line []byte) (known, whole bool) {
	whole = true
	for _, name := range fieldNames {
		switch {
		case len(line) <= len(name):
			whole = whole && name[:len(line)] != string(line)
		case string(line[:len(name)]) == name && bytes.IndexByte([]byte(":\r\n"), line[len(name)]) >= 0:
			return true, true
		}
	}
	return false, whole
}

// giveUp makes an answer one that passes unread, and returns what was held of it. That
// is counted until the next Push, because a client may take its time.
func (w *Watcher) giveUp() []byte {
	w.shape, w.opened = unread, true
	w.said = tally{}
	held := w.held
	w.held, w.spare = nil, nil
	return held
}

// pushValue reads a JSON value. What turns out to be more than one, or a list of
// them, is no answer that we know: servers stream so, and it passes.
func (w *Watcher) pushValue(p []byte) []byte {
	feed := p
	if w.list && !w.listed {
		feed, w.listed = p[1:], true
	}
	w.t.feed(feed)
	if w.t.done && !w.judged {
		w.judged = true
		w.judgeValue(p)
	}
	w.learn()
	most := len(w.held)+len(p) > holdEvents
	w.opened = w.opened || most
	if w.t.junk || w.list && (w.t.done || most) {
		return append(w.giveUp(), p...)
	}
	return w.pushJSON(p)
}

// judgeValue is called when the value has ended, in p. An error is small and
// still held.
func (w *Watcher) judgeValue(p []byte) {
	e := &w.t.event
	if len(w.held)+len(p) > holdEvents {
		return
	}
	whole := append(slices.Clip(w.held), p...)
	whole = firstValue(whole, w.list)
	if e.wrong() || !w.answer.knows(e) && e.usageRank == rankNone && isBareError(whole) {
		e.failed = true
		w.fail(whole)
		return
	}
	w.opened = true
}

// firstValue cuts the first value out of b, or the first of the list that b begins.
func firstValue(b []byte, list bool) []byte {
	i := skipSpace(b, 0)
	if list && i < len(b) {
		i = skipSpace(b, i+1)
	}
	if i < len(b) {
		if end := scanValue(b, i, 1); end > 0 {
			return b[i:end]
		}
	}
	return b[i:]
}

// Quiet says that nothing has come for a while behind a JSON value. It reports
// whether the value is the whole answer, so that the record may be written and
// Close called. If it is the first of several, as far as can be told, what is
// held is returned to be sent now, and the rest will pass unread.
func (w *Watcher) Quiet() (forward []byte, whole bool) {
	if w.closed || w.shape != oneValue || !w.t.done {
		return nil, false
	}
	e := &w.t.event
	_, known := w.said.usage(w.generates)
	if w.failed || known && (!w.options.Asked || e.finished != 0 || !e.hasChoices) || !w.options.Asked && w.answer.knows(e) {
		return nil, true
	}
	if forward = w.giveUp(); w.coded != nil {
		forward = w.illegible(nil)
	}
	return forward, false
}

// Truncated reports that an answer which ended cleanly had not come to its end. It
// must be asked before Close. A stream ends with its terminal event, with a finish
// reason, or with an error; the event that says so must have its blank line, or no
// client sees it. What is not understood is never truncated.
func (w *Watcher) Truncated() bool {
	if w.closed || w.answer == nil {
		return false
	}
	switch w.shape {
	case unseen:
		return !w.opened
	case oneValue:
		return !w.t.done && !w.list
	case eventStream:
		return w.cutShort()
	}
	return false
}

// Events reports that the answer is a stream of events, or should have been one.
func (w *Watcher) Events() bool {
	return w.shape == eventStream || w.shape == unseen && (w.options.Stream || w.options.Asked)
}

func (w *Watcher) cutShort() bool {
	s := &w.stream
	_, last := cutField(w.held[min(max(s.next, 0), len(w.held)):])
	switch {
	case s.ended:
		return s.open && w.answer.speaks
	case w.failed, s.phase != live, string(bytes.TrimSpace(last)) == "[DONE]":
		return false
	case w.known:
		return w.finished == 0 || w.options.Choices > 1 && w.seen&^w.finished != 0
	}
	return s.wholes == 0 // of another dialect: its end is its own affair
}

// Opened reports that something of the answer itself has come, beyond blanks and
// comments: from then on a fault in it cannot be undone.
func (w *Watcher) Opened() bool { return w.opened || w.answer == nil || w.closed }

// Fault returns the error that has come inside the answer since the last call, as
// the upstream wrote it but at most maxFault of it, and whether anything of the
// answer came before it. nil = none.
func (w *Watcher) Fault() (body []byte, first bool) {
	body, w.fault = w.fault, nil
	return body, w.faultFirst
}

func (w *Watcher) fail(data []byte) {
	w.failed = true
	data = errorOf(data)
	w.fault = append([]byte{}, data[:min(len(data), maxFault)]...)
	w.faultFirst = !w.opened
	w.refused = w.refused || w.faultFirst
}

// Refused reports that an error came in the place of the answer: nothing was made.
func (w *Watcher) Refused() bool { return w.refused }
