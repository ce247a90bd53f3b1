package limit

import "time"

// meters is where charges are booked in this process: one bucket per dimension.
// All of them are charged, or none.
type meters [numDimensions]bucket

// attach tells the buckets which meters they belong to. It must be called on new
// meters, and on a copy.
func (m *meters) attach() {
	of := &shape{version: 1}
	for d := range m {
		b := &m[d]
		b.dim, b.of = dimension(d), of
		of.set(b.dim, b.on)
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

// ready tells when c may be taken (now, if at once), and which limit binds.
// never means: when a place comes back.
func (m *meters) ready(now instant, c charge) (instant, dimension) {
	at, binding := now, dimension(-1)
	for on := m[0].of.on; on != 0; {
		d := on.next()
		if t := m[d].ready(now, c.amount(d, 1)); t > at {
			at, binding = t, d
		}
	}
	return at, binding
}

// tryTake takes c if it may be taken now, and tells its share: ready, take and
// share in one pass, for the case that nobody waits.
func (m *meters) tryTake(now instant, c charge) (share float64, ok bool) {
	m[0].of.passed = 0
	for on := m[0].of.on; on != 0; {
		left := on
		d := on.next()
		b, amount := &m[d], c.amount(d, 1)
		b.advance(now)
		// The guard is at most a second; to work out the reserve is for when that matters.
		if b.level < amount+b.rate+b.foreign+b.spill && b.level < amount+b.reserve() && b.ready(now, amount) > now {
			m.untake(m[0].of.on&^left, now, c)
			return 0, false
		}
		b.take(amount)
		if s := amount * b.per; s > share {
			share = s
		}
	}
	return share, true
}

// untake undoes a take of this very moment.
func (m *meters) untake(on dimensions, now instant, c charge) {
	for on != 0 {
		d := on.next()
		m[d].untake(now, c.amount(d, 1))
	}
}

func (m *meters) take(now instant, c charge) {
	for on := m[0].of.on; on != 0; {
		d := on.next()
		b := &m[d]
		b.advance(now)
		b.take(c.amount(d, 1))
	}
}

// refund gives back c as of the instant it was taken, and requests places of
// the requests per period with it. c may be negative.
func (m *meters) refund(now instant, c charge, requests int64, taken instant) {
	for on := m[0].of.on; on != 0; {
		d := on.next()
		m[d].refund(now, c.amount(d, requests), taken)
	}
}

// settle refunds back and tells the share of used.
func (m *meters) settle(now instant, back, used charge, taken instant) (share float64) {
	for on := m[0].of.on; on != 0; {
		d := on.next()
		b := &m[d]
		if amount := back.amount(d, 0); amount > 0 && b.refill == continuous {
			b.giveBack(amount)
		} else if amount != 0 {
			b.refund(now, amount, taken)
		}
		if s := used.amount(d, 1) * b.per; s > share {
			share = s
		}
	}
	return share
}

// leave gives back the place of one request in flight.
func (m *meters) leave() {
	if b := &m[dimConcurrent]; b.on {
		b.level = min(b.limit, b.level+1)
	}
}

// wait estimates the seconds until c can be taken when n requests that cost
// ahead go first, and names the limit that binds.
func (m *meters) wait(now instant, ahead charge, n int64, c charge) (float64, dimension) {
	longest, binding := 0.0, dimension(-1)
	for on := m[0].of.on; on != 0; {
		d := on.next()
		if s := m[d].wait(now, ahead.amount(d, n), c.amount(d, 1)); s > longest {
			longest, binding = s, d
		}
	}
	return longest, binding
}

// share is the dominant share of c: the longest time that one of the limits
// needs to make up for it, in seconds; 0 when there is no limit.
func (m *meters) share(c charge) float64 {
	longest := 0.0
	for on := m[0].of.on; on != 0; {
		d := on.next()
		if s := c.amount(d, 1) * m[d].per; s > longest {
			longest = s
		}
	}
	return longest
}

// bounded says whether any limit holds at all.
func (m *meters) bounded() bool { return m[0].of.on != 0 }
