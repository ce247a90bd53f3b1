package wire

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"iter"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
)

// A compressed answer is read beside its bytes. They pass unchanged; a decoder reads them too, and what it makes of
// them is what the Watcher reads, and drops. While the Watcher would hold back what it has read, the coded
// bytes that brought it are held: of a stream those from the end on, of a JSON answer all.
//
// What cannot be read passes, and its usage is unknown: another coding, several at once, what is no such code,
// and a bomb. Our splice's chunk stays in a coded stream.

const (
	maxDecoded = 256 << 20 // bytes of one answer
	maxWindow  = 8 << 20   // bytes that a decoder looks back at most, as RFC 9659 has it for zstd
	decodeStep = 8 << 10   // bytes of the Watcher's own at a time
)

// A decoder reads one coding. It gets the first bytes of the code beforehand, at least two of them, and tells from
// them what it will keep, in bytes.
type decoder struct {
	open  func(r *bufio.Reader, head []byte) (io.Reader, error)
	needs func(head []byte) int64
}

var decoders = map[string]decoder{
	"gzip":    {gunzip, ordinary},
	"x-gzip":  {gunzip, ordinary},
	"deflate": {inflate, ordinary},
	"br":      {unbrotli, brotliWindow},
	"zstd":    {unzstd, zstdWindow},
}

func ordinary([]byte) int64 { return 64 << 10 }

func gunzip(r *bufio.Reader, _ []byte) (io.Reader, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	z.Multistream(false) // it would look for another member before it hands over the last of this
	return &gzipMembers{Reader: z, from: r}, nil
}

// gzipMembers reads one member after another.
type gzipMembers struct {
	*gzip.Reader
	from  *bufio.Reader
	ended bool // the member at hand
}

func (z *gzipMembers) Read(p []byte) (int, error) {
	if z.ended {
		if err := z.Reset(z.from); err != nil {
			return 0, io.EOF // what follows is no member
		}
		z.Multistream(false)
		z.ended = false
	}
	n, err := z.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		z.ended, err = true, nil
	}
	return n, err
}

// inflate reads what the standard calls deflate, which is zlib's format, and what some servers take for it.
func inflate(r *bufio.Reader, head []byte) (io.Reader, error) {
	// RFC 1950: the method is 8, and both bytes are a multiple of 31.
	if head[0]&0x0F == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
		return zlib.NewReader(r)
	}
	return flate.NewReader(r), nil
}

func unbrotli(r *bufio.Reader, _ []byte) (io.Reader, error) { return brotli.NewReader(r), nil }

// brotliWindow reads how far a code looks back: RFC 7932, section 9.1.
func brotliWindow(head []byte) int64 {
	bits := 16
	switch b := head[0]; {
	case b&1 == 0:
	case b>>1&7 != 0:
		bits = 17 + int(b>>1&7)
	case b>>4&7 == 0:
		bits = 17
	default:
		bits = 8 + int(b>>4&7)
	}
	return ordinary(nil) + 1<<bits
}

