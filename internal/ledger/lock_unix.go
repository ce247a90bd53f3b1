//go:build unix && !solaris && !illumos && !aix

package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// fileLock is a lock of the operating system, which no crash leaves behind. Every process that uses
// a ledger file shares the lock while it lives. One that gets it exclusively is therefore alone:
// it may migrate, and the notes of requests in flight that it finds belong to the dead.
type fileLock struct{ file *os.File }

// lockFile takes the lock at path, exclusively if nobody shares it.
func lockFile(ctx context.Context, path string, patience time.Duration) (_ *fileLock, alone bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, how := range []int{syscall.LOCK_EX, syscall.LOCK_SH} {
			err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
			if err == nil {
				return &fileLock{f}, how == syscall.LOCK_EX, nil
			}
			if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
				return nil, false, errors.Join(fmt.Errorf("lock: %w", err), f.Close())
			}
		}
		select { // somebody migrates
		case <-tick.C:
		case <-ctx.Done():
			return nil, false, errors.Join(fmt.Errorf("%w: another process is migrating it", ErrUnavailable), f.Close())
		}
	}
}

// tryLock takes f for this process alone, until f is closed; false when another one has it.
func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// share lets others in.
func (l *fileLock) share() error { return syscall.Flock(int(l.file.Fd()), syscall.LOCK_SH) }

func (l *fileLock) close() error { return l.file.Close() }
