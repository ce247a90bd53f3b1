package limit

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A largeLoad is what very large requests are put beside.
type largeLoad struct {
	name    string
	busy    int           // sessions that ask again as soon as they are answered
	mice    float64       // of the limit, in small requests of sessions that use less than their part
	savers  int           // sessions with one large request each
	part    float64       // of the limit that each needs
	retries time.Duration // after which a saver is refused and comes again; 0 = never
	clients bool          // every session is a client of its own
}

// A largeDesign is what is done with them.
type largeDesign struct {
	name   string
	strict bool    // the head stops everybody, as small heads do
	lends  float64 // least part of a saver; 0 = as built
}

type largeResult struct {
	mice, busy []float64 // waits in seconds while a large request waits, sorted
	savers     []float64 // until they were served
	first      float64   // forecast of the first saver
	used       float64
	unserved   int
}

// bare is a source that nobody can save up in.
type bare struct{ lane.Source }

const (
	largeRate = 5000 // tokens a second
	largeFull = 400 * time.Second
)

// playLarge runs l under d for 60 s, lets the savers come within a second if there are
// any, and goes on for largeFull.
func playLarge(l largeLoad, d largeDesign, seed uint64) (res largeResult) {
	s := newStage(largeRate*60, seed)
	s.service = func() time.Duration { return time.Second + time.Duration(s.rng.Int64N(2000))*time.Millisecond }
	if d.strict {
		cfg := s.core.cfg
		cfg.Source = func(llm.Model, func()) lane.Source { return bare{lane.NewClock()} }
		s.core = newCore(cfg, 0)
		answered(s.core, "m", 0)
	}
	s.core.roster.Lends = d.lends
	client := func(session string) string {
		if l.clients {
			return session
		}
		return "c"
	}
	at := llm.Instant(60 * time.Second)
	end := at.Add(largeFull)
	last := end // a saver waits until then
	came := map[string]llm.Instant{}
	ask := func(session string, tokens int64) {
		s.ask(client(session), &actor{session: session, weight: 1, actual: tokens}, 1.2)
	}
	busySize := func() int64 { return 200 + s.rng.Int64N(1500) }
	s.granted = func(a *actor, now llm.Instant) {
		wait := now.Sub(a.came).Seconds()
		switch {
		case a.session[0] == 's':
			res.savers = append(res.savers, now.Sub(came[a.session]).Seconds())
			if len(res.savers) == l.savers {
				last = now
			}
		case a.came < at || now > last:
		case a.session[0] == 'b':
			res.busy = append(res.busy, wait)
		default:
			res.mice = append(res.mice, wait)
		}
	}
	s.ended = func(a *actor) {
		if a.session[0] == 'b' {
			ask(a.session, busySize())
		}
	}
	s.core.prime(Recent{Model: "m", Input: s.limit}, 0)
	for i := range l.busy {
		ask(fmt.Sprint("b", i), busySize())
	}
	const mouse = 300
	next := llm.Instant(0)
	saver, again := 0, map[string]llm.Instant{}
	var level, charged float64
	for s.now < end && s.now < last {
		until := end
		if l.mice > 0 {
			until = min(until, next)
		}
		if saver < l.savers {
			until = min(until, at.Add(time.Duration(saver)*250*time.Millisecond))
		}
		for _, t := range again {
			until = min(until, t)
		}
		s.run(until)
		if l.mice > 0 && s.now >= next {
			ask(fmt.Sprint("m", s.rng.IntN(40)), mouse/2+s.rng.Int64N(mouse))
			next = next.Add(time.Duration(s.rng.ExpFloat64() * float64(time.Second) * mouse / (l.mice * largeRate)))
		}
		large := int64(l.part * float64(s.limit))
		if saver < l.savers && s.now >= at.Add(time.Duration(saver)*250*time.Millisecond) {
			if saver == 0 {
				level, charged = s.level(), s.charged
			}
			name := fmt.Sprint("s", saver)
			came[name] = s.now
			r := Request{Model: "m", Client: client(name), Session: name, Demand: llm.Demand{Input: large}}
			if saver == 0 {
				res.first = s.core.forecast(&r, s.now).Wait.Seconds()
			}
			s.exactly(client(name), &actor{session: name, weight: 1, actual: large})
			if l.retries > 0 {
				again[name] = s.now.Add(l.retries)
			}
			saver++
		}
		for _, name := range slices.Sorted(maps.Keys(again)) {
			if s.now < again[name] {
				continue
			}
			delete(again, name)
			for le, a := range s.actors {
				if a.session == name && s.core.cancel(le, s.now) {
					delete(s.actors, le)
					s.exactly(client(name), &actor{session: name, weight: 1, actual: large})
					again[name] = s.now.Add(l.retries)
				}
			}
		}
		s.pump()
	}
	for range l.savers - len(res.savers) {
		res.unserved++
	}
	if l.savers > 0 {
		span := s.now.Sub(at).Seconds()
		res.used = (s.charged - charged + s.level() - level) / (largeRate * span)
	}
	slices.Sort(res.mice)
	slices.Sort(res.busy)
	slices.Sort(res.savers)
	return res
}

