package wire

// WatchOptions say how an answer is framed and what may be done to it.
type WatchOptions struct {
	Stream     bool  // the answer is text/event-stream
	StripUsage bool  // our splice asked for the usage chunk: take it out again
	HoldJSON   int64 // hold JSON answers whole up to this size in bytes; 0 = 8 MiB
}

// Watcher reads an answer as it passes, finds its exact usage, and decides
// which bytes may leave now. Not for concurrent use.
type Watcher struct{}

// Watch returns a Watcher for one answer of ep.
func Watch(ep Endpoint, o WatchOptions) *Watcher { return &Watcher{} }

// Push takes the next bytes of the answer and returns those that may be sent
// to the client now. The result may alias p or an internal buffer; it is valid
// until the next call.
func (w *Watcher) Push(p []byte) (forward []byte) { return p }

// Close says that the upstream ended cleanly and returns everything still held
// back, to be sent once the ledger has the record.
func (w *Watcher) Close() (tail []byte) { return nil }

// Usage returns the exact usage seen; false: none. Zero usage is data.
func (w *Watcher) Usage() (Usage, bool) { return Usage{}, false }

// Terminal reports that the terminal event, or the whole JSON value, has been
// seen, so that the record may be written now.
func (w *Watcher) Terminal() bool { return false }

// Complete reports that the answer ended as its format says.
func (w *Watcher) Complete() bool { return false }

// Model returns the model the upstream says it used, "" when it did not say.
func (w *Watcher) Model() string { return "" }

// ResponseID returns the answer's id.
func (w *Watcher) ResponseID() string { return "" }

// Failed reports an error inside the answer: an error event after a 200, or a
// response of status failed. ErrorCode then has its code, or its type.
func (w *Watcher) Failed() bool { return false }

// ErrorCode returns the code, else the type, of an in-stream error.
func (w *Watcher) ErrorCode() string { return "" }
