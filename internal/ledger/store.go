package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Store is the ledger: one committer in front of one backend. It is safe for concurrent use.
// Whoever opens it must Close it, after the last Record.
type Store struct {
	Reader
	cfg     Config
	journal *journal // nil: none
	queue   queue
	flight  flight
	stats   counts
	health  health
	opened  time.Time
	stuck   atomic.Bool // neither store nor journal took the last batch
	atOnce  bool        // Record does the work itself

	stop context.CancelFunc // ends the patience of the last commit
	life context.Context    //nolint:containedctx // the committer's own, not a caller's
	done chan struct{}      // closed when the committer has ended
}

// Config tells Open what to open. The zero value is a memory ledger.
type Config struct {
	Type        string // "memory" (default), "sqlite" or "postgres"
	SQLiteDSN   string // a path, or a file: URI
	PostgresDSN string

	// Durability: "full" (default): Record returns when the record survives a power cut.
	// "normal": when it survives kill -9; a power cut may cost the last
	// commits. "async": Record does not wait; a crash costs what was waiting.
	Durability string

	// JournalPath is where records go while the store cannot be written. "" puts the journal beside
	// the SQLite file; for Postgres into the first of $STATE_DIRECTORY, $XDG_STATE_HOME/llm-queue-proxy,
	// ~/.local/state/llm-queue-proxy and the working directory that can be written; and means none for memory. NoJournal
	// means none: while the store is down, records wait in memory.
	JournalPath string

	// Postgres only. StartPatience is how long Open waits for a server that does not answer yet;
	// 0 = 30 s. DeadAfter is how long another process on the same database must have been silent, as
	// this one sees it, before its requests in flight are booked as Interrupted; 0 = 20 s.
	StartPatience, DeadAfter time.Duration

	// KeepRequests and KeepHourly are the ages at which records and hourly totals are removed;
	// 0 keeps them. Sessions and daily totals stay for ever.
	KeepRequests, KeepHourly time.Duration

	NoteAfter      time.Duration // age at which a request in flight is noted in the store; 0 = 1 s
	MemorySessions int           // bound of the memory ledger; 0 = 100,000
	MemoryRecords  int           // bound of the memory ledger; 0 = 20,000
	Logger         *slog.Logger  // nil = discard

	place       string        // of the database, for people
	lastBackoff time.Duration // between attempts to reach the store that is down; 0 = lastBackoff
}

// ErrJournal says that there is no place for the journal: Config.JournalPath names another.
var ErrJournal = errors.New("open ledger journal")

// NoJournal is the JournalPath of a store without one.
const NoJournal = "off"

// Durability levels, as in Config.
const (
	DurabilityFull   = "full"
	DurabilityNormal = "normal"
	DurabilityAsync  = "async"
)

// Open opens the ledger, brings its schema up to date, books what earlier processes left in their
// journals, and marks the requests that it cut off as Interrupted. A store that cannot be
// used at all is an error of one line; it names the DSN's path, never its password.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg.Type = cmp.Or(cfg.Type, "memory")
	cfg.Durability = cmp.Or(cfg.Durability, DurabilityFull)
	cfg.NoteAfter = cmp.Or(cfg.NoteAfter, time.Second)
	cfg.StartPatience = cmp.Or(cfg.StartPatience, 30*time.Second)
	cfg.DeadAfter = cmp.Or(cfg.DeadAfter, 20*time.Second)
	cfg.lastBackoff = cmp.Or(cfg.lastBackoff, lastBackoff)
	cfg.MemorySessions = cmp.Or(cfg.MemorySessions, 100_000)
	cfg.MemoryRecords = cmp.Or(cfg.MemoryRecords, 20_000)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch cfg.Durability {
	case DurabilityFull, DurabilityNormal, DurabilityAsync:
	default:
		return nil, fmt.Errorf("open ledger: %w: durability %q is none of full, normal, async", ErrInvalid, cfg.Durability)
	}
	b, err := openBackend(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	return start(ctx, cfg, b)
}

func openBackend(ctx context.Context, cfg *Config) (backend, error) {
	switch cfg.Type {
	case "memory":
		return newMemory(cfg.MemorySessions, cfg.MemoryRecords), nil
	case "sqlite":
		return openSQLite(ctx, cfg)
	case "postgres":
		return openPostgres(ctx, cfg)
	}
	return nil, fmt.Errorf("open ledger: %w: type %q is none of memory, sqlite, postgres", ErrInvalid, cfg.Type)
}

