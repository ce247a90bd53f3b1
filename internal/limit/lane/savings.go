package lane

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	reserveSpan  = 2.0              // seconds of refill that stay for small clients and newcomers
	savingsLapse = 10 * time.Minute // after which what nobody comes back for is everybody's again
)

// Savings are the part of a Clock's levels that others leave alone, for a request that
// needs more than there ever is beside them. They are no account: what is saved stays
// in the level, so that it can neither spill nor be given twice, and is as much as the
// level has. There is one saver at a time. Others that need much save for it too, and
// then it is their turn: two savers cannot wait for each other.
type savings struct {
	any   bool
	saver uint64 // who goes when there is enough; 0 = whoever needs much next
	kept  llm.Vector
	lapse llm.Instant // when nobody is the saver
}

// Saves reports whether those who wait for l can save up: not where its source leases
// from others. There the lender keeps what a large ask is due.
func (l *Lane) Saves() bool {
	_, ok := l.source.(*Clock)
	return ok
}

// Save keeps an ask's charge, an instalment which When has just let go, from others.
func (l *Lane) Save(a Ask) {
	c, ok := l.source.(*Clock)
	if !ok {
		return
	}
	s := &c.saved
	if !s.any || s.saver == 0 {
		s.any, s.saver = true, a.Saver
	}
	s.kept.Add(a.Charge, 1)
}

// Forsake tells that the request of that number does not save any more.
func (l *Lane) Forsake(now llm.Instant, saver uint64) {
	if c, ok := l.source.(*Clock); ok {
		c.saved.forsake(now, saver)
	}
}

func (s *savings) forsake(now llm.Instant, saver uint64) {
	if s.any && s.saver == saver {
		s.saver, s.lapse = 0, now.Add(savingsLapse)
	}
}

// fits reports whether there is room for an instalment beside what is saved.
func (c *Clock) fits(a *Ask) (llm.Dimension, bool) {
	for on := c.on; on != 0; {
		d := on.next()
		if b := &c.buckets[d]; a.Charge[d] > 0 && c.saved.kept[d]+a.Charge[d] > b.room() {
			return d, false
		}
	}
	return llm.None, true
}

// Saved is what is saved of l's source.
func (l *Lane) Saved() llm.Vector {
	if c, ok := l.source.(*Clock); ok {
		return c.saved.kept
	}
	return llm.Vector{}
}

// keep lowers what is saved to what the levels still have.
func (s *savings) keep(now llm.Instant, c *Clock) {
	if s.saver == 0 && now >= s.lapse {
		*s = savings{}
		return
	}
	for on := c.on; on != 0; {
		d := on.next()
		if s.kept[d] > 0 {
			b := &c.buckets[d]
			b.advance(now)
			s.kept[d] = min(s.kept[d], max(0, b.level-b.reserve()))
		}
	}
}

// spend notes that a was served. What is left over is the next saver's.
func (s *savings) spend(now llm.Instant, a *Ask) {
	if !s.owns(a) {
		return
	}
	for d := range s.kept {
		s.kept[d] = max(0, s.kept[d]-a.Charge[d])
	}
	s.saver = a.Saver
	s.forsake(now, a.Saver)
}

// owns reports whether what is saved is a's to use.
func (s *savings) owns(a *Ask) bool {
	return a.Saver != 0 && !a.Saving && (s.saver == 0 || s.saver == a.Saver)
}

// leave is how much of d an ask has to leave behind: what is saved, unless it is for
// the ask itself, and the reserve. Who has saved all that it needs has had its wait.
func (c *Clock) leave(d llm.Dimension, a *Ask) float64 {
	b, kept, spare := &c.buckets[d], 0.0, reserveSpan
	if c.saved.any {
		kept = c.saved.kept[d]
		if kept > 0 && c.saved.owns(a) {
			if kept >= a.Charge[d]*(1-1e-9) {
				return 0
			}
			kept = 0
		}
	}
	switch {
	case a.Small:
		return kept
	case a.Modest:
		spare /= 2
	}
	reserve := b.depth(spare)
	if d == llm.Requests && reserve < 1 {
		reserve = 0 // there is no use in a part of a request
	}
	if a.Saving { // towards the end of much the reserve goes too
		reserve = min(reserve, max(0, b.room()-kept-a.Charge[d]))
	}
	return kept + reserve
}
