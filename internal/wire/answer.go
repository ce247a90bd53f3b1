package wire

import "bytes"

// An answerFormat says how answers are read: where the usage stands, and which
// event is the last.
type answerFormat struct {
	wrapper *wrapper                      // nil = usage stands at the top level only
	kind    func(typ []byte) eventKind    // what the type of an event says
	worth   func(data []byte) bool        // an event may be the last, or tell the usage: the tracker reads it
	judge   func(e *trackedEvent) verdict // what an event is that the tracker has read
	knows   func(e *trackedEvent) bool    // whether it is an event of this format at all
	speaks  bool                          // the last event carries content, so clients wait for its blank line
}

// A wrapper is a member that usage stands in besides the top level, which
// outranks it.
type wrapper struct {
	name  string
	whole bool // it holds the whole answer: its id, model and error too
}

// chunks is the format of chat and completions: a stream ends with a chunk that
// has usage and no choices, and with [DONE]. Groq's streams put their usage into
// x_groq. Answers that are no streams have usage at the top level.
var chunks = answerFormat{
	wrapper: &wrapper{name: "x_groq"},
	kind: func(typ []byte) eventKind {
		if string(typ) == "error" {
			return kindError
		}
		return kindOther
	},
	worth: func(data []byte) bool {
		return hasUsage(data) || hasFinish(data) || hasError(data)
	},
	knows: func(e *trackedEvent) bool { return e.hasChoices || e.noChoices },
	judge: func(e *trackedEvent) verdict {
		if e.usageRank == rankTop && !e.hasChoices {
			return usageChunk
		}
		return content
	},
}

// typedEvents is the format of Responses: each event names its type, and the
// last has the whole answer in it.
var typedEvents = answerFormat{
	wrapper: &wrapper{name: "response", whole: true},
	kind:    responseKind,
	worth: func(data []byte) bool {
		typ, ok := leadingType(data)
		return !ok || responseKind(typ) != kindOther
	},
	judge: func(e *trackedEvent) verdict {
		if e.kind == kindTerminal || e.kind == kindTerminalFailed {
			return terminal
		}
		return content
	},
	knows:  func(e *trackedEvent) bool { return e.kind != kindUnknown && e.kind != kindError },
	speaks: true,
}

func responseKind(typ []byte) eventKind {
	switch string(typ) {
	case "response.completed", "response.incomplete":
		return kindTerminal
	case "response.failed":
		return kindTerminalFailed
	case "error":
		return kindError
	}
	if bytes.HasPrefix(typ, []byte("response.")) {
		return kindOther
	}
	return kindUnknown
}
