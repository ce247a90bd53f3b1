package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/uptrace/bun"
)

// A file can be taken away from under the program: removed, replaced, emptied. SQLite
// goes on with what it has open, and what it writes there is gone when the program
// ends. So whoever commits asks intact before it says that a record is safe. If the
// file is not what it was, that counts as an outage: records go to the journal, and
// restore makes the path a ledger again. Nothing is deleted that holds data: what is in
// the way is set aside.

const takenAway = "the ledger's file was taken away from under the program"

// sides are the ends of the names of what belongs to the database.
var sides = [...]string{"", "-wal", "-shm", ".lock"}

// sqliteHeader is how a database file begins.
var sqliteHeader = []byte("SQLite format 3\x00")

// identity is what the files were when they were opened.
type identity struct {
	file  *os.File // open as long as SQLite has it open: to close it earlier would drop SQLite's locks
	known [len(sides)]fs.FileInfo
}

// remember notes what is open now. The pools must have used their connections.
func (f *sqliteFile) remember() error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	was := f.identity.file
	f.identity = identity{file: file}
	if was != nil {
		_ = was.Close()
	}
	for i := range sides {
		info, err := os.Stat(f.side(i))
		switch {
		case err == nil:
			f.identity.known[i] = info
		case i == 0 || !errors.Is(err, fs.ErrNotExist): // there is no -shm with locking_mode=EXCLUSIVE
			return err
		}
	}
	return nil
}

// side is the path of the ith of sides. SQLite puts its own beside what a link means.
func (f *sqliteFile) side(i int) string {
	if sides[i] == "-wal" || sides[i] == "-shm" {
		return f.real + sides[i]
	}
	return f.path + sides[i]
}

// ErrTakenAway is the ErrUnavailable of a store whose files were removed or replaced.
var ErrTakenAway = fmt.Errorf("%w: taken away", ErrUnavailable)

// errLost is about the database file itself, errSide about what lies beside it.
var (
	errLost = fmt.Errorf("%w: the file of the ledger", ErrTakenAway)
	errSide = fmt.Errorf("%w: a file beside that of the ledger", ErrTakenAway)
)

// intact tells whether the files are still those that were opened: an error says which
// is not. It is safe to be called beside everything but restore.
func (f *sqliteFile) intact() error {
	for i, was := range f.identity.known {
		if was == nil {
			continue
		}
		about := errSide
		if i == 0 {
			about = errLost
		}
		now, err := os.Stat(f.side(i))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w was removed: %s", about, f.side(i))
		case err != nil:
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		case !os.SameFile(was, now):
			return fmt.Errorf("%w was replaced: %s", about, f.side(i))
		}
	}
	head := make([]byte, len(sqliteHeader))
	if _, err := f.identity.file.ReadAt(head, 0); err != nil || !bytes.Equal(head, sqliteHeader) {
		return fmt.Errorf("%w was overwritten: %s", errLost, f.path)
	}
	return nil
}

// restore makes the path a ledger again, after intact said that it is none, and opens
// it anew. It says what was done, "" = nothing. Nobody may write meanwhile.
//
//	what became of the file                what is done
//	side files are gone                    all goes into the file, which is opened anew
//	removed, or an empty one is there      what is still open is put back; if that cannot be read, a new one begins
//	another ledger is there                it is taken; what was open is kept beside it
//	something else is there                it is set aside, and what is still open is put back
//	emptied or overwritten in place        what is left is set aside, a new one begins
func (f *sqliteFile) restore(ctx context.Context, b *sqlBackend) (done string, err error) {
	lost := f.intact()
	if lost == nil {
		return "", nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", lost, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(f.real), 0o700); err != nil {
		return "", err
	}
	free, err := f.guard()
	if err != nil {
		return "", err
	}
	defer free()

	fresh := f.real + ".restoring"
	if errors.Is(lost, errLost) {
		done, err = f.place(ctx, fresh)
	} else {
		done, err = "its side files were made anew", f.checkpoint(ctx)
	}
	if err != nil {
		return "", err
	}
	if f.did == "" { // else an earlier attempt came as far as that
		if err := f.hangUp(ctx); err != nil {
			return "", err
		}
		f.did = done
	}
	// Nothing holds the old file any more: should a step fail, the next attempt begins
	// with what is at the path then.
	if err := f.settle(fresh); err != nil {
		return "", err
	}
	m := f.schema
	if m.alone, err = f.relock(ctx); err != nil {
		return "", err
	}
	clear(b.names)
	b.pruned = ID{}
	if err := f.check(ctx); err != nil {
		return "", err
	}
	if err := waitBusy(ctx, func() error { return m.up(ctx, f.write) }); err != nil {
		return "", sqliteErr(err)
	}
	if err := errors.Join(b.loadPruned(ctx), f.remember()); err != nil {
		return "", err
	}
	done, f.did = f.did, ""
	return done, nil
}

