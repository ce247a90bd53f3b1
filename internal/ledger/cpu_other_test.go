//go:build !linux

package ledger

import "time"

func threadCPU() time.Duration { return 0 }
