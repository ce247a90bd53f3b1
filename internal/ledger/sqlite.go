package ledger

import (
	"context"
	"fmt"
)

func openSQLite(context.Context, *Config) (backend, error) {
	return nil, fmt.Errorf("open ledger: %w: sqlite comes next", ErrInvalid)
}
