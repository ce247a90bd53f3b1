package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Class says what kept an attempt from the provider. It is one of a few words,
// fit for clients and for the labels of metrics.
type Class string

// The classes.
const (
	DNS     Class = "dns"      // the provider's name does not resolve
	Refused Class = "refused"  // nobody listens at its port
	NoRoute Class = "no_route" // no way leads to its address
	Silent  Class = "timeout"  // it does not answer the attempt to connect
	TLS     Class = "tls"      // the two sides do not agree on a secure connection
	Proxy   Class = "proxy"    // the proxy on the way to it cannot be reached, or refuses
	Closed  Class = "closed"   // the connection ended before it was of use
	Other   Class = "other"
)

// Classes lists them all.
func Classes() []Class { return []Class{DNS, Refused, NoRoute, Silent, TLS, Proxy, Closed, Other} }

// A proxyRefusal is a proxy's answer that opens no way to the provider.
type proxyRefusal struct{ status int }

func (e *proxyRefusal) Error() string {
	return fmt.Sprintf("the proxy answered %d %s", e.status, http.StatusText(e.status))
}

// final reports whether the proxy means it: it wants credentials, or forbids. A 5xx
// says that the provider cannot be reached from there, either, at the moment.
func (e *proxyRefusal) final() bool { return e.status < 500 }

// checkConnect is an http.Transport's OnProxyConnectResponse.
func checkConnect(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode != http.StatusOK {
		return &proxyRefusal{answer.StatusCode}
	}
	return nil
}

// classify reads the error of an attempt that got no connection. final: trying again
// cures nothing, because it is the settings that are wrong, on one side or the other.
func classify(err error) (class Class, final bool) {
	var (
		refusal *proxyRefusal
		name    *net.DNSError
		timeout net.Error
	)
	switch text := err.Error(); {
	case errors.As(err, &refusal):
		return Proxy, refusal.final()
	case byProxy(err):
		final, ok := tlsFault(err)
		return Proxy, ok && final || strings.Contains(text, "authentication")
	case errors.As(err, &name):
		return DNS, false
	}
	if final, ok := tlsFault(err); ok {
		return TLS, final
	}
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return Silent, false
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused, false
	case isAny(err, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EPERM, syscall.EACCES):
		return NoRoute, false
	case isAny(err, syscall.ECONNRESET, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed):
		return Closed, false
	}
	return Other, false
}

func isAny(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// operations lists what the chain of err was doing on the network, outermost first.
func operations(err error) (ops []string) {
	for {
		op := (*net.OpError)(nil)
		if !errors.As(err, &op) {
			return ops
		}
		ops, err = append(ops, op.Op), op.Err
	}
}

// byProxy reports whether err came of speaking to a proxy.
func byProxy(err error) bool {
	for _, op := range operations(err) {
		if op == "proxyconnect" || strings.HasPrefix(op, "socks ") {
			return true
		}
	}
	return false
}

// tlsFault reports whether err is one of TLS, and whether it would be the same the
// next time: a certificate that is not trusted, a peer that does not speak TLS, or not
// a version or a name that we do. crypto/tls exports few of its errors.
func tlsFault(err error) (final, ok bool) {
	var (
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
	)
	text := err.Error()
	switch {
	case errors.As(err, &certificate), errors.As(err, &record), strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return true, true
	case strings.Contains(text, "TLS handshake timeout"):
		return false, false // as any other
	case alert(err):
		return !strings.Contains(text, "tls: internal error") && !strings.Contains(text, "tls: user canceled"), true
	}
	ok = strings.Contains(text, tlsBytes) || strings.Contains(text, "tls: ") || strings.Contains(text, "x509: ")
	return ok, ok
}

// alert reports whether err is an alert that the peer has sent in place of going on.
func alert(err error) bool {
	return slices.Contains(operations(err), "remote error")
}

// certificateAlerts are what a server says of the client's certificate. With TLS 1.3 it
// does so after the client has sent its request, which it then has not processed.
var certificateAlerts = []string{
	"certificate required", "bad certificate", "unsupported certificate", "revoked certificate", "expired certificate",
	"unknown certificate", "access denied",
}

// tlsBytes is how net/http shows an alert of TLS where HTTP was expected.
const tlsBytes = `malformed HTTP response "\x15\x03`

// errSpeaksTLS is a server's answer to plain HTTP at a port of TLS.
var errSpeaksTLS = errors.New("tls: the provider's port speaks TLS, and OPENAI_BASE_URL begins with http://")

// unwelcome reports whether the provider turned the whole connection away, although
// the request was written: it wants a client's certificate, or we spoke plain HTTP to a
// port of TLS, which answers that with an alert.
func unwelcome(err error) bool {
	text := err.Error()
	if strings.Contains(text, tlsBytes) {
		return true
	}
	if !alert(err) {
		return false
	}
	for _, what := range certificateAlerts {
		if strings.Contains(text, "tls: "+what) {
			return true
		}
	}
	return false
}

// misdirected reports an answer that is not the provider's: of a proxy that wants
// credentials, or of a port of TLS that was spoken to in plain HTTP. It closes the body.
func (c *Client) misdirected(resp *http.Response) error {
	if c.cfg.Base.Scheme != "http" {
		return nil
	}
	switch resp.StatusCode {
	case http.StatusProxyAuthRequired:
		if resp.Header.Get("Proxy-Authenticate") != "" { // it is the proxy's, then
			resp.Body.Close()
			return &proxyRefusal{resp.StatusCode}
		}
	case http.StatusBadRequest:
		if kind := resp.Header.Get("Content-Type"); kind != "" && !strings.HasPrefix(kind, "text/") {
			return nil
		}
		head := peek(resp, 1<<10)
		for _, words := range tlsWords {
			if bytes.Contains(head, []byte(words)) {
				resp.Body.Close()
				return errSpeaksTLS
			}
		}
	}
	return nil
}

// tlsWords is what servers answer to plain HTTP at a port of TLS: Go's, nginx and the
// balancers that are made of it, Apache.
var tlsWords = []string{
	"Client sent an HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port", "speaking plain HTTP to an SSL-enabled server port",
}

// peek reads the beginning of a body and puts it back. A body that stalls is closed.
func peek(resp *http.Response, most int64) []byte {
	defer time.AfterFunc(knockTime, func() { resp.Body.Close() }).Stop()
	head, err := io.ReadAll(io.LimitReader(resp.Body, most))
	rest := io.Reader(resp.Body)
	if err != nil {
		rest = broken{err}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), rest), resp.Body}
	return head
}

// broken is the rest of a body that cannot be read.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }
