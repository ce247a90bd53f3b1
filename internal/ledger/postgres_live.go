package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// Several sidecars note their requests in flight in one table, so each note names its
// instance, and a note may be booked as interrupted only when its instance is dead. An instance shows
// that it lives in two ways: its writing connection holds a shared advisory lock, which the
// server takes back when the process or its host dies; and a beat of the committer adds one to a
// counter in its row, so that a lock lost with a cut connection or a restarted server proves nothing yet.
//
// Whoever looks on calls an instance dead after its lock was free and its counter stood still
// for DeadAfter, by the clock of the one who looks, without an error in between: clocks of two
// machines are never compared, and a server that was away starts the wait anew. An instance that closed its
// ledger says so in its row, and needs no wait.
//
// One that is cut off from the database for longer, alive all the same, is booked wrongly; when its
// records arrive after all, they take the place of the interrupted ones (see replace in sqlwrite.go).
type liveness struct {
	id        atomic.Int32 // of this instance; 0 before enter
	host      string
	started   time.Time
	deadAfter time.Duration
	seen      map[int32]sighting // the others; the committer's own
}

// sighting is since when an instance has not moved.
type sighting struct {
	beat  int64
	since time.Time
}

func (l *liveness) init(deadAfter time.Duration) {
	l.host, _ = os.Hostname()
	l.started = time.Now()
	l.deadAfter, l.seen = deadAfter, map[int32]sighting{}
}

// beat is a statement that tells the others that this process lives.
func (p *postgres) beat() (query string, args []any) {
	return `INSERT INTO instances (id, host, started_at, beat) VALUES ($1, $2, $3, 1)
		ON CONFLICT (id) DO UPDATE SET beat = instances.beat + 1, ended = false`,
		[]any{p.live.id.Load(), p.live.host, p.live.started.UnixMilli()}
}

// connected makes every new connection of the writer write, so that one to a standby is none, and hold this instance's lock. An older one that the
// server has not given up yet may hold it too: it is shared.
func (p *postgres) connected(ctx context.Context, c *pgx.Conn) error {
	if p.full { // whatever the server, database or role has as default
		const query = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')"
		if _, err := c.Exec(ctx, query); err != nil {
			return err
		}
	}
	id := p.live.id.Load()
	if id == 0 {
		return nil
	}
	if _, err := c.Exec(ctx, "SELECT pg_advisory_lock_shared($1, $2)", p.class, id); err != nil {
		return err
	}
	query, args := p.beat()
	_, err := c.Exec(ctx, query, args...)
	return err
}

// enter makes this process an instance.
func (p *postgres) enter(ctx context.Context) error {
	ctx, cancel := p.within(ctx)
	defer cancel()
	var id int32
	err := p.write.NewRaw("INSERT INTO instances (host, started_at) VALUES (?, ?) RETURNING id",
		p.live.host, p.live.started.UnixMilli()).Scan(ctx, &id)
	if err != nil {
		return startErr(err)
	}
	p.live.id.Store(id)
	p.instance = id
	// The connection that gave the number was made without it; the next one takes the lock.
	p.write.SetMaxIdleConns(0)
	p.write.SetMaxIdleConns(1)
	return p.probe(ctx)
}

// leave says that this process ends. Should that fail, the others find out by themselves.
func (p *postgres) leave(ctx context.Context) {
	id := p.live.id.Load()
	ctx, cancel := p.within(ctx)
	defer cancel()
	_, _ = p.write.NewRaw("UPDATE instances SET ended = true WHERE id = ?", id).Exec(ctx)
	_, _ = p.write.NewRaw("DELETE FROM instances WHERE id = ? AND NOT EXISTS (SELECT FROM inflight WHERE instance = ?)", id, id).Exec(ctx)
}