func (s *stage) level() float64 {
	return meter(s.core.models["m"].lanes[0], llm.Tokens, s.now).Level
}

func TestLarge_Explore(t *testing.T) {
	if !*printTable {
		t.Skip()
	}
	for _, l := range []largeLoad{
		{name: "30 busy", busy: 30, savers: 1, part: 0.9},
		{name: "30 busy, mice 10 %", busy: 30, mice: 0.1, savers: 1, part: 0.9},
		{name: "10 busy, mice 50 %", busy: 10, mice: 0.5, savers: 1, part: 0.9},
		{name: "100 busy, mice 20 %", busy: 100, mice: 0.2, savers: 1, part: 0.9},
		{name: "mice 60 %", mice: 0.6, savers: 1, part: 0.9},
		{name: "3 busy", busy: 3, savers: 1, part: 0.9},
		{name: "4 savers", busy: 30, mice: 0.1, savers: 4, part: 0.9},
		{name: "4 savers .5, retries", busy: 30, mice: 0.1, savers: 4, part: 0.5, retries: time.Minute},
		{name: "clients", busy: 30, mice: 0.1, savers: 1, part: 0.9, clients: true},
		{name: "whole", busy: 30, mice: 0.1, savers: 1, part: 1},
	} {
		for _, d := range []largeDesign{{name: "strict", strict: true}, {name: "no lending", lends: 1e-9}, {name: "built"}} {
			none := l
			none.savers = 0
			var base, res largeResult
			for seed := range uint64(*tableSeeds) {
				a, b := playLarge(none, d, seed), playLarge(l, d, seed)
				base.mice, base.busy = append(base.mice, a.mice...), append(base.busy, a.busy...)
				res.mice, res.busy = append(res.mice, b.mice...), append(res.busy, b.busy...)
				res.savers = append(res.savers, b.savers...)
				res.unserved += b.unserved
				res.used += b.used / float64(*tableSeeds)
				res.first = max(res.first, b.first)
			}
			for _, v := range []*[]float64{&base.mice, &base.busy, &res.mice, &res.busy, &res.savers} {
				slices.Sort(*v)
			}
			q := func(v []float64) float64 { return math.Round(1000 * quantileOf(v, 0.99)) }
			fmt.Printf("%-22s %-10s mice p99 %6.0f -> %6.0f ms, busy %6.0f -> %6.0f; savers %.0f..%.0f s, %d unserved, forecast %.0f; used %.3f\n", l.name, d.name,
				q(base.mice), q(res.mice), q(base.busy), q(res.busy), quantileOf(res.savers, 0), quantileOf(res.savers, 1), res.unserved, res.first, res.used)
		}
	}
}
