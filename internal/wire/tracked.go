package wire

// trackedEvent is what one value said. tracker.reset clears it, but for the
// memory that kept uses.
type trackedEvent struct {
	usage      tally
	usageRank  usageRank
	hasChoices bool // choices is there and not empty
	noChoices  bool // choices is there and empty or null
	bare       bool // it has usage, and nothing else that a client would miss
	failed     bool
	seen       uint64    // a bit for each choice in choices, by its index
	finished   uint64    // those that have a finish reason
	kind       eventKind // of the member type
	model, id  []byte    // views of strings kept below
	strings    [2][maxKeptString]byte
}

// usageRank says where usage was found; a higher one outranks a lower.
type usageRank uint8

const (
	rankNone usageRank = iota
	rankForeign
	rankWrapped
	rankTop
)

const (
	maxChoice     = 63      // choices beyond it are taken for it
	maxKeptString = 256     // bytes of a model or id
	maxKept       = 8 << 10 // bytes of a usage or error object
)

// slot is a member we read.
type slot uint8

const (
	none slot = iota
	slotModel
	slotID
	slotUsage
	slotForeignUsage
	slotChoices
	slotType
	slotError
	slotStatus
	slotWrapper
	slotObject
	slotIndex  // of a choice
	slotFinish // likewise
)

// eventKind is what the type of an event says, or the name in its event line,
// which repeats the type.
type eventKind uint8

const (
	kindUnknown        eventKind = iota
	kindOther                    // a type that ends nothing
	kindError                    // something failed, and more may come
	kindTerminal                 // the last event
	kindTerminalFailed           // the last event, of an answer that failed
)

// slotOf says which member a name means where it stands.
func (t *tracker) slotOf(name []byte) slot {
	if t.depth == depthChoice {
		switch string(name) {
		case "index":
			return slotIndex
		case "finish_reason":
			return slotFinish
		case "error":
			return slotError
		case "usage": // Moonshot's streams
			return slotForeignUsage
		}
		return none
	}
	if string(name) == "usage" {
		return slotUsage
	}
	if t.inside == slotWrapper && !t.format.wrapper.whole {
		return none
	}
	switch string(name) {
	case "error":
		return slotError
	case "model":
		return slotModel
	case "id":
		return slotID
	case "status":
		return slotStatus
	}
	if t.inside != none {
		return none
	}
	switch string(name) {
	case "usageMetadata", "usage_metadata": // Gemini's own, which some gateways let through
		return slotForeignUsage
	case "choices":
		return slotChoices
	case "type":
		return slotType
	case "object":
		return slotObject
	}
	if w := t.format.wrapper; w != nil && string(name) == w.name {
		return slotWrapper
	}
	return none
}

// found notes a captured member.
func (t *tracker) found(m slot, v []byte) {
	e := &t.event
	switch m {
	case slotUsage, slotForeignUsage:
		// The last of equal rank counts: repeated usage is cumulative.
		rank := rankTop
		switch {
		case m == slotForeignUsage:
			rank = rankForeign
		case t.inside == slotWrapper:
			rank = rankWrapped
		}
		if rank < e.usageRank {
			return
		}
		if u, ok := readUsage(v); ok {
			e.usage, e.usageRank = u, rank
		}
	case slotModel:
		e.model = keepString(e.strings[0][:0], v)
	case slotID:
		e.id = keepString(e.strings[1][:0], v)
	case slotType:
		if len(v) >= 2 && v[0] == '"' {
			e.kind = t.format.kind(unescape(v[1 : len(v)-1]))
		}
	case slotStatus:
		if string(v) == `"failed"` {
			e.failed = true
		}
	case slotError:
		e.failed = e.failed || !isNull(v) && string(v) != "false" && string(v) != `""`
	case slotObject:
		e.failed = e.failed || string(v) == `"error"`
	case slotIndex:
		if n, ok := intValue(v); ok {
			t.choice = min(max(n, 0), maxChoice)
		}
	case slotFinish:
		if len(v) > 2 && v[0] == '"' {
			t.ends = true
			e.failed = e.failed || string(v) == `"error"`
		}
	}
}

// wrong reports that the event says that something failed.
func (e *trackedEvent) wrong() bool {
	return e.failed || e.kind == kindTerminalFailed || e.kind == kindError
}

// keepString decodes into buf; a model or id that is too long for it is unknown.
func keepString(buf, v []byte) []byte {
	if len(v) < 2 || v[0] != '"' || len(v) > maxKeptString {
		return nil
	}
	return append(buf, unescape(v[1:len(v)-1])...)
}
