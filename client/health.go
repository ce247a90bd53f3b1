package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

const (
	probeTimeout  = 2 * time.Second // of one probe: a sidecar that hangs is not ready
	firstInterval = 10 * time.Millisecond
	lastInterval  = 500 * time.Millisecond
)

// Health returns nil when the sidecar is ready to take requests, and otherwise
// why it is not: an [*Error] with StatusCode 503 while it starts or drains, an
// error of the connection when nothing listens.
func (c *Client) Health(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/readyz", nil, nil)
}

// WaitReady returns nil as soon as [Client.Health] does, asking again at growing
// intervals of up to half a second. It gives up when ctx ends, so give ctx a
// deadline, or when the answer shows that something else listens there. The error
// wraps the last one of Health and, in the first case, ctx's.
func (c *Client) WaitReady(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last error
	for interval := firstInterval; ; interval = min(2*interval, lastInterval) {
		select {
		case <-ctx.Done():
			err := context.Cause(ctx)
			if last != nil {
				err = fmt.Errorf("%w (last answer: %w)", err, last)
			}
			return fmt.Errorf("client: wait for the sidecar at %s: %w", c.base, err)
		case <-timer.C:
		}
		probe, cancel := context.WithTimeout(ctx, probeTimeout)
		err := c.Health(probe)
		cancel()
		if err == nil {
			return nil
		}
		// The probe that ctx's end cut short says less than the one before.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		var answer *Error
		if errors.As(err, &answer) && answer.StatusCode < 500 {
			return fmt.Errorf("client: wait for the sidecar at %s: %w", c.base, err)
		}
		timer.Reset(interval)
	}
}
