// Package ledger keeps what was used: one record per request that was sent upstream, exact token
// totals per session, and rollups per hour and day.
//
// # The promise
//
// When Record has returned nil, the record has been committed once: neither kill -9 nor a power
// cut can lose it or count it twice, given a disk that honours fsync. That is
// durability "full". Under "normal" drop the power cut; under "async" Record does not wait, and a
// crash costs what was waiting. While the store cannot be written, "committed" reads "synced to
// the journal".
//
// In Postgres the disk is the server's, and so are the crashes that count. "full" asks for
// synchronous_commit = on, whatever role or database have as default, and means what the server makes
// of it: with synchronous standbys, theirs too; with fsync = off nothing, which is warned of. "normal"
// and "async" ask for off: kill -9 of the sidecar loses nothing under "normal", but a crash or
// power cut of the server takes back what it committed in about its last half second (three times wal_writer_delay).
//
// # Exactly once
//
// A record is known by its ID, a UUIDv7 that its request got at birth. One transaction inserts
// the records of a batch, ON CONFLICT DO NOTHING, and adds to sessions and rollups only what the
// insert returned as new. Therefore everything may be repeated: a retry by the caller, a batch after
// a failed commit whose outcome is uncertain, the replay of a journal. Totals equal the sum of
// the records at every moment that anybody can see.
//
// # One writer
//
// SQLite has one write lock, and an fsync costs more than a hundred rows. So one goroutine, the
// committer, writes: it takes what has gathered while its last transaction ran, commits that, and
// looks again. There is no timer: an idle store commits at once, a busy one shares its fsync.
// Deletions and retention go through the same goroutine in slices, so nothing waits
// for a lock. Read store.go, then committer.go. In memory there is nothing to share, and Record writes itself.
//
// Several sidecars may share one Postgres, each with its own committer and one connection for it. A batch turns
// many requests of a busy session into one update of its row, so they seldom wait for each other. All take
// their locks in one order: names, new sessions, requests, session totals, rollups, budgets, notes, each list in the
// order of its keys. There are no foreign keys, which would lock rows out of that order. Read postgres.go.
//
// # When the store is down
//
// Errors of a backend are of two kinds. ErrInvalid: this data can never be stored; the batch is
// halved until the culprit is alone, which is logged in full and counted. ErrUnavailable: locked,
// full, read-only, broken; the batch goes to the journal, whose space was taken beforehand, and the
// store is tried again after 100 ms, then 200 ms, up to 5 s. Should the journal fail too, records wait in
// a bounded queue, and their callers as long as they like. Nothing is dropped in silence.
//
// Of Postgres only SQLSTATEs that speak of the data (22, 23502, 23514, 54) are ErrInvalid. A server that does not
// answer within 3 s is unavailable; meanwhile it is asked beside the committer, so that records go to the
// journal without waiting. A commit whose answer was lost is repeated.
//
// # Requests in flight
//
// Start remembers a request. What is still open after a second is written to the store as a note,
// unawaited; a memory ledger has no notes. When the next process finds such notes, and the operating system's lock on
// the ledger says that nobody else lives, it books them as Interrupted, usage unknown.
//
// A database has no such lock. There a note names its instance, and is booked when that one has ended or has been
// silent for Config.DeadAfter; see postgres_live.go. A record that comes all the same takes the place of
// the Interrupted one: that a process is dead can only be guessed at from afar, and exact usage must not be lost to a guess.
//
// # Layout
//
// In SQLite the time-ordered id is the primary key of a table without rowid: it serves as row id, unique
// index, and index of time. Names of models, clients and routes are stored once, and records hold
// their numbers. Unknown usage is NULL; estimates have columns of their own.
// Times are unix milliseconds.
package ledger
