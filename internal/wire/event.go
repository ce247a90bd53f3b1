package wire

import "bytes"

// identifyWithin is how many events are looked into for the answer's model and
// id before the search is given up.
const identifyWithin = 4

var (
	usageName   = []byte(`"usage`)
	errorPrefix = []byte(`{"error"`)
)

// inspect judges an event by its data. Nearly all events are content: a search
// for a word, or a look at their first member, lets them go. The tracker reads
// the few that may be more.
func (w *Watcher) inspect(data []byte) verdict {
	if string(bytes.TrimSpace(data)) == "[DONE]" {
		return terminal
	}
	if !w.worthReading(data) || !isJSON(data) {
		return content
	}
	w.t.reset()
	w.t.feed(data)
	return w.judge()
}

func (w *Watcher) worthReading(data []byte) bool {
	if w.stream.phase == usageHeld || w.stream.named == kindError {
		return true
	}
	if w.identified < identifyWithin && (w.model == "" || w.id == "") {
		w.identified++
		return true
	}
	return w.answer.worth(data)
}

// judge is called when the tracker has read an event.
func (w *Watcher) judge() verdict {
	e := &w.t.event
	if !w.t.done || w.t.junk {
		return content
	}
	if e.kind == kindUnknown {
		e.kind = w.stream.named
	}
	w.learn()
	return w.answer.judge(e)
}

// hasUsage reports whether data may hold a member usage, or one of Gemini's name for it, that
// is an object. The word cannot stand inside a JSON string with both its quotes. The
// tracker sees whether it is a name, and at the top level.
func hasUsage(data []byte) bool {
	for {
		i := bytes.Index(data, usageName)
		if i < 0 {
			return false
		}
		data = data[i+len(usageName):]
		for _, more := range [...]string{"Metadata", "_metadata"} {
			data = bytes.TrimPrefix(data, []byte(more))
		}
		if len(data) == 0 || data[0] != '"' {
			continue
		}
		data = data[1:]
		i = skipSpace(data, 0)
		if i == len(data) || data[i] != ':' {
			continue
		}
		if i = skipSpace(data, i+1); i < len(data) && data[i] == '{' {
			return true
		}
	}
}

// leadingType returns the value of type where that is an object's first member,
// as every known server of Responses writes it.
func leadingType(data []byte) (typ []byte, ok bool) {
	i := skipSpace(data, 0)
	if i == len(data) || data[i] != '{' {
		return nil, false
	}
	i = skipSpace(data, i+1)
	if !bytes.HasPrefix(data[i:], []byte(`"type"`)) {
		return nil, false
	}
	i = skipSpace(data, i+len(`"type"`))
	if i == len(data) || data[i] != ':' {
		return nil, false
	}
	i = skipSpace(data, i+1)
	if i == len(data) || data[i] != '"' {
		return nil, false
	}
	end := bytes.IndexByte(data[i+1:], '"')
	if end < 0 {
		return nil, false
	}
	typ = data[i+1 : i+1+end]
	return typ, bytes.IndexByte(typ, '\\') < 0
}