// probe writes, for a standby and a server that is read-only answer every question gladly.
func (p *postgres) probe(ctx context.Context) error {
	ctx, cancel := p.within(ctx)
	defer cancel()
	query, args := p.beat()
	if _, err := p.write.DB.ExecContext(ctx, query, args...); err != nil {
		return fmt.Errorf("probe: %w", postgresErr(err))
	}
	return nil
}

func (p *postgres) revive(ctx context.Context) (string, error) { return "", p.probe(ctx) }

// heartbeat shows that this process lives, and books what others that are dead had in flight.
func (p *postgres) heartbeat(ctx context.Context) (booked int, err error) {
	defer func() {
		if err != nil { // what was seen before says nothing about what is now
			clear(p.live.seen)
		}
	}()
	if err := p.probe(ctx); err != nil {
		return 0, err
	}
	if err := p.loadPruned(ctx); err != nil { // another instance may have removed more
		return 0, err
	}
	others, err := p.others(ctx)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	known := make(map[int32]sighting, len(others))
	for _, o := range others {
		s, ok := p.live.seen[o.ID]
		if !ok || s.beat != o.Beat {
			s = sighting{o.Beat, now}
		}
		known[o.ID] = s
		if !o.Ended && now.Sub(s.since) < p.live.deadAfter {
			continue
		}
		n, dead, err := p.bury(ctx, o.ID)
		booked += n
		if err != nil {
			return booked, err
		}
		if dead {
			delete(known, o.ID)
		} else {
			known[o.ID] = sighting{o.Beat, now} // its lock is held
		}
	}
	p.live.seen = known
	return booked, nil
}

type instanceRow struct {
	ID    int32 `bun:"id"`
	Beat  int64 `bun:"beat"`
	Ended bool  `bun:"ended"`
}

// others lists all instances but this one, those included of which only notes are left.
func (p *postgres) others(ctx context.Context) (rows []instanceRow, err error) {
	ctx, cancel := p.within(ctx)
	defer cancel()
	err = p.write.NewRaw(`SELECT id, beat, ended FROM instances WHERE id <> ?
		UNION ALL
		SELECT DISTINCT n.instance, 0, false FROM inflight AS n
		WHERE NOT EXISTS (SELECT FROM instances AS i WHERE i.id = n.instance) AND n.instance <> ?`,
		p.instance, p.instance).Scan(ctx, &rows)
	if err != nil {
		return nil, p.readErr("instances", err)
	}
	return rows, nil
}

// bury books what a dead instance had in flight, and removes it. Holding its lock exclusively shows that
// it does not live, and keeps the other ones who look from doing the same. Should the connection break, and with
// it the lock, they repeat it, which changes nothing.
func (p *postgres) bury(ctx context.Context, id int32) (booked int, dead bool, err error) {
	if dead, err = p.lockInstance(ctx, "pg_try_advisory_lock", id); err != nil || !dead {
		return 0, false, err
	}
	defer func() {
		if _, e := p.lockInstance(ctx, "pg_advisory_unlock", id); err == nil {
			err = e
		}
	}()
	notes, err := p.inflight(ctx, id)
	if err != nil {
		return 0, true, err
	}
	if err := p.interrupt(ctx, notes); err != nil {
		return 0, true, err
	}
	within, cancel := p.within(ctx)
	defer cancel()
	if _, err := p.write.NewRaw("DELETE FROM instances WHERE id = ?", id).Exec(within); err != nil {
		return len(notes), true, p.readErr("instances", err)
	}
	p.logger.Info("another instance has ended", slog.Int("instance", int(id)), slog.Int("interrupted", len(notes)))
	return len(notes), true, nil
}

func (p *postgres) lockInstance(ctx context.Context, function string, id int32) (done bool, err error) {
	ctx, cancel := p.within(ctx)
	defer cancel()
	if err := p.write.NewRaw("SELECT "+function+"(?, ?)", p.class, id).Scan(ctx, &done); err != nil {
		return false, p.readErr("instance lock", err)
	}
	return done, nil
}
