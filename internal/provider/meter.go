package provider

import "time"

// A meter is one limit over time. Amounts are requests or tokens. Its callers
// pass a time that does not run backwards; one that does is read as no progress.
type meter interface {
	// wait returns how long until n fits, and false when it never will.
	wait(now time.Time, n int64) (time.Duration, bool)
	// take charges n; negative gives back. It may drive the level below zero.
	take(now time.Time, n int64)
	// level returns what is left (negative: debt) and the time to a full level.
	level(now time.Time) (remaining int64, reset time.Duration)
}

// unit is the scale of a bucket's level: microseconds in a minute. A limit of
// L per minute then drains exactly L per microsecond, in integers; the largest
// limit that does not overflow is 10^11 per minute.
const unit = int64(time.Minute / time.Microsecond)

// bucket drains continuously at limit per minute.
type bucket struct {
	limit    int64 // per minute
	capacity int64
	used     int64 // in 1/unit
	at       time.Time
}

func newBucket(perMinute int64, burst time.Duration) *bucket {
	return &bucket{limit: perMinute, capacity: max(1, scale(perMinute, burst))}
}

// scale returns perMinute's share of d, rounded up.
func scale(perMinute int64, d time.Duration) int64 {
	us := int64(d / time.Microsecond)
	return (perMinute*us + unit - 1) / unit
}

func (b *bucket) advance(now time.Time) {
	if b.at.IsZero() {
		b.at = now
	}
	us := int64(now.Sub(b.at) / time.Microsecond)
	if us <= 0 {
		return
	}
	// Only whole microseconds pass; the rest stays on the clock for next time.
	b.at = b.at.Add(time.Duration(us) * time.Microsecond)
	if us > b.used/b.limit {
		b.used = 0
		return
	}
	b.used -= us * b.limit
}

func (b *bucket) wait(now time.Time, n int64) (time.Duration, bool) {
	b.advance(now)
	if n > b.capacity {
		return 0, false
	}
	over := b.used + (n-b.capacity)*unit
	if over <= 0 {
		return 0, true
	}
	return time.Duration((over+b.limit-1)/b.limit) * time.Microsecond, true
}

func (b *bucket) take(now time.Time, n int64) {
	b.advance(now)
	b.used = max(0, b.used+n*unit)
}

func (b *bucket) level(now time.Time) (int64, time.Duration) {
	b.advance(now)
	// Shift before the division: it must round down for debts too.
	used := (b.used + unit - 1) / unit
	reset := time.Duration((b.used+b.limit-1)/b.limit) * time.Microsecond
	return b.capacity - used, reset
}

// window counts what was taken since the wall clock's last multiple of length.
type window struct {
	limit  int64 // per window
	length time.Duration
	start  time.Time
	used   int64
}

func (w *window) roll(now time.Time) {
	if start := now.Truncate(w.length); start.After(w.start) {
		w.start, w.used = start, 0
	}
}

func (w *window) wait(now time.Time, n int64) (time.Duration, bool) {
	w.roll(now)
	switch {
	case n > w.limit:
		return 0, false
	case w.used+n <= w.limit:
		return 0, true
	}
	return w.start.Add(w.length).Sub(now), true
}

func (w *window) take(now time.Time, n int64) {
	w.roll(now)
	// A refund may belong to a window that is over; it gives this one nothing.
	w.used = max(0, w.used+n)
}

func (w *window) level(now time.Time) (int64, time.Duration) {
	w.roll(now)
	return w.limit - w.used, w.start.Add(w.length).Sub(now)
}
