package lane

import (
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	longWait   = 30 * time.Minute // a longer one is a day's, however its limit is called
	probeLeast = time.Minute      // between two probes of a limit that is used up
	probeMost  = 15 * time.Minute
	beliedMost = 2 // answers that came though the headers had said that the day is over
)

// A dry is a limit that the provider has said to be used up, for longer than anybody
// waits: a day's, or an hour's. Until then nobody goes, save one request now and then:
// the provider may have been paid, its day may end sooner than it said, and what it
// said may have been wrong. Its zero value holds nobody back.
type dry struct {
	until llm.Instant
	limit llm.Dimension // RequestsDay or TokensDay; None = an hour's
	since llm.Instant
	probe llm.Instant // when the next request may go all the same
	every time.Duration
}

func (d *dry) holds(now llm.Instant) bool { return now < d.until && now < d.probe }

// runDry books that the limit of d is used up for so long. Between two probes lies a
// tenth of that, but a minute at least and a quarter of an hour at most.
func (l *Lane) runDry(now llm.Instant, d llm.Dimension, wait time.Duration) {
	every := min(max(wait/10, probeLeast), probeMost)
	l.dry = dry{until: now.Add(wait), limit: d, since: now, probe: now.Add(every), every: every}
}

// reopen ends that, and forgets the day's limits that the provider had named: they are
// not what they were.
func (l *Lane) reopen(now llm.Instant) {
	l.dry = dry{}
	if l.shared {
		return
	}
	for _, d := range []llm.Dimension{llm.RequestsDay, llm.TokensDay} {
		if !l.known[d].learned {
			continue
		}
		used, ours := l.limits[d].Amount, l.cfg.Limits[d]*l.cfg.Share
		l.known[d] = named{}
		l.setLimit(now, d, 0, Daily, day)
		l.setLimit(now, d, ours, Daily, day)
		if ours > 0 { // the day's use was never more than what is forgotten
			l.source.Lower(now, d, ours-used, llm.Never)
		}
	}
}

// Reopen ends what the provider has said of a limit per day, because the limits that
// are configured have changed.
func (l *Lane) Reopen(now llm.Instant) {
	if now < l.dry.until {
		l.reopen(now)
	}
}

// longOver takes in a 429 of a limit that nobody can wait for, and reports whether it
// was one. notBefore is when the request may go again.
func (l *Lane) longOver(now llm.Instant, s *llm.Signal) (notBefore llm.Instant, ok bool) {
	wait, told := s.RetryAfter, s.HasRetryAfter && s.RetryAfter > 0
	switch d := s.Dimension; {
	case l.crowd: // the name that is refused is one of many here: the others' day is not over
		return 0, false
	case d.Daily():
		if !told || wait > day {
			wait = day
		}
		l.runDry(now, d, wait)
		return now, true
	case told && wait > longWait && d == llm.None && (s.Period == 0 || s.Period > time.Hour):
		l.runDry(now, llm.RequestsDay, min(wait, day))
		return now, true
	case told && wait > pauseMax && s.Period == time.Hour:
		l.runDry(now, llm.None, min(wait, time.Hour))
		return l.dry.until, true
	}
	return 0, false
}
