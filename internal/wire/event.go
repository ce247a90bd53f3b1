package wire

import "bytes"

// identifyWithin is how many events are looked into for the answer's model and
// id before the search is given up.
const identifyWithin = 4

var (
	usageName  = []byte(`"usage`) // as usageNames begin
	usageNames = [][]byte{[]byte(`"usage"`), []byte(`"usageMetadata"`), []byte(`"usage_metadata"`)}
	finishName = []byte(`"finish_reason"`)
	errorName  = []byte(`"error"`)

	objectError = []byte(`{"object":"error"`)
)

// inspect judges an event by its data. Nearly all events are content: a search
// for a few words, or a look at their first member, lets them go. The tracker
// reads the few that may be more.
func (w *Watcher) inspect(data []byte) verdict {
	switch {
	case string(bytes.TrimSpace(data)) == "[DONE]":
		return terminal
	case !w.worthReading(data):
		return content
	case !isJSON(data):
		if w.stream.named == kindError {
			w.fail(data)
		}
		return content
	}
	w.t.reset()
	w.t.feed(data)
	return w.judge(data)
}

func (w *Watcher) worthReading(data []byte) bool {
	if w.stream.phase == usageHeld || w.stream.named == kindError || w.options.Choices > 1 || !w.known && w.stream.wholes < identifyWithin {
		return true
	}
	if w.identified < identifyWithin && (w.model == "" || w.id == "") {
		w.identified++
		return true
	}
	return w.answer.worth(data)
}

// judge is called when the tracker has read an event. data is nil if the event
// was too long to be held.
func (w *Watcher) judge(data []byte) verdict {
	e := &w.t.event
	if !w.t.done || w.t.junk {
		return content
	}
	if named := w.stream.named; e.kind == kindUnknown || named == kindError && e.kind == kindOther {
		e.kind = named
	}
	w.known = w.known || w.answer.knows(e)
	w.seen |= e.seen
	w.ending |= e.finished
	if e.wrong() || !w.opened && !w.known && isBareError(data) {
		w.fail(data)
	}
	if e.usageRank == rankTop && e.hasChoices && w.mayTrail(e) && emptyChoices(data) {
		e.hasChoices, e.noChoices = false, true
	}
	e.bare = !e.hasChoices && (e.noChoices || isEnvelope(data))
	w.learn()
	return w.answer.judge(e)
}

// mayTrail reports whether a chunk with usage can be the one behind the content:
// LiteLLM sends that with a choice whose delta is empty. Servers that tell the
// usage in every chunk have such chunks at the beginning, too.
func (w *Watcher) mayTrail(e *trackedEvent) bool {
	return e.finished == 0 && !e.wrong() && (w.finished|w.ending != 0 || w.stream.wholes > 0 && w.said == (tally{}))
}

// emptyChoices reports whether the choices of a chunk hold nothing: no finish
// reason, and nothing in a delta but the role.
func emptyChoices(chunk []byte) bool {
	choices := memberOf(chunk, "choices")
	for i := skipSpace(choices, 1); i < len(choices) && choices[i] != ']'; {
		end := scanValue(choices, i, 1)
		if end < 0 {
			return false
		}
		m := membersOf(choices[i:end])
		for m.next() {
			switch string(m.name) {
			case "index":
			case "delta", "message":
				if !emptyDelta(m.value) {
					return false
				}
			default:
				if !isEmpty(m.value) {
					return false
				}
			}
		}
		if !m.valid() {
			return false
		}
		if i = skipSpace(choices, end); i < len(choices) && choices[i] == ',' {
			i = skipSpace(choices, i+1)
		}
	}
	return len(choices) > 0 && choices[0] == '['
}

func emptyDelta(v []byte) bool {
	if isEmpty(v) {
		return true
	}
	m := membersOf(v)
	for m.next() {
		if string(m.name) != "role" && !isEmpty(m.value) {
			return false
		}
	}
	return m.valid()
}

// isEmpty reports whether a value says nothing: null, "", [] or {}.
func isEmpty(v []byte) bool {
	if isNull(v) || string(v) == `""` {
		return true
	}
	return len(v) >= 2 && (v[0] == '{' || v[0] == '[') && skipSpace(v, 1) == len(v)-1
}

// isEnvelope reports whether a chunk has nothing beside its usage but what every
// chunk repeats.
func isEnvelope(chunk []byte) bool {
	m := membersOf(chunk)
	for m.next() {
		switch string(m.name) {
		case "id", "object", "created", "model", "provider", "service_tier", "system_fingerprint", "obfuscation", "usage":
		default:
			if !isEmpty(m.value) {
				return false
			}
		}
	}
	return m.valid()
}

// hasMember reports whether data may hold a member of that name, in its quotes,
// whose value begins with one of first. The word cannot stand inside a JSON string
// with both its quotes. The tracker sees whether it is a name, and where.
func hasMember(data, name []byte, first string) bool {
	for {
		i := bytes.Index(data, name)
		if i < 0 {
			return false
		}
		data = data[i+len(name):]
		i = skipSpace(data, 0)
		if i == len(data) || data[i] != ':' {
			continue
		}
		if i = skipSpace(data, i+1); i < len(data) && bytes.IndexByte([]byte(first), data[i]) >= 0 {
			return true
		}
	}
}

// hasUsage looks for usage, or one of Gemini's names for it.
func hasUsage(data []byte) bool {
	if !bytes.Contains(data, usageName) {
		return false
	}
	for _, name := range usageNames {
		if hasMember(data, name, "{") {
			return true
		}
	}
	return false
}

func hasFinish(data []byte) bool { return hasMember(data, finishName, `"`) }

func hasError(data []byte) bool {
	if hasMember(data, errorName, `{["t-0123456789`) || bytes.HasPrefix(data, objectError) {
		return true
	}
	typ, ok := leadingType(data)
	return ok && string(typ) == "error"
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
