package ledger

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
)

//go:embed migration/postgres/*.sql
var postgresMigrations embed.FS

const (
	// postgresPatience is how long one transaction or query may take, its connection included.
	// A server that is stopped, or behind a network that drops everything, counts as unavailable
	// after that long; no client's last event waits longer than one such attempt.
	postgresPatience = 3 * time.Second
	connectTimeout   = 2 * time.Second // for each host of the DSN, unless the DSN says otherwise

	// The server ends by itself what a client that vanished has left open. Each is longer than
	// postgresPatience: whoever lives gives up first.
	serverPatience = 5 * time.Second
)

// postgres is the ledger in a Postgres database, which several sidecars may share. The
// queries are those of sqlBackend; here is how to connect, and in postgres_live.go who else does.
type postgres struct {
	*sqlBackend
	place  string // user@host:port/database, for people
	schema string // the first of the search path
	class  int32  // of this schema's advisory locks
	hosts  int    // that the DSN names
	full   bool   // durability
	logger *slog.Logger
	live   liveness
}

// openPostgres connects, waiting for a server that is not up yet, brings the schema up to date, and
// enters this process among the instances. Errors wrap ErrInvalid where the DSN is to blame.
func openPostgres(ctx context.Context, cfg *Config) (_ backend, err error) {
	config, err := parsePostgresDSN(cfg.PostgresDSN)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	p := &postgres{place: placeOf(config), hosts: hostsOf(config), full: cfg.Durability == DurabilityFull, logger: cfg.Logger}
	cfg.place = p.place
	defer func() {
		if err != nil {
			err = fmt.Errorf("open ledger: postgres %s: %w", p.place, oneLine(err))
		}
	}()
	if err := p.prepare(ctx, config, cfg); err != nil {
		return nil, err
	}
	p.live.init(cfg.DeadAfter)
	b := &sqlBackend{mapErr: postgresErr, names: map[string]int64{}, patience: postgresPatience, rowLocks: true}
	p.sqlBackend = b
	b.write = openPostgresPool(config, 1, writerParams(cfg.Durability), p.connected)
	b.read = openPostgresPool(config, readers, map[string]string{"default_transaction_read_only": "on"}, nil)
	b.shut = p.shutDown
	if err := errors.Join(p.enter(ctx), b.loadPruned(ctx)); err != nil {
		return nil, errors.Join(err, b.write.Close(), b.read.Close())
	}
	if cfg.JournalPath == "" {
		if cfg.JournalPath, err = postgresJournal(p.place + "/" + p.schema); err != nil {
			_ = b.close(ctx)
			return nil, err
		}
	}
	return p, nil
}

// readPostgres opens the database for reading, without entering among the instances.
func readPostgres(ctx context.Context, cfg *Config) (backend, error) {
	config, err := parsePostgresDSN(cfg.PostgresDSN)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	db := openPostgresPool(config, readers, map[string]string{"default_transaction_read_only": "on"}, nil)
	b := &sqlBackend{read: db, mapErr: postgresErr, shut: func(context.Context) error { return db.Close() }, patience: postgresPatience}
	if err := b.upToDate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger: postgres %s: %w", placeOf(config), oneLine(err)), db.Close())
	}
	return b, nil
}

// CheckPostgresDSN tells what is wrong with a connection URL as such; nil says nothing about the server.
func CheckPostgresDSN(dsn string) error {
	_, err := parsePostgresDSN(dsn)
	return err
}

// parsePostgresDSN reads a URL or a list of key=value, with libpq's variables and files as
// defaults. Its error never holds what could be a part of the password.
func parsePostgresDSN(dsn string) (*pgx.ConnConfig, error) {
	if strings.TrimSpace(dsn) == "" {
		return nil, fmt.Errorf("%w: postgres needs a connection URL, such as postgres://user@host:5432/database", ErrInvalid)
	}
	config, err := pgx.ParseConfig(dsn)
	if fault := dsnFault(dsn, err); fault != "" {
		return nil, fmt.Errorf("%w: not a Postgres connection URL: %s", ErrInvalid, fault)
	}
	if config.ConnectTimeout == 0 || config.ConnectTimeout > 2*time.Minute { // pgx's default for none
		config.ConnectTimeout = connectTimeout
	}
	// bun writes values into the text of a statement, so each is another one, and preparing it
	// would cost a round trip. Its quoting relies on the two parameters.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.StatementCacheCapacity, config.DescriptionCacheCapacity = 0, 0
	setDefaults(config.RuntimeParams, map[string]string{"application_name": "llm-queue-proxy"})
	maps.Copy(config.RuntimeParams, map[string]string{
		"standard_conforming_strings": "on", "client_encoding": "UTF8",
		"default_transaction_isolation": "read committed",
	})
	// A host that is gone without a word must not hold its locks for hours.
	setDefaults(config.RuntimeParams, map[string]string{
		"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3",
	})
	return config, nil
}

func setDefaults(params, defaults map[string]string) {
	for k, v := range defaults {
		if _, set := params[k]; !set {
			params[k] = v
		}
	}
}

// placeOf names the database to people.
func placeOf(config *pgx.ConnConfig) string {
	host := config.Host
	if !strings.HasPrefix(host, "/") {
		host = net.JoinHostPort(host, strconv.Itoa(int(config.Port)))
	}
	return fmt.Sprintf("%s@%s/%s", config.User, host, config.Database)
}