// relock takes the lock of the file that is there now.
func (f *sqliteFile) relock(ctx context.Context) (alone bool, err error) {
	_ = f.lock.close() // or it would keep this process from being alone
	lock, alone, err := lockFile(ctx, f.path+".lock", openPatience)
	if err != nil {
		return false, err
	}
	f.lock = lock
	if alone { // for the migration others would have to wait a moment; none is there
		err = lock.share()
	}
	return alone, err
}

// guard keeps other processes from restoring the same file, until free is called.
func (f *sqliteFile) guard() (free func(), err error) {
	file, err := os.OpenFile(f.real+".restoring.lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	taken, err := tryLock(file)
	if err == nil && !taken {
		err = fmt.Errorf("%w: another process restores it", ErrUnavailable)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = os.Remove(file.Name()); _ = file.Close() }, nil
}

// place decides what the path is to hold. What has to be put there lies at fresh
// afterwards; if nothing does, what is at the path is taken.
func (f *sqliteFile) place(ctx context.Context, fresh string) (done string, err error) {
	_ = os.Remove(fresh) // of an attempt that was killed
	now, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if now, err := os.Stat(f.real); err == nil && os.SameFile(now, f.identity.known[0]) {
			return "the link to it was put back", os.Symlink(f.real, f.path)
		}
	case err != nil:
		return "", err
	case os.SameFile(now, f.identity.known[0]): // overwritten in place
		aside, err := f.setAside()
		if err != nil {
			return "", err
		}
		return "it was overwritten and is lost; a new one was begun, what is left is " + aside, createPrivate(fresh)
	case now.Size() == 0:
		if err := os.Remove(f.path); err != nil {
			return "", err
		}
	default:
		if done, err := f.take(ctx, fresh); err == nil || !errors.Is(err, errNoLedger) {
			return done, err
		}
		aside, err := f.setAside()
		if err != nil {
			return "", err
		}
		done = "; what was in its place is now " + aside
	}
	err = f.copyOut(ctx, fresh)
	if errors.Is(err, errUnreadable) {
		return "it is lost, a new one was begun" + done, createPrivate(fresh)
	}
	return "it was put back whole" + done, err
}

// setAside gives what is at the path another name.
func (f *sqliteFile) setAside() (name string, err error) {
	name = f.asideName()
	return filepath.Base(name), os.Rename(f.path, name)
}

func (f *sqliteFile) asideName() string {
	return f.path + ".aside-" + time.Now().UTC().Format("20060102T150405.000")
}

var (
	errNoLedger   = errors.New("it is no ledger")
	errUnreadable = errors.New("what was open cannot be read")
)

// take makes use of another ledger that was put at the path, as from a backup. What was
// open is kept beside it, if it can be read.
func (f *sqliteFile) take(ctx context.Context, fresh string) (done string, err error) {
	// The log of the old file is not this one's: SQLite would play it into it.
	for i, side := range sides {
		if side != "-wal" && side != "-shm" {
			continue
		}
		if now, err := os.Stat(f.side(i)); err == nil && f.identity.known[i] != nil && os.SameFile(now, f.identity.known[i]) {
			if err := os.Remove(f.side(i)); err != nil {
				return "", err
			}
		}
	}
	if err := f.usable(ctx); err != nil {
		return "", err
	}
	if f.same(ctx) {
		return "another process has put it back", nil
	}
	if err := f.copyOut(ctx, fresh); err != nil {
		_ = os.Remove(fresh)
		return "another ledger took its place; what it held could not be kept: " + err.Error(), nil //nolint:nilerr // it is told, and the ledger that is there is used
	}
	kept := f.asideName()
	return "another ledger took its place; what it held is now " + filepath.Base(kept), os.Rename(fresh, kept)
}

