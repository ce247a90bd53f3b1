package ledger

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger/pgtest"
)

// TestOpenPostgres_TLSThatCannotBeTrustedEndsAtOnce: waiting cures no certificate.
func TestOpenPostgres_TLSThatCannotBeTrustedEndsAtOnce(t *testing.T) {
	cfg := postgresConfig(t)
	folder := os.Getenv("LEDGER_TEST_POSTGRES_TLS")
	if folder == "" {
		t.Fatal("LEDGER_TEST_POSTGRES_TLS names no folder: .ci/postgres sets it")
	}
	dsn := func(mode, ca, host string) string {
		d := pgtest.With(t, cfg.PostgresDSN, "sslmode", mode)
		if ca != "" {
			d = pgtest.With(t, d, "sslrootcert", filepath.Join(folder, ca))
		}
		if host != "" {
			u, err := url.Parse(d)
			if err != nil {
				t.Fatal(err)
			}
			u.Host = host + ":" + u.Port()
			d = u.String()
		}
		return d
	}
	try := func(dsn string) (time.Duration, error) {
		begun := time.Now()
		s, err := Open(t.Context(), Config{Type: "postgres", PostgresDSN: dsn, StartPatience: 20 * time.Second, JournalPath: NoJournal})
		if err == nil {
			closeStore(t, s)
		}
		return time.Since(begun), err
	}
	for name, good := range map[string]string{
		"verify-full": dsn("verify-full", "ca.crt", ""), "verify-ca": dsn("verify-ca", "ca.crt", "localhost"),
		"require": dsn("require", "", ""), "prefer": dsn("prefer", "", ""),
	} {
		if _, err := try(good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused := func(name, dsn, want string) {
		t.Helper()
		took, err := try(dsn)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) || took > 10*time.Second {
			t.Errorf("%s: after %s: %v; want ErrInvalid with %q", name, took, err, want)
		}
	}
	refused("another authority", dsn("verify-full", "other.crt", ""), "unknown authority")
	refused("another authority, verify-ca", dsn("verify-ca", "other.crt", ""), "unknown authority")
	refused("the system's authorities", dsn("verify-full", "", ""), "unknown authority")
	refused("another host", dsn("verify-full", "ca.crt", "localhost"), "localhost")
	refused("no file of the authority", dsn("verify-full", "nowhere.crt", ""), "nowhere.crt")
	refused("no certificate in it", dsn("verify-full", "ca.key", ""), "CA")

	// A server without TLS. It takes this up within a moment.
	turn := func(to string) {
		pgtest.Exec(t, cfg.PostgresDSN, "ALTER SYSTEM SET ssl = "+to)
		pgtest.Exec(t, cfg.PostgresDSN, "SELECT pg_reload_conf()")
		waitFor(t, func() bool {
			_, err := try(dsn("require", "", ""))
			return (err == nil) == (to == "on")
		})
	}
	turn("off")
	defer turn("on")
	refused("no TLS", dsn("require", "", ""), "refused TLS")
	refused("no TLS, verify-full", dsn("verify-full", "ca.crt", ""), "refused TLS")
	if _, err := try(dsn("prefer", "", "")); err != nil {
		t.Errorf("prefer without TLS: %v", err)
	}
}

// TestTLSErr: of several hosts one that may come back is enough to wait for; of the
// addresses of one host none is.
func TestTLSErr(t *testing.T) {
	untrusted := fmt.Errorf("tls error: %w", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}})
	down := fmt.Errorf("dial error: %w", io.EOF)
	for _, c := range []struct {
		err   error
		hosts int
		want  bool
	}{
		{nil, 1, false},
		{down, 1, false},
		{untrusted, 1, true},
		{fmt.Errorf("connect: %w", errors.Join(untrusted, down)), 1, true},
		{fmt.Errorf("connect: %w", errors.Join(down, untrusted)), 2, false},
		{fmt.Errorf("connect: %w", errors.Join(untrusted, untrusted)), 2, true},
		{fmt.Errorf("connect: %w", errors.Join(errors.New("server refused TLS connection"))), 1, true},
	} {
		if got := errors.Is(tlsErr(c.err, c.hosts), ErrInvalid); got != c.want {
			t.Errorf("%v of %d hosts: %v", c.err, c.hosts, got)
		}
	}
}
