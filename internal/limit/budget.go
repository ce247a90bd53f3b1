package limit

import "time"

// A budget is where charges are booked: all dimensions at once or none. The
// scheduler knows only this, so that a budget leased from a shared engine can
// later stand where the embedded meters stand now.
type budget interface {
	// ready tells when c may be taken (now, if at once), and which limit binds.
	// never means: when a place comes back.
	ready(now instant, c charge) (instant, dimension)
	take(now instant, c charge)
	// refund gives back c as of the instant it was taken, and requests places of
	// the requests per period with it. c may be negative.
	refund(now instant, c charge, requests int64, taken instant)
	// leave gives back the place of one request in flight.
	leave()
	// wait estimates the seconds until c can be taken when n requests that cost
	// ahead go first, and names the limit that binds.
	wait(now instant, ahead charge, n int64, c charge) (float64, dimension)
	// share is the dominant share of c: the longest time that one of the limits
	// needs to make up for it, in seconds; 0 when there is no limit.
	share(c charge) float64
}

// meters is the embedded budget: one bucket per dimension.
type meters [numDimensions]bucket

var _ budget = (*meters)(nil)

// attach tells the buckets which meters they belong to. It must be called on new
// meters, and on a copy.
func (m *meters) attach() {
	live := new(dimensions)
	for d := range m {
		b := &m[d]
		b.dim, b.live = dimension(d), live
		live.set(b.dim, b.on)
	}
}

// configure applies limits, scaled by share. A learned limit that is lower
// than the configured one stays.
func (m *meters) configure(now instant, l [numDimensions]int64, share float64, kind refill) {
	for d := range m {
		b := &m[d]
		configured := float64(l[d]) * share
		if b.learned && (configured <= 0 || b.limit < configured) {
			continue
		}
		b.learned = false
		k, period := kind, time.Minute
		switch dimension(d) {
		case dimRequestsDay, dimTokensDay:
			k, period = daily, 24*time.Hour
		case dimConcurrent:
			k, period = places, time.Second
			if configured > 0 && configured < 1 {
				configured = 1 // a third of two places must not be none
			}
		}
		if b.paced {
			k = b.refill
		}
		b.configure(now, configured, k, period)
	}
}

func (m *meters) ready(now instant, c charge) (instant, dimension) {
	at, binding := now, dimension(-1)
	for live := *m[0].live; live != 0; {
		d := live.next()
		if t := m[d].ready(now, c.amount(d, 1)); t > at {
			at, binding = t, d
		}
	}
	return at, binding
}

func (m *meters) take(now instant, c charge) {
	for live := *m[0].live; live != 0; {
		d := live.next()
		m[d].take(now, c.amount(d, 1))
	}
}

func (m *meters) refund(now instant, c charge, requests int64, taken instant) {
	for live := *m[0].live; live != 0; {
		d := live.next()
		b := &m[d]
		if b.refill == places || b.refill == daily && taken < b.reset-instant(24*time.Hour) {
			continue // a place comes back when its request ends; a day that is over does not
		}
		if amount := c.amount(d, requests); amount != 0 {
			b.refund(now, amount, taken)
		}
	}
}

func (m *meters) leave() {
	if b := &m[dimConcurrent]; b.on {
		b.level = min(b.limit, b.level+1)
	}
}

func (m *meters) wait(now instant, ahead charge, n int64, c charge) (float64, dimension) {
	longest, binding := 0.0, dimension(-1)
	for live := *m[0].live; live != 0; {
		d := live.next()
		if s := m[d].wait(now, ahead.amount(d, n), c.amount(d, 1)); s > longest {
			longest, binding = s, d
		}
	}
	return longest, binding
}

func (m *meters) share(c charge) float64 {
	longest := 0.0
	for live := *m[0].live; live != 0; {
		d := live.next()
		if s := c.amount(d, 1) * m[d].per; s > longest {
			longest = s
		}
	}
	return longest
}

// bounded says whether any limit holds at all.
func (m *meters) bounded() bool { return *m[0].live != 0 }
