package limit

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	soonestRetry = time.Second
	latestRetry  = 59 * time.Second // longer ones are ignored by the SDKs
)

// refuse builds the error of a refusal. Waits are spread by a tenth, so that
// those who are refused together do not come back together.
func (c *core) refuse(why Reason, after time.Duration, limit string, position int, forecast time.Duration) *Rejected {
	c.stats.refused[why]++
	e := &Rejected{Reason: why, Limit: limit, Position: position, Forecast: forecast}
	if why == DailyLimit {
		e.RetryAfter = after
		return e
	}
	after = scale(after, 0.9+0.2*c.roll())
	e.RetryAfter = min(max(after, soonestRetry), latestRetry)
	return e
}

// verdict builds the error of a request that was refused in the queue.
func (c *core) verdict(le *Lease, now llm.Instant) *Rejected {
	m, w := le.model, &le.queued
	l := m.lanes[0]
	charge, before, all := l.Charge(w.Load), l.Charge(m.queue.Ahead(w.Session, llm.Load{})), l.Charge(c.sum)
	before[llm.Requests], before[llm.RequestsDay] = 0, 0
	ask := lane.Ask{Client: w.Session.Client(), Charge: charge}
	wait, d := l.Wait(now, before, ask)
	if t, e := c.caps.Wait(now, all, ask); t > wait {
		wait, d = t, e
	}
	return c.refuse(le.reason, wait, d.String(), 0, wait).quoting(m, now)
}

// quoting adds the last word that m's provider gave when it turned requests away.
func (e *Rejected) quoting(m *model, now llm.Instant) *Rejected {
	for _, l := range m.lanes {
		if said := l.Said(now); said != "" && e.Reason != QueueFull && e.Reason != Draining {
			e.Said = said
		}
	}
	return e
}

// victim is the request that gives way when the queue is full: the last of the
// longest session of the longest client of the lowest band; nil if nobody waits.
func (c *core) victim() *Lease {
	for band := Low.band(); band >= High.band(); band-- {
		var longest *queue.Flow
		for _, m := range c.active {
			if m == c.control.dues {
				continue
			}
			if f := m.queue.Longest(band); f != nil && (longest == nil || f.Waiting() > longest.Waiting()) {
				longest = f
			}
		}
		if longest != nil {
			return owner(longest.Last())
		}
	}
	return nil
}

// full reports whether the queue holds more than it may.
func (c *core) full() bool {
	return c.waiting > c.cfg.MaxWaiting ||
		c.cfg.MaxWaitingBytes > 0 && c.bytes > c.cfg.MaxWaitingBytes ||
		c.cfg.MaxWaitingTokens > 0 && c.waiting > 1 && c.sum.Tokens() > c.cfg.MaxWaitingTokens
}

// makeRoom lets others give way until the queue, with the newcomer le in it, keeps
// its bounds, and reports whether it does. A newcomer gives way itself if its own
// session is the longest, or its band the lowest.
func (c *core) makeRoom(le *Lease, now llm.Instant) bool {
	for c.full() {
		v := c.victim()
		mine, theirs := le.queued.Session, v.queued.Session
		switch client := mine.Parent; {
		case mine == theirs, mine.Band() > theirs.Band():
			return false
		case mine.Band() < theirs.Band():
		case client != theirs.Parent && client.Waiting() > theirs.Parent.Waiting():
			return false
		case client == theirs.Parent && mine.Waiting() > theirs.Waiting():
			return false
		}
		c.reject(v, QueueFull, now)
	}
	return true
}
