package wire

import (
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
)

// WatchOptions say how an answer is framed and what may be done to it.
type WatchOptions struct {
	Stream     bool // the answer says that it is text/event-stream
	Asked      bool // the request asked for a stream
	Choices    int  // that the request asked for; 0 and 1 are one
	StripUsage bool // our splice asked for the usage chunk: take it out again

	Coding string       // of the answer, as its Content-Encoding says; "" = none
	Length int64        // of the answer, as it says; 0 or less = it does not
	Memory *memory.Hold // counts what is held; nil = nobody does
}

const (
	holdJSON    = 8 << 20  // bytes up to which a JSON answer is held whole
	holdFlowing = 4 << 10  // bytes held of a larger one
	holdEvents  = 64 << 10 // bytes held of a stream
	holdUnasked = 4 << 10  // bytes that are held without asking for memory
)

// Watcher reads an answer as it passes, finds its exact usage, and decides which
// bytes may leave now. An event leaves when it arrives. The terminal event, and
// whatever follows it, stays until Close, so that the ledger has its record
// before the client has its answer. Memory is bounded whatever the upstream
// sends. A Watcher is not for concurrent use.
//
// At most 64 KiB of a stream are held. The bytes of a longer line pass, and its
// terminator is held, because no client sees an event without it. If more than
// that follows the terminal event, it passes: Terminal has been true for long by
// then, and the record can be written.
//
// Where memory is short, 4 KiB stand for the 64, and a JSON answer is not held
// whole: it passes like one that is too large for that, and its usage is read all
// the same.
type Watcher struct {
	answer  *answerFormat // nil = the answer passes unread
	options WatchOptions
	closed  bool

	shape    shape
	marked   bool // a byte order mark has been read
	skipLine bool // in a line before the answer that means nothing
	list     bool // the value is a list,
	listed   bool // whose bracket has been read
	judged   bool // the value has ended

	opened     bool   // something of the answer has come
	fault      []byte // an error inside it that nobody has asked for yet
	faultFirst bool   // and nothing of the answer came before
	refused    bool   // so it was once

	t          tracker
	said       tally // of usage
	generates  bool
	failed     bool
	model      llm.Model
	id         string
	identified int // events looked into for model and id

	known            bool   // an event was of the format
	seen             uint64 // choices that have begun, where several were asked for
	ending, finished uint64 // choices with a finish reason; in the event at hand, and before it

	coded *coded // nil = the answer is not compressed

	held  []byte // received, not yet released
	spare []byte // what Push returned last, when that was not the caller's own: the two take turns
	short bool   // memory was, at the last Push

	stream stream // of an event stream

	holdJSON int  // the constant; tests lower it
	flowing  bool // a JSON answer outgrew it, or memory was short
}

// Watch returns a Watcher for one answer of ep.
func Watch(ep Endpoint, o WatchOptions) *Watcher {
	answer := ep.format().answer
	w := &Watcher{answer: answer, t: tracker{format: answer}, options: o, generates: ep.Generates(), holdJSON: holdJSON}
	if coding := codingOf(o.Coding); coding != "" {
		w.unpack(coding)
	}
	return w
}

// Push takes the next bytes of the answer and returns those that may be sent
// to the client now. The result may alias p or an internal buffer; it is valid
// until the next call, and p must not be changed before then.
func (w *Watcher) Push(p []byte) (forward []byte) {
	if w.coded != nil {
		return w.pushCoded(p)
	}
	return w.read(p)
}

// read is Push for what is not coded.
func (w *Watcher) read(p []byte) (forward []byte) {
	switch {
	case w.closed || w.answer == nil || len(p) == 0:
		return p
	case w.shape == eventStream:
		return w.pushStream(p)
	case w.shape == oneValue:
		return w.pushValue(p)
	case w.shape == unread:
		w.options.Memory.Resize(0)
		return p
	default:
		return w.pushUnseen(p)
	}
}

// Close says that the upstream ended cleanly and returns everything still held
// back, to be sent once the ledger has the record. It may be called as soon as
// Complete is true; later bytes then pass through Push untouched. After a broken
// upstream it must not be called: it would make a running total final.
func (w *Watcher) Close() (tail []byte) {
	if w.closed {
		return nil
	}
	w.closed = true
	if w.shape == eventStream {
		w.closeStream()
	}
	tail, w.held = w.held, nil
	if w.coded != nil {
		return w.closeCoded()
	}
	return tail
}

// Usage returns the exact usage seen; false = none. Zero usage is data. The last
// of several counts, because upstreams that repeat usage sum it up. Such a usage
// is a running total, and not yet known, until the stream's end is seen or Close
// says that it has come.
func (w *Watcher) Usage() (llm.Usage, bool) {
	if w.running() {
		return llm.Usage{}, false
	}
	return w.said.usage(w.generates)
}

