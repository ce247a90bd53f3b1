//go:build !unix || solaris || illumos || aix

package ledger

import (
	"context"
	"os"
	"time"
)

// fileLock does nothing here: on these systems two processes must not share a ledger file.
type fileLock struct{}

func lockFile(context.Context, string, time.Duration) (*fileLock, bool, error) {
	return &fileLock{}, true, nil
}

func tryLock(*os.File) (bool, error) { return true, nil }

func (*fileLock) share() error { return nil }
func (*fileLock) close() error { return nil }