// openPostgresPool makes a pool; each new connection passes through connected first.
func openPostgresPool(config *pgx.ConnConfig, conns int, params map[string]string, connected func(context.Context, *pgx.Conn) error) *bun.DB {
	own := config.Copy()
	maps.Copy(own.RuntimeParams, params)
	setDefaults(own.RuntimeParams, map[string]string{
		"statement_timeout": millis(serverPatience), "idle_in_transaction_session_timeout": millis(serverPatience),
	})
	var options []stdlib.OptionOpenDB
	if connected != nil {
		options = append(options, stdlib.OptionAfterConnect(connected))
	} else {
		// A reader may afford a round trip to be spared a connection that was cut meanwhile.
		options = append(options, stdlib.OptionShouldPing(func(context.Context, stdlib.ShouldPingParams) bool { return true }))
	}
	pool := stdlib.OpenDB(*own, options...)
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	pool.SetConnMaxLifetime(0)
	return bun.NewDB(pool, pgdialect.New())
}

// hostsOf counts the hosts of a DSN. Fallbacks are also the same host without TLS.
func hostsOf(config *pgx.ConnConfig) int {
	names := map[string]bool{fmt.Sprint(config.Host, ":", config.Port): true}
	for _, f := range config.Fallbacks {
		names[fmt.Sprint(f.Host, ":", f.Port)] = true
	}
	return len(names)
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// writerParams asks for what the durability promises; see doc.go.
func writerParams(durability string) map[string]string {
	params := map[string]string{"lock_timeout": millis(postgresPatience)}
	if durability != DurabilityFull {
		params["synchronous_commit"] = "off"
	}
	return params
}

// prepare waits for the server and migrates. The connection it does that on holds the migration's
// advisory lock from its first moment to its end, and the pool has but that one: should it break,
// the next one takes the lock anew, or waits for whoever has it.
func (p *postgres) prepare(ctx context.Context, config *pgx.ConnConfig, cfg *Config) error {
	patient := map[string]string{"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
	db := openPostgresPool(config, 1, patient, func(ctx context.Context, c *pgx.Conn) error {
		if err := c.QueryRow(ctx, "SELECT coalesce(current_schema(), '')").Scan(&p.schema); err != nil {
			return err
		}
		p.class = lockClass(p.schema)
		_, err := c.Exec(ctx, "SELECT pg_advisory_lock($1, 0)", p.class)
		return err
	})
	defer db.Close()
	if err := p.await(ctx, cfg.StartPatience, db.PingContext); err != nil {
		return err
	}
	if p.schema == "" {
		return fmt.Errorf("%w: no schema of the search path exists, or may be used", ErrInvalid)
	}
	if err := p.migrate(ctx, db, cfg.StartPatience); err != nil {
		return startErr(err)
	}
	return p.warnOfServer(ctx, db, cfg.Durability)
}

// A migration waits that long for a table, since whoever comes behind it waits as well. It tries again,
// until the patience of the start ends.
const migrateLockTimeout = time.Second

// migrate brings the schema up to date beside sidecars that use it.
func (p *postgres) migrate(ctx context.Context, db *bun.DB, patience time.Duration) error {
	m := migrator{
		files: mustSub(postgresMigrations, "migration/postgres"), alone: true, logger: p.logger,
		before: []string{"SET LOCAL lock_timeout = " + millis(migrateLockTimeout)},
	}
	end := time.Now().Add(patience)
	for {
		err := m.up(ctx, db)
		if code := sqlState(err); code != codeLockTimeout && code != codeDeadlock || time.Now().After(end) {
			return err
		}
		p.logger.Warn("waiting for others to let the schema be upgraded", slog.Any("error", oneLine(err)))
		select {
		case <-time.After(migrateLockTimeout): // for those who waited behind
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// await tries to reach the server until patience ends. Beside a container that starts at the same
// moment a database is often a few seconds late; a refused password or an absent database
// will not become better.
func (p *postgres) await(ctx context.Context, patience time.Duration, ping func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pause := time.NewTicker(time.Second)
	defer pause.Stop()
	var last error
	for {
		err := startErr(tlsErr(ping(limited), p.hosts))
		if err == nil || errors.Is(err, ErrInvalid) {
			return err
		}
		if last == nil {
			p.logger.Warn("waiting for the database", slog.String("database", p.place), slog.Any("error", oneLine(err)))
		}
		if last == nil || limited.Err() == nil { // what the end of patience cut off says nothing
			last = err
		}
		select {
		case <-pause.C:
		case <-limited.Done():
			if ctx.Err() != nil {
				return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
			}
			return fmt.Errorf("not ready within %s: %w", patience, last)
		}
	}
}

// warnOfServer says what the server's own settings take away from the promise.
func (p *postgres) warnOfServer(ctx context.Context, db *bun.DB, durability string) error {
	var fsync, commit string
	err := db.NewRaw("SELECT current_setting('fsync'), current_setting('synchronous_commit')").Scan(ctx, &fsync, &commit)
	if err != nil {
		return startErr(err)
	}
	if durability == DurabilityFull && fsync == "off" {
		p.logger.Warn("the database server runs with fsync=off: a power cut may cost records", slog.String("database", p.place))
	}
	return nil
}

// lockClass is the first key of all advisory locks of a ledger in a schema: ledgers in other
// schemas of the database must not get into its way.
func lockClass(schema string) int32 {
	h := fnv.New32a()
	h.Write([]byte("llm-queue-proxy ledger " + schema))
	return int32(h.Sum32())
}

func (p *postgres) shutDown(ctx context.Context) error {
	p.leave(ctx)
	return errors.Join(p.read.Close(), p.write.Close())
}

// oneLine is an error whose text has no line breaks.
func oneLine(err error) error {
	if err == nil || !strings.Contains(err.Error(), "\n") {
		return err
	}
	return flatError{err}
}

type flatError struct{ error }

func (e flatError) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }
func (e flatError) Unwrap() error { return e.error }