// start puts the committer in front of b, which it owns from here on.
func start(ctx context.Context, cfg Config, b backend) (*Store, error) {
	s := &Store{Reader: Reader{backend: b}, cfg: cfg, opened: time.Now(), done: make(chan struct{})}
	var orphans []*journal
	_, s.atOnce = b.(*memory)
	s.queue.init()
	s.flight.init(cfg.NoteAfter, s.queue.ring)
	if cfg.JournalPath != "" && cfg.JournalPath != NoJournal {
		var err error
		if s.journal, orphans, err = openJournal(cfg.JournalPath, cfg.Durability == DurabilityFull); err != nil {
			_ = b.close(ctx)
			return nil, err
		}
	}
	s.life, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	err := s.recover(ctx, orphans)
	if err != nil {
		s.stop()
		return nil, errors.Join(err, s.journal.close(), b.close(ctx))
	}
	if s.cursors, err = openCursors(ctx, b); err != nil {
		s.stop()
		return nil, errors.Join(fmt.Errorf("open ledger: %w", err), s.journal.close(), b.close(ctx))
	}
	go s.run()
	return s, nil
}

// recover books what earlier processes left behind: first their journals, which hold records
// that clients were promised, then their notes, whose requests nobody will finish. A store that cannot be written at
// the moment is an outage like any other: all of it is left for later.
func (s *Store) recover(ctx context.Context, orphans []*journal) error {
	err := s.replayAll(s.journal)
	for _, j := range orphans {
		left := s.replayAll(j)
		if left == nil {
			left = j.remove()
		} else {
			left = errors.Join(left, j.close())
		}
		err = errors.Join(err, left)
	}
	if errors.Is(err, ErrUnavailable) {
		s.cfg.Logger.Error("journal not replayed yet", slog.Any("error", err))
		err = nil
	}
	if err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	booked, err := s.backend.heartbeat(ctx)
	switch {
	case errors.Is(err, ErrUnavailable):
		s.cfg.Logger.Error("requests in flight not looked after yet", slog.Any("error", err))
	case err != nil:
		return fmt.Errorf("open ledger: %w", err)
	}
	if booked > 0 {
		s.cfg.Logger.Warn("requests were cut off by a crash", slog.Int("requests", booked))
	}
	return nil
}

func (s *Store) replayAll(j *journal) (err error) {
	for err == nil && j.records() > 0 {
		err = s.replay(j)
	}
	return err
}

// Place names where the records are, for people: never with a password.
func (s *Store) Place() string {
	place := s.cfg.Type
	if s.cfg.place != "" {
		place += " " + s.cfg.place
	}
	if s.journal != nil && s.cfg.Type == "postgres" {
		place += ", journal " + s.journal.file.Name()
	}
	return place
}

// Start notes that the request of r was sent upstream. It never waits and never
// fails: should the process die before the matching Record, the next Open books the request as
// Interrupted, provided that it was in flight for a second or so. Every Start must be followed by
// Record or Forget of the same ID. A memory ledger takes no notes, because nobody could read them
// after a crash.
func (s *Store) Start(r Record) {
	if s.atOnce {
		return
	}
	r.Outcome = Interrupted
	if r.prepare() == nil {
		s.flight.start(r)
	}
}

// Forget undoes Start for a request that needs no record.
func (s *Store) Forget(id ID) {
	if s.flight.end(id) {
		s.queue.control(&control{do: func(ctx context.Context) error {
			_, err := s.backend.apply(ctx, batch{clear: []ID{id}})
			return err
		}})
	}
}

// Record stores r, once for its ID however often it is called, and returns when r is as durable
// as Config.Durability promises: in the store, or in the journal while the store is down.
//
// ctx bounds only the wait. When it ends first the error wraps ErrUnavailable, and r is usually
// still written later. ErrInvalid means that r can never be stored. What is
// not stored in the end is logged, record and all, and counted in Stats.Failed.
func (s *Store) Record(ctx context.Context, r Record) error {
	noted := s.flight.end(r.ID)
	if err := r.prepare(); err != nil {
		s.lose(&r, err)
		return err
	}
	if s.atOnce {
		return s.recordNow(&pending{record: r, done: make(chan error, 1), placeless: true})
	}
	var done chan error // p is the committer's, once it is in the queue
	if s.cfg.Durability != DurabilityAsync {
		done = make(chan error, 1)
	}
	p := &pending{record: r, noted: noted, done: done}
	if err := s.queue.put(ctx, p); err != nil {
		s.lose(&r, err)
		return fmt.Errorf("record %s: %w", r.ID, err)
	}
	if done == nil {
		return nil
	}
	if s.stuck.Load() {
		return fmt.Errorf("record %s: %w", r.ID, errStuck)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("record %s: %w: %w", r.ID, ErrUnavailable, context.Cause(ctx))
	}
}

