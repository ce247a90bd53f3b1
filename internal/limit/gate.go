package limit

import "time"

const (
	stormLeast = 3           // refusals that make a storm, if they are half of what was sent
	stormSpan  = time.Second // in which they come, pauses and the time they take not counted
	stormRow   = 8           // of 503s, or where nobody listens, without an answer between: a storm too
	gateOpen   = 128         // attempts without an answer that no gate need count
	reliefMost = 30 * time.Second
	aside      = 250 * time.Millisecond // so much later a refused probe comes back than others may go

	outageBackoff    = 100 * time.Millisecond // doubling with every refused probe, to outageBackoffMax
	outageBackoffMax = 5 * time.Second
)

// A gate holds a group back whose provider refuses everything, whatever the
// rate. After the pause one attempt goes ahead, the probe. Each answer lets one
// more go than before, so that what is on the way doubles per round trip; the
// next refusal starts the pause anew. Its zero value is open.
//
// A refusal or two is no storm: limits and their pauses cure it, at full speed
// again at once. So the gate shuts when of the attempts sent since a first
// refusal was heard half are refused. Those that were on the way then have the
// same cause and do not count; unless nothing pauses the group for that cause,
// and nothing else is heard: else all would come back at once.
type gate struct {
	limit   int           // attempts that may be without an answer; 0 = the gate is open
	trying  int           // attempts that a shut gate let through and that have no answer
	failed  int           // probes refused in a row
	since   instant       // the last time that one was let through, or limit was raised
	slowest time.Duration // that a refusal took to come

	counted uint32 // number of the count that goes on
	until   instant
	sent    int
	refused int
	row     int // refusals that pause nobody, without an answer between
}

// sends notes that an attempt leaves, and returns the count that it belongs to.
func (t *gate) sends(now instant) uint32 {
	if t.sent++; t.sent == 1 {
		t.until = now.add(stormSpan)
	}
	return t.counted
}

// pauses notes that nothing is sent until then.
func (t *gate) pauses(until instant) { t.until = max(t.until, until.add(stormSpan)) }

// refuses notes that an attempt of a count was refused after took, and reports
// whether the gate shuts for it.
func (t *gate) refuses(probe bool, count uint32, took time.Duration, now instant) bool {
	switch {
	case probe:
	case t.limit > 0: // sent before it shut
		return false
	case t.row >= stormRow:
	case count == 0 || count != t.counted || now > t.until.add(2*took):
		if count == t.counted { // else it was on the way already
			t.counted++
			t.sent, t.refused = 0, 0
		}
		return false
	default:
		if t.refused++; t.refused < stormLeast || 2*t.refused < t.sent {
			return false
		}
	}
	t.limit = 1
	t.failed++
	t.since = now
	t.slowest = max(t.slowest, took)
	return true
}

// passes notes that the provider has taken an attempt. queued is how many wait.
func (t *gate) passes(queued int, now instant) {
	if t.limit == 0 {
		return
	}
	t.failed = 0
	t.since = now
	t.raise(t.limit+1, queued)
}

func (t *gate) raise(limit, queued int) {
	t.limit = limit
	if limit > gateOpen || limit > t.trying+queued {
		*t = gate{trying: t.trying, counted: t.counted + 1}
	}
}

// opens is when the next attempt may go, without any further answer. A refusal
// comes as fast as the last ones did; who has been silent for much longer, as
// answers that are not streamed are, has been taken.
func (t *gate) opens(queued int, now instant) instant {
	if t.trying < t.limit {
		return now
	}
	at := t.since.add(min(max(4*t.slowest, time.Second), reliefMost))
	if at > now {
		return at
	}
	t.since = now
	t.raise(2*t.limit, queued)
	return now
}

// refusal takes in that gr was refused, be it with a 429, with a 503 that has a
// hint, or by nobody listening, and reports whether that has shut g's gate.
func (c *core) refusal(g *group, gr *grant, now instant) bool {
	probe := gr.probe
	if probe {
		gr.probe = false
		gr.group.gate.trying--
	}
	if !gr.sent {
		return g.gate.refuses(probe, 0, 0, now)
	}
	return g.gate.refuses(probe, gr.count, now.sub(gr.sentAt), now)
}

// taken notes that the provider did not refuse gr.
func (c *core) taken(gr *grant, now instant) {
	gr.probe = false
	gr.group.gate.trying--
	gr.group.gate.passes(gr.group.queued(), now)
	if g := c.resolve(gr.group, gr.model); g != gr.group {
		g.gate.passes(g.queued(), now)
	}
}

// unavailable takes in that gr did not reach the provider, or was turned away
// unprocessed with the wish to come back after. It returns when gr may go
// again, and whether it was a probe: what it met then is not its own fault.
func (c *core) unavailable(gr *grant, after time.Duration, now instant) (notBefore instant, probe bool) {
	c.takeBack(gr, now)
	probe = gr.probe
	g := c.resolve(gr.group, gr.model)
	g.gate.row++
	notBefore = now.add(max(0, after))
	if !c.refusal(g, gr, now) {
		return notBefore, probe
	}
	ceiling := min(outageBackoffMax, outageBackoff<<min(g.gate.failed-1, 10))
	pause := max(c.spread(min(after, pauseMax)), ceiling/2+time.Duration(c.roll()*float64(ceiling/2)))
	g.pausedUntil = max(g.pausedUntil, now.add(pause))
	return max(notBefore, g.pausedUntil.add(aside)), probe
}

// spread lengthens a pause a little: sidecars that share a key are refused
// together and must not come back together.
func (c *core) spread(pause time.Duration) time.Duration {
	return pause + time.Duration(c.roll()*(0.1*float64(pause)+float64(50*time.Millisecond)))
}