// usable tells whether a ledger is at the path that this program can bring up to date;
// errNoLedger is the answer that it is not.
func (f *sqliteFile) usable(ctx context.Context) error {
	db, err := openPool(f.path, map[string][]string{"mode": {"ro"}}, []string{busyPragma(), "query_only(1)"}, 1)
	if err != nil {
		return err
	}
	defer db.Close()
	var names []string
	err = db.NewSelect().Table("schema_migrations").Column("name").Scan(ctx, &names)
	if code, _ := sqliteCode(err); code == codeBusy || ctx.Err() != nil {
		return err
	}
	known, failed := migrationsOf(f.schema.files)
	verdict := "not looked into"
	switch {
	case failed != nil:
		return failed
	case err != nil:
	case len(names) == 0 || slices.ContainsFunc(names, func(name string) bool {
		return !slices.ContainsFunc(known, func(m migration) bool { return m.name == name })
	}):
		err = errors.New("its schema is not known here")
	default:
		err = db.NewRaw("PRAGMA quick_check(1)").Scan(ctx, &verdict)
	}
	if err == nil && verdict != "ok" {
		err = errors.New(verdict)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNoLedger, err)
	}
	return nil
}

// same tells whether the ledger at the path has the newest row of what is open: then
// it has the others as well.
func (f *sqliteFile) same(ctx context.Context) bool {
	var newest []ID
	if err := f.write.NewSelect().Table("requests").Column("id").Order("id DESC").Limit(1).Scan(ctx, &newest); err != nil || len(newest) == 0 {
		return false
	}
	db, err := openPool(f.path, map[string][]string{"mode": {"ro"}}, []string{busyPragma(), "query_only(1)"}, 1)
	if err != nil {
		return false
	}
	defer db.Close()
	found, err := db.NewSelect().Table("requests").Where("id = ?", newest[0]).Exists(ctx)
	return err == nil && found
}

// copyOut writes what is still open to a new file. errUnreadable says that it cannot be
// read; other errors are of the place, and may pass.
func (f *sqliteFile) copyOut(ctx context.Context, to string) error {
	if err := createPrivate(to); err != nil { // SQLite takes an empty file, and its mode
		return err
	}
	_, err := f.write.ExecContext(ctx, "SELECT 1 FROM sqlite_schema LIMIT 1")
	if code, _ := sqliteCode(err); f.did != "" || code == codeCantOpen {
		return errors.Join(errUnreadable, os.Remove(to)) // the connection is a new one
	}
	if err == nil {
		_, err = f.write.ExecContext(ctx, "VACUUM INTO ?", to)
	}
	if err == nil {
		return syncFile(to)
	}
	_ = os.Remove(to)
	if code, ok := sqliteCode(err); ok && (code == codeCorrupt || code == codeNotADB) {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return err
}

func syncFile(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// settle puts what lies at fresh, if anything does, at the path.
func (f *sqliteFile) settle(fresh string) error {
	if _, err := os.Stat(fresh); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// What the old file's connections left beside it is of the old file.
	for i, side := range sides {
		if side == "-wal" || side == "-shm" {
			_ = os.Remove(f.side(i))
		}
	}
	err := os.Link(fresh, f.real) // not over a file that came meanwhile
	switch {
	case err == nil:
		err = os.Remove(fresh)
	case !errors.Is(err, fs.ErrExist): // this file system has no links
		err = os.Rename(fresh, f.real)
	}
	return errors.Join(err, syncDir(filepath.Dir(f.real)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	_ = d.Sync() // not every file system has that
	return d.Close()
}

// checkpoint moves all of the log into the file.
func (f *sqliteFile) checkpoint(ctx context.Context) error {
	var busy, log, moved int
	if err := f.write.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &moved); err != nil {
		return sqliteErr(err)
	}
	if busy != 0 {
		return fmt.Errorf("%w: it is being read", ErrUnavailable)
	}
	return nil
}

// hangUp closes all connections; the next ones open what is at the path then. SQLite
// removes the log by its name as the last one is closed, so no new file may be there yet.
func (f *sqliteFile) hangUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	for _, pool := range []*bun.DB{f.read, f.write} {
		if err := closeAll(ctx, pool.DB); err != nil {
			return fmt.Errorf("%w: it is being read: %w", ErrUnavailable, err)
		}
	}
	return nil
}

// closeAll closes all of a pool's connections. It takes each one, which waits for
// whoever uses it.
func closeAll(ctx context.Context, pool *sql.DB) error {
	var all []*sql.Conn
	defer func() {
		for _, conn := range all {
			_ = conn.Close()
		}
	}()
	for pool.Stats().OpenConnections > len(all) {
		conn, err := pool.Conn(ctx)
		switch code, ok := sqliteCode(err); {
		case err == nil:
			all = append(all, conn)
		case !ok || code != codeCantOpen:
			return err
		default: // it tried a new one, while others are in use
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	for _, conn := range all {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // which closes it for good
	}
	return nil
}
