package llm

import (
	"math"
	"time"
)

// An Instant is a monotonic time in nanoseconds since the limiter was made. What
// schedules only compares and adds instants, so steps of the wall clock do not
// reach it.
type Instant int64

// Never is after every other instant.
const Never Instant = math.MaxInt64

// Add returns t + d, or Never where that is too far away to tell.
func (t Instant) Add(d time.Duration) Instant {
	if d > 0 && t > Never-Instant(d) {
		return Never
	}
	return t + Instant(d)
}

// Sub returns t − u.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }
