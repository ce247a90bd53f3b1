package lane

import (
	"math"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A pace finds out which period a limit is for whose headers do not say. They name a
// limit, what is left of it, and when it is full again. A provider that refills all the
// time tells the part of the period that the used part takes; one that counts by fixed
// windows tells what is left of the window, however much is used. In both cases no reset
// is longer than the period.
//
// What is seen in one run of answers, with no long gap in it, decides: if that run
// is longer than the longest of its resets, no longer period fits. One answer does not: a
// minute's last second looks like a second.
type pace struct {
	period time.Duration // found; 0 = not yet: a minute

	first, last         llm.Instant // of the run, when its requests were sent
	n                   int
	early               int     // of them, that are full again sooner than a limit per minute can be
	refuted             int     // periods that were found, and were none: the next needs a longer run
	longest             float64 // reset of the run, in seconds
	leastFill, mostFill float64 // that the whole limit would take by one answer, in seconds
}

// paces are the periods that limits are for.
var paces = []float64{1, 2, 5, 10, 15, 20, 30}

const (
	paceSpan  = 1.2              // times the period: so long a run has to be
	paceLeast = 3                // answers
	paceEarly = 2                // of them have to refute a limit per minute that refills all the time
	paceGap   = 28 * time.Second // between two answers of a run: in a longer one a minute could end, and be as far again
	paceSlack = 1.1              // of a reset, before it refutes the period that was found
)

// see takes in what the answer to a request says that was sent at sent, and returns the
// period; 0 = it may be a minute.
func (p *pace) see(sent llm.Instant, v *llm.Level) time.Duration {
	if v.Period > 0 {
		*p = pace{}
		return v.Period
	}
	if !v.HasReset || v.Reset <= 0 || !v.HasLimit || !v.HasRemaining || v.Remaining >= v.Limit {
		return p.period // says nothing
	}
	reset := v.Reset.Seconds()
	fill := reset * float64(v.Limit) / float64(v.Limit-v.Remaining)
	if p.period > 0 && reset > paceSlack*p.period.Seconds()+0.5 {
		*p = pace{refuted: p.refuted + 1}
	}
	if p.n == 0 || sent.Sub(p.last) > paceGap {
		*p = pace{period: p.period, refuted: p.refuted, first: sent, last: sent, leastFill: fill}
	}
	p.n++
	// What is left is rounded down: up to one less was used than it seems.
	if least := float64(v.Limit-v.Remaining-1) * time.Minute.Seconds() / float64(v.Limit); reset < 0.8*least {
		p.early++
	}
	p.first, p.last = min(p.first, sent), max(p.last, sent)
	p.longest = max(p.longest, reset)
	p.leastFill, p.mostFill = min(p.leastFill, fill), max(p.mostFill, fill)
	if period := p.guess(); period > 0 && p.n >= paceLeast && p.early >= paceEarly && p.last.Sub(p.first).Seconds() >= paceSpan*period*float64(1+9*p.refuted) {
		p.period = Seconds(period)
	}
	return p.period
}

// open reports whether the limit may yet turn out to be for less than a minute.
func (p *pace) open() bool { return p.period == 0 && p.n > 0 && p.guess() > 0 }

// guess is the shortest period that the run allows; 0 = none below a minute.
func (p *pace) guess() float64 {
	longest := p.longest
	if p.mostFill < 1.8*p.leastFill { // the used part decides how long the reset is
		longest = max(longest, p.leastFill)
	}
	for _, period := range paces {
		if math.Ceil(longest-0.05) <= period {
			return period
		}
	}
	return 0
}
