package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
)

// A blockedUpload tells when its first byte is waited for.
type blockedUpload struct {
	asked chan struct{}
	*io.PipeReader
}

func (b *blockedUpload) Read(p []byte) (int, error) {
	select {
	case b.asked <- struct{}{}:
	default:
	}
	return b.PipeReader.Read(p)
}

// The transport looks at an upload of unknown length, with a method that seldom has one, before it writes anything, and
// goes on waiting for its first byte when the connection is long gone. Whoever
// sent the upload again would send it without that byte.
func TestDo_UploadWhoseFirstByteIsWaitedForIsNotSentAgain(t *testing.T) {
	reading, body := io.Pipe()
	upload := &blockedUpload{make(chan struct{}, 1), reading}
	defer body.Close()
	base := rawServer(t, func(_ int, conn net.Conn) { // hangs up on the second request before it comes
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		<-upload.asked
	})
	c := client(t, base)
	resp, err := c.Do(context.Background(), Request{Method: "GET", Path: "x"})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	_, err = c.Do(context.Background(), Request{Method: "DELETE", Path: "x", Stream: upload, Length: -1})
	if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != Broken {
		t.Errorf("got %v, want Broken", err)
	}
}