func unzstd(r *bufio.Reader, _ []byte) (io.Reader, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// zstdWindow reads the same of the head of a frame: RFC 8878, section 3.1.1.
func zstdWindow(head []byte) int64 {
	const single = 1 << 5 // the frame is one segment, whose size comes later
	if len(head) < 6 || head[4]&single != 0 {
		return ordinary(nil) + maxWindow
	}
	base := int64(1) << (10 + head[5]>>3)
	return ordinary(nil) + min(maxWindow, base+base/8*int64(head[5]&7))
}

// codingOf is an answer's Content-Encoding as a name of decoders; "" = it is not coded.
func codingOf(header string) string {
	coding := strings.ToLower(strings.TrimSpace(header))
	if coding == "identity" {
		return ""
	}
	return coding
}

// Legible reports whether an answer with this Content-Encoding can be read.
func Legible(header string) bool {
	coding := codingOf(header)
	return coding == "" || decoders[coding].open != nil
}

// coded is what a Watcher has of a compressed answer.
type coded struct {
	in     []byte // what the decoder has not read yet
	wants  func() (struct{}, bool)
	stop   func()
	made   int64 // bytes decoded,
	most   int64 // of which there may be so many; tests lower it
	err    error // of the decoder, once it has ended
	ended  bool
	held   []byte // coded bytes, not yet released
	flows  bool   // too much was to be held
	needs  int64
	memory *memory.Hold
}

var (
	errStopped = errors.New("the decoder was stopped")
	errBomb    = errors.New("the answer is too large when decoded")
	errUnread  = errors.New("the answer is of no shape that is known")
	errShort   = errors.New("memory is short")
)

// unpack has the Watcher read through a decoder; without one it reads nothing.
func (w *Watcher) unpack(coding string) {
	d, known := decoders[coding]
	if w.answer == nil || !known {
		w.answer = nil
		return
	}
	// What the Watcher itself holds is small, and nobody gets it.
	c := &coded{most: maxDecoded, memory: w.options.Memory}
	w.coded, w.options.Memory, w.options.StripUsage = c, nil, false
	w.holdJSON = holdEvents
	c.wants, c.stop = iter.Pull(func(more func(struct{}) bool) {
		c.err = w.decode(d, &source{c, more})
	})
}

// decode runs beside Push, which it takes turns with.
func (w *Watcher) decode(d decoder, in io.Reader) error {
	c := w.coded
	r := bufio.NewReader(in)
	head, err := r.Peek(2)
	if err != nil {
		return err
	}
	if n := r.Buffered(); n > 2 {
		head, _ = r.Peek(n)
	}
	if c.needs = d.needs(head); !c.memory.TryResize(c.needs + int64(cap(c.held))) {
		return errShort
	}
	out, err := d.open(r, head)
	if err != nil {
		return err
	}
	if closer, ok := out.(io.Closer); ok {
		defer closer.Close()
	}
	buf := make([]byte, decodeStep)
	for err == nil {
		var n int
		n, err = out.Read(buf)
		if c.made += int64(n); c.made > c.most {
			return errBomb
		}
		if w.read(buf[:n]); w.shape == unread {
			return errUnread
		}
	}
	return err
}

// A source is what a decoder reads: what Push has brought. When that is used up, Push goes on.
type source struct {
	*coded
	more func(struct{}) bool
}

func (s *source) Read(p []byte) (int, error) {
	for len(s.in) == 0 {
		if !s.more(struct{}{}) {
			return 0, errStopped
		}
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

// pushCoded is Push for a compressed answer.
func (w *Watcher) pushCoded(p []byte) []byte {
	c := w.coded
	if w.closed || w.answer == nil {
		return p
	}
	if !c.ended {
		c.in = p
		if _, waits := c.wants(); !waits {
			c.ended, c.in = true, nil
		}
	}
	if c.ended && !errors.Is(c.err, io.EOF) {
		return w.illegible(p)
	}
	if !w.holds() {
		return c.release(p)
	}
	return c.hold(p, w.shape == eventStream, w.options.Length)
}

// holds reports whether the Watcher keeps back what it has read.
func (w *Watcher) holds() bool {
	switch w.shape {
	case eventStream:
		return w.stream.phase != live && w.stream.phase != spilled
	case unseen:
		return !w.Events()
	}
	return true
}

// illegible gives the answer up: nothing that was read of it counts.
func (w *Watcher) illegible(p []byte) []byte {
	out := w.coded.release(p)
	w.answer, w.said, w.held, w.spare = nil, tally{}, nil, nil
	w.Release()
	return out
}

// release returns all that is held, and p.
func (c *coded) release(p []byte) []byte {
	if len(c.held) == 0 {
		return p
	}
	out := append(c.held, p...)
	c.held = nil
	c.memory.Resize(c.needs)
	return out
}

// hold keeps p, and returns what is more than may be held. It is the last bytes that stay: no client has an answer without
// them.
func (c *coded) hold(p []byte, stream bool, length int64) []byte {
	most := holdJSON
	if stream {
		most = holdEvents
	}
	need := len(c.held) + len(p)
	if !c.flows && need <= most && length <= int64(most) && (need <= cap(c.held) || c.memory.TryResize(c.needs+2*int64(need))) {
		c.held = append(c.held, p...)
		return nil
	}
	c.flows = true
	all := c.release(p)
	n := max(0, len(all)-holdFlowing)
	c.held = append([]byte(nil), all[n:]...)
	return all[:n:n]
}

// closeCoded is Close for a compressed answer.
func (w *Watcher) closeCoded() (tail []byte) {
	tail, w.coded.held = w.coded.held, nil
	w.Release()
	return tail
}

// Release gives back what reading a compressed answer takes. It may be called at any time, and again: nothing more is
// read then. It has to be called of every Watcher whose answer was not closed.
func (w *Watcher) Release() {
	if w == nil || w.coded == nil {
		return
	}
	w.coded.stop()
	w.coded.memory.Resize(int64(len(w.coded.held)))
}