// Told returns what the provider said of its answer besides exact counts. It may be there where usage is unknown.
func (w *Watcher) Told() llm.Told {
	if w.running() {
		return llm.Told{}
	}
	return w.said.told()
}

// running reports that what was said may still be a running total.
func (w *Watcher) running() bool {
	return w.shape == eventStream && w.stream.phase == live && !w.closed
}

// Terminal reports that the terminal event, or the whole JSON value, has been
// seen, so that the record may be written now. It becomes false again if content
// follows a chunk that looked like the final usage chunk.
func (w *Watcher) Terminal() bool {
	if w.shape == eventStream {
		return w.stream.phase != live
	}
	return w.shape == oneValue && w.t.done
}

// Complete reports that the answer ended as its format says. A stream ends by
// [DONE], or by a response.completed, incomplete or failed event; JSON ends with
// one whole value. An answer whose connection ended before that is truncated. If
// the last event carries content, SDKs act on it at its blank line. The answer is
// not complete until that has come, or Close says that none will.
func (w *Watcher) Complete() bool {
	if w.shape == eventStream {
		return w.stream.ended && !(w.stream.open && w.answer.speaks)
	}
	return w.shape == oneValue && w.t.done
}

// Short reports that memory was short at the last Push: whoever reads the answer
// should do it in small pieces, because what is held is of their size.
func (w *Watcher) Short() bool { return w.short }

// Model returns the model the upstream says it used, "" when it did not say.
func (w *Watcher) Model() llm.Model { return w.model }

// ResponseID returns the answer's id, which a later request may name as its
// previous_response_id; "" when the upstream sent none.
func (w *Watcher) ResponseID() string { return w.id }

// Failed reports an error inside the answer: an error event after a 200, or a
// response whose status is failed.
func (w *Watcher) Failed() bool { return w.failed }

// pushJSON holds an answer whole while that is cheap. Others flow (a batch of
// embeddings may have 60 MB) but for their last bytes.
func (w *Watcher) pushJSON(p []byte) []byte {
	if !w.flowing && w.grow(len(p)) {
		w.held = append(w.held, p...)
		return nil
	}
	defer w.count()
	first := !w.flowing
	w.flowing = true
	if len(w.held) == 0 && len(p) > holdFlowing {
		n := len(p) - holdFlowing
		w.held = append(w.held, p[n:]...)
		return p[:n]
	}
	if first { // what was held leaves without being copied
		return w.swap(max(0, len(w.held)-max(0, holdFlowing-len(p))), p)
	}
	w.held = append(w.held, p...)
	return w.release(w.held, max(0, len(w.held)-holdFlowing))
}

// grow makes room for n more bytes of a JSON answer that is held whole. It reports
// false if the answer is too large for that, or memory is short.
func (w *Watcher) grow(n int) bool {
	need := len(w.held) + n
	switch {
	case need > w.holdJSON || w.options.Length > int64(w.holdJSON):
		return false
	case need <= cap(w.held):
		return true
	}
	size := max(need, min(2*cap(w.held), w.holdJSON), int(w.options.Length))
	if size > holdUnasked && !w.options.Memory.TryResize(int64(size)) {
		w.short = true
		return false
	}
	w.held = append(make([]byte, 0, size), w.held...)
	return true
}

// count tells the account what the Watcher has by now.
func (w *Watcher) count() {
	n := cap(w.held) + cap(w.spare)
	if n <= 2*holdUnasked {
		n = 0
	}
	w.options.Memory.Resize(int64(n))
}

// release returns data[:n] and holds the rest. data is w.held.
func (w *Watcher) release(data []byte, n int) []byte {
	w.held = data
	return w.swap(n, nil)
}

// swap returns the first n bytes held, and holds the rest and more.
func (w *Watcher) swap(n int, more []byte) []byte {
	data := w.held
	if cap(w.spare) > 4*holdEvents || w.short {
		w.spare = nil // once was a whole answer, or others need it
	}
	w.spare = append(append(w.spare[:0], data[n:]...), more...)
	w.held, w.spare = w.spare, data
	return data[:n:n]
}

// learn takes over what the tracker found in one value.
func (w *Watcher) learn() {
	e := &w.t.event
	if e.usageRank != rankNone {
		w.said.merge(&e.usage)
	}
	if e.wrong() {
		w.failed = true
	}
	if len(e.model) > 0 && string(w.model) != string(e.model) {
		w.model = llm.Model(e.model)
	}
	if len(e.id) > 0 && w.id == "" {
		w.id = string(e.id)
	}
}
