// Package pgtest gives tests a Postgres database of their own, on the server that the environment
// names; .ci/postgres starts one and sets the variables.
package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

const (
	// EnvDSN holds the URL of a database in which the tests may create schemas.
	EnvDSN = "LEDGER_TEST_POSTGRES"
	// EnvControl names a program that stops, continues, kills and starts that server.
	EnvControl = "LEDGER_TEST_POSTGRES_CTL"
	// EnvSmall names a small file system; its folder "space" may be a tablespace.
	EnvSmall = "LEDGER_TEST_POSTGRES_SMALL"
)

// DSN returns the URL of an empty schema that belongs to t alone, and goes with it. t is skipped where
// there is no server.
func DSN(t testing.TB) string {
	t.Helper()
	base := Server(t)
	raw := make([]byte, 6)
	_, _ = rand.Read(raw) // never fails
	schema := "t_" + hex.EncodeToString(raw)
	Exec(t, base, "CREATE SCHEMA "+schema)
	t.Cleanup(func() { Exec(t, base, "DROP SCHEMA "+schema+" CASCADE") })
	return With(t, base, "search_path", schema)
}

// Server returns the URL of the server's database, or skips t.
func Server(t testing.TB) string {
	t.Helper()
	dsn := os.Getenv(EnvDSN)
	if dsn == "" {
		t.Skip(EnvDSN + " names no server; .ci/postgres starts one")
	}
	return dsn
}

// With returns dsn with a parameter set.
func With(t testing.TB, dsn, key, value string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// At returns dsn with another host:port, such as that of a proxy before the server.
func At(t testing.TB, dsn, address string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = address
	return u.String()
}

// Address returns host:port of dsn.
func Address(t testing.TB, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// Exec runs a statement on a connection of its own.
func Exec(t testing.TB, dsn, statement string) {
	t.Helper()
	if err := exec1(dsn, statement); err != nil {
		t.Errorf("%s: %v", statement, err)
	}
}

func exec1(dsn, statement string) error {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, statement)
	return err
}

// Control does act to the whole server: "stop" and "cont" by signal, "kill" with SIGKILL, and "start". t is
// skipped where nobody can.
func Control(t testing.TB, act string) {
	t.Helper()
	program := os.Getenv(EnvControl)
	if program == "" {
		t.Skip(EnvControl + " names no program; .ci/postgres makes one")
	}
	if out, err := exec.Command(program, act).CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("%s the server: %w: %s", act, err, strings.TrimSpace(string(out))))
	}
}
