package upstream

import "net/http"

// maxHeader bounds the headers of an answer. The standard library takes 10 MB, which
// no provider needs and forty answers could fill a small memory with.
const maxHeader = 256 << 10

// The bounds of what HTTP/2 keeps of one answer while its client does not read: the
// provider may send so much unasked. The standard library takes 4 MiB.
const (
	minWindow = 64 << 10
	maxWindow = 4 << 20
)

// bound keeps answers that nobody reads from filling the memory, of which all of them
// may take so many bytes; 0 = no bound.
func bound(t *http.Transport, bytes int64) {
	t.MaxResponseHeaderBytes = maxHeader
	if bytes > 0 {
		const stalled = 512 // at once, in the middle of large answers
		t.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: int(min(max(bytes/stalled, minWindow), maxWindow))}
	}
}
