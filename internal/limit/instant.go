package limit

import (
	"math"
	"time"
)

// An instant is a monotonic time in nanoseconds since the limiter was made. The
// core only ever compares and adds instants, so steps of the wall clock do not
// reach it.
type instant int64

const never instant = math.MaxInt64

func (t instant) add(d time.Duration) instant {
	if d > 0 && t > never-instant(d) {
		return never
	}
	return t + instant(d)
}

func (t instant) sub(u instant) time.Duration { return time.Duration(t - u) }

// seconds converts a float of seconds, rounding up: a wake-up that is a
// nanosecond early finds the bucket a hair short and costs a second one.
func seconds(s float64) time.Duration {
	if s >= math.MaxInt64/1e9 {
		return math.MaxInt64
	}
	return time.Duration(math.Ceil(s * 1e9))
}
