package ledger

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// postgresErr maps an error of the driver, once and for all, by its SQLSTATE
// (postgresql.org/docs/current/errcodes-appendix.html): the row is absent, this data can never be stored, or
// the store cannot be used now. All that is not surely the data's fault is of the last
// kind, a table that is gone or a sequence that runs behind as much as a cut connection: records must survive it.
func postgresErr(err error) error {
	if err, known := commonErr(err); known {
		return err
	}
	switch code := sqlState(err); {
	case strings.HasPrefix(code, "22"), // data exception
		strings.HasPrefix(code, "54"),    // program limit exceeded
		code == "23502", code == "23514": // not null, check
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	case code == "40001", code == codeDeadlock: // serialization failure
		return fmt.Errorf("%w: %w", errConflict, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

const (
	codeDeadlock    = "40P01"
	codeLockTimeout = "55P03"
)

// startErr maps an error of Open, where a refusal that waiting does not cure is the setting's fault.
func startErr(err error) error {
	switch code := sqlState(err); {
	case strings.HasPrefix(code, "28"), // invalid authorization
		code == "08P01",                  // a parameter that a pooler in between does not know
		code == "3D000", code == "3F000", // no such database, schema
		code == "42501", code == "42704", code == "22023": // not allowed; no such parameter, or not that value
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return postgresErr(err)
}

// tlsErr marks as ErrInvalid what ended a connection for good before it could speak of
// anything else: a certificate that is not trusted, or of another host; no TLS where
// the DSN wants it. Of several hosts all have to end so.
func tlsErr(err error, hosts int) error {
	if err == nil || !tlsFault(err, hosts > 1) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrInvalid, err)
}

// tlsFault looks for such a fault in the tree of an error: in one of the branches, or
// in all of them.
func tlsFault(err error, all bool) bool {
	switch e := err.(type) { //nolint:errorlint // the tree is walked by hand
	case *tls.CertificateVerificationError, x509.UnknownAuthorityError, x509.HostnameError, x509.CertificateInvalidError,
		x509.SystemRootsError, tls.AlertError, tls.RecordHeaderError:
		return true
	case interface{ Unwrap() []error }:
		branches := e.Unwrap()
		clean := func(err error) bool { return !tlsFault(err, all) }
		if all {
			return len(branches) > 0 && !slices.ContainsFunc(branches, clean)
		}
		return slices.ContainsFunc(branches, func(err error) bool { return tlsFault(err, all) })
	case interface{ Unwrap() error }:
		return tlsFault(e.Unwrap(), all)
	case nil:
		return false
	}
	return err.Error() == "server refused TLS connection" // pgx has no other name for it
}

func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// dsnFault says what is wrong with a DSN, given what its parser said; "" if nothing is. An unescaped character in a
// password makes parts of it look like host, port or path, so nothing of such a URL may be quoted,
// and none may be tried either: the name of the database goes into the log.
func dsnFault(dsn string, err error) string {
	if _, rest, isURL := strings.Cut(dsn, "://"); isURL {
		u, broken := url.Parse(dsn)
		if broken != nil || u.User == nil && strings.Contains(rest, "@") || u.Fragment != "" || strings.Contains(u.Path, "@") {
			return "the URL is malformed; characters such as / @ : # ? % in a password must be percent-encoded"
		}
	}
	if err == nil {
		return ""
	}
	var parse *pgconn.ParseConfigError
	if !errors.As(err, &parse) {
		return "it cannot be parsed"
	}
	bare := *parse
	bare.ConnString = ""
	return strings.TrimPrefix(bare.Error(), "cannot parse ``: ")
}
