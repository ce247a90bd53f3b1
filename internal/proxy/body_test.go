package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestBody_DeadlineGrowsWithItsBytes(t *testing.T) {
	start := time.Now()
	if d := bodyDeadline(start, 0).Sub(start); d != 30*time.Second {
		t.Errorf("an empty body has %v", d)
	}
	if d := bodyDeadline(start, 10*bodyRate).Sub(start); d != 40*time.Second {
		t.Errorf("ten seconds' bytes have %v", d)
	}
}

// A deadlineWriter notes the last deadline of the client's connection.
type deadlineWriter struct {
	*httptest.ResponseRecorder
	set   int
	until time.Time
}

func (w *deadlineWriter) SetReadDeadline(t time.Time) error {
	w.set++
	w.until = t
	return nil
}

// An answer that comes before the upload's end makes net/http read the rest, while
// the place is held. So the deadline of the last read must still be there.
func TestPatientBody_DeadlineStaysUntilTheEnd(t *testing.T) {
	w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder()}
	b := newPatientBody(http.NewResponseController(w), strings.NewReader("abc"))
	if _, err := b.Read(make([]byte, 2)); err != nil || w.until.IsZero() {
		t.Errorf("in the middle of an upload its reads end %v, %v", w.until, err)
	}
	if _, err := io.Copy(io.Discard, b); err != nil || !w.until.IsZero() {
		t.Errorf("behind an upload reads end %v, %v", w.until, err)
	}
}

func TestPatientBody_LeavesTheConnectionAloneOnceClosed(t *testing.T) {
	w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder()}
	b := newPatientBody(http.NewResponseController(w), strings.NewReader("abc"))
	b.close()
	if _, _ = io.Copy(io.Discard, b); w.set != 0 {
		t.Errorf("%d deadlines were set", w.set)
	}
}