// recordNow stores p without the committer: in memory there is nothing to batch and nothing to wait for, and
// two switches between goroutines cost more than the rest. p holds no place in the queue.
func (s *Store) recordNow(p *pending) error {
	select {
	case <-s.queue.shut:
		s.lose(&p.record, ErrClosed)
		return fmt.Errorf("record %s: %w", p.record.ID, ErrClosed)
	default:
	}
	if _, err := s.apply([]*pending{p}, nil); err != nil {
		return err
	}
	return <-p.done
}

// lose makes the loss of a record loud. The log line holds all of it, so that an
// operator can book it by hand; a record holds counts and names, never content.
func (s *Store) lose(r *Record, cause error) {
	s.stats.failed.Add(1)
	s.cfg.Logger.Error("usage record not stored", slog.Any("error", cause), slog.Any("record", r))
}

// DeleteSession removes the totals and records of the one session of an id that seen shows, a slice at a time; rollups
// stay. ErrNotFound when there is none, ErrAmbiguous when several clients have one. When ctx ends halfway the session is
// still there, and may be deleted again.
func (s *Store) DeleteSession(ctx context.Context, seen *Reader, id string) error {
	key := "" // not known yet
	return s.inTurn(ctx, func(ctx context.Context) (bool, error) {
		if key == "" {
			switch found, err := s.backend.named(ctx, seen.whose, id); {
			case err != nil:
				return false, err
			case len(found) == 0:
				return false, fmt.Errorf("session: %w", ErrNotFound)
			case len(found) > 1:
				return false, ErrAmbiguous
			default:
				key = sessionName{found[0].Owner, found[0].ID}.key()
			}
		}
		return s.backend.deleteSession(ctx, key)
	})
}

// SaveState stores a small blob under a name, in place of the one before.
func (s *Store) SaveState(ctx context.Context, name string, data []byte) error {
	return s.inTurn(ctx, func(ctx context.Context) (bool, error) {
		return false, s.backend.saveState(ctx, name, data)
	})
}

// inTurn has the committer run act between two batches, again and again while there is more: the store has
// one writer, so nothing waits for a lock.
func (s *Store) inTurn(ctx context.Context, act func(context.Context) (more bool, err error)) error {
	for more := true; more; {
		c := &control{done: make(chan error, 1)}
		c.do = func(ctx context.Context) (err error) {
			more, err = act(ctx)
			return err
		}
		if !s.queue.control(c) {
			return ErrClosed
		}
		select {
		case err := <-c.done:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
		}
	}
	return nil
}

// Ready tells whether records can be stored now: the last write went well, no record waits in the
// journal, and the store takes the write lock within ctx.
func (s *Store) Ready(ctx context.Context) error {
	if err := s.health.fault(); err != nil {
		return err
	}
	return s.inTurn(ctx, func(ctx context.Context) (bool, error) { return false, s.backend.probe(ctx) })
}

// readPatience is how long Readable waits for an answer.
const readPatience = time.Second

// Readable tells whether questions can be answered now, within a second.
func (s *Store) Readable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	return s.backend.readable(ctx)
}

// News tells what had to be done within the last hour because the store was taken away
// from under the program, and when; "" = nothing.
func (s *Store) News() (done string, at time.Time) { return s.health.news() }

// Close stores what was accepted, waits for that until ctx ends, and closes the store. Records
// that could be put neither into the store nor into the journal are logged, and the error tells
// their number. Close may be called more than once.
func (s *Store) Close(ctx context.Context) error {
	if !s.queue.close() {
		<-s.done
		return nil
	}
	giveUp := context.AfterFunc(ctx, s.stop)
	<-s.done
	giveUp()
	s.stop()
	var lost error
	if left := s.queue.take(1 << 30); len(left) > 0 {
		lost = fmt.Errorf("close ledger: %d records not stored: %w", len(left), s.health.fault())
		for _, p := range left {
			s.lose(&p.record, ErrClosed)
			p.finish(ErrClosed)
		}
	}
	return errors.Join(lost, s.journal.close(), s.backend.close(context.WithoutCancel(ctx)))
}
