package limit

import (
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// dayOver is a 429 of a day's limit without a number: no limit is learned of it.
func dayOver(wait time.Duration) *llm.Signal {
	return &llm.Signal{Dimension: llm.RequestsDay, Period: 24 * time.Hour, RetryAfter: wait, HasRetryAfter: wait > 0, Said: "free-models-per-day"}
}

// runDry makes a model whose day is over.
func runDry(t *testing.T, c *core, model llm.Model, s *llm.Signal, now llm.Instant) {
	t.Helper()
	le := take(t, c, ask(model, "s"), now)
	c.throttled(le, s, now)
	if rejected := c.requeue(le, time.Minute, now, now); rejected != nil {
		t.Fatal(rejected)
	}
	if done := drainDone(c, now); len(done) != 1 || done[0].state != refused || done[0].reason != DailyLimit {
		t.Fatalf("the refused request: %d decided", len(done))
	} else if e := c.verdict(done[0], now); e.Said != s.Said || e.RetryAfter <= 0 {
		t.Errorf("refused with %+v, want the provider's word", e)
	}
}

func wantDaily(t *testing.T, c *core, model llm.Model, least, most time.Duration, now llm.Instant) {
	t.Helper()
	le, rejected := arrive(c, ask(model, "s"), 4*time.Minute, now)
	if rejected == nil || rejected.Reason != DailyLimit || rejected.RetryAfter < least || rejected.RetryAfter > most {
		t.Fatalf("state %v, refusal %+v, want the day's end in %v to %v", le.state, rejected, least, most)
	}
}

func TestDry_ADayThatIsOverIsProbedNowAndThen(t *testing.T) {
	for _, learn := range []bool{true, false} {
		c := newCore(Config{Learn: learn}.withDefaults(), 0)
		answered(c, "m", 0)
		answered(c, "other", 0)
		runDry(t, c, "m", dayOver(15*time.Hour), 0)
		sent := 0
		for now := second; now < llm.Instant(15*time.Hour); now += 20 * second {
			var probes []*Lease
			for range 3 { // several come at once: one of them goes
				if le, _ := arrive(c, ask("m", "s"), 4*time.Minute, now); le.state == granted {
					c.sent(le, now)
					probes = append(probes, le)
				}
			}
			if len(probes) > 1 {
				t.Fatalf("%d probes at once", len(probes))
			}
			for _, le := range probes {
				sent++
				c.throttled(le, dayOver(15*time.Hour-time.Duration(now)), now)
				c.requeue(le, time.Minute, now, now)
				drainDone(c, now)
			}
			if le := take(t, c, ask("other", "s"), now); le != nil { // not of its limit
				c.settle(le, llm.Usage{Input: 1}, now)
			}
		}
		if sent < 55 || sent > 90 { // four an hour, and more often when little is left
			t.Errorf("%d probes in 15 hours", sent)
		}
		if enter(t, c, ask("m", "s"), llm.Instant(15*time.Hour)+second).state != granted {
			t.Error("the next day is over, too")
		}
	}
}

func TestDry_AProbeThatPassesEndsIt(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	l := answered(c, "m", 0)
	over := dayOver(14*time.Minute + 24*time.Second)
	over.Dimension, over.Limit, over.Used, over.Requested = llm.TokensDay, 100_000, 99_900, 1100
	runDry(t, c, "m", over, 0)
	if got := meter(l, llm.TokensDay, second); got.Limit != 100_000 || got.Level > 0 {
		t.Errorf("the status shows %+v", got)
	}
	wantDaily(t, c, "m", 13*time.Minute, 14*time.Minute, 80*second)
	now := 90 * second // a tenth of the wait is over
	probe := take(t, c, ask("m", "s"), now)
	wantDaily(t, c, "m", 12*time.Minute, 13*time.Minute, now)
	c.observe(probe, &llm.Signal{}, now+second)
	c.started(probe, now+second)
	for range 5 {
		take(t, c, ask("m", "s"), now+second)
	}
	if got := meter(l, llm.TokensDay, now+second); got.Limit != 0 {
		t.Errorf("the limit that was is still known: %+v", got)
	}
	if _, rejected := arrive(c, ask("m", "s"), 0, now+second); rejected != nil && rejected.Said != "" {
		t.Errorf("a word that is out of date is quoted: %v", rejected)
	}
}

func TestDry_WhatWasOnItsWayIsNoProbe(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	answered(c, "m", 0)
	early := take(t, c, ask("m", "s"), 0)
	runDry(t, c, "m", dayOver(time.Hour), second)
	c.observe(early, &llm.Signal{}, 2*second)
	c.started(early, 2*second)
	wantDaily(t, c, "m", 59*time.Minute, time.Hour, 3*second)
}

func TestDry_AReloadWithAChangedLimitEndsIt(t *testing.T) {
	limits := func(model llm.Model, rpd int64) Config {
		return Config{Learn: true, Models: []ModelLimits{{Pattern: string(model), Limits: Limits{RequestsPerDay: rpd}}}}.withDefaults()
	}
	for _, known := range []bool{true, false} {
		c := newCore(limits("x", 100), 0)
		if known {
			answered(c, "m", 0)
		}
		over := dayOver(10 * time.Hour)
		over.Limit = 50
		runDry(t, c, "m", over, 0)
		c.reconfigure(limits("x", 100), second)
		wantDaily(t, c, "m", 9*time.Hour, 10*time.Hour, second)
		c.reconfigure(limits("x", 200), 2*second)
		take(t, c, ask("m", "s"), 2*second)
		take(t, c, ask("m", "s"), 2*second)
	}
}

// TestDry_OurOwnCapOfTheDayStays: what a provider names and then no longer holds to
// gives nothing of a cap that we were given.
func TestDry_OurOwnCapOfTheDayStays(t *testing.T) {
	c := newCore(limitedTo(Limits{RequestsPerDay: 60}), 0)
	l := answered(c, "m", 0)
	over := dayOver(10 * time.Hour)
	over.Limit = 50
	runDry(t, c, "m", over, 0)
	probe := take(t, c, ask("m", "s"), llm.Instant(16*time.Minute))
	c.observe(probe, &llm.Signal{}, llm.Instant(16*time.Minute))
	if got := meter(l, llm.RequestsDay, llm.Instant(16*time.Minute)); got.Limit != 60 || got.Level > 10 {
		t.Errorf("%+v is left of 60, of which 50 were used", got)
	}
}

func TestDry_LongWaitsAreDaysAndHoursAreHours(t *testing.T) {
	for _, tt := range []struct {
		name   string
		signal llm.Signal
		reason Reason // of the newcomer's refusal
		least  time.Duration
	}{
		{"seven hours without a name", llm.Signal{RetryAfter: 7 * time.Hour, HasRetryAfter: true}, DailyLimit, 6 * time.Hour},
		{"an hour's limit", llm.Signal{Period: time.Hour, RetryAfter: 25 * time.Minute, HasRetryAfter: true}, DeadlineUnreachable, 0},
		{"a day that does not say when it ends", llm.Signal{Dimension: llm.TokensDay, Period: 24 * time.Hour}, DailyLimit, 23 * time.Hour},
	} {
		c := newCore(Config{Learn: true}.withDefaults(), 0)
		answered(c, "m", 0)
		le := take(t, c, ask("m", "s"), 0)
		tt.signal.Said = "so it is"
		notBefore, _ := c.throttled(le, &tt.signal, 0)
		rejected := c.requeue(le, 4*time.Minute, notBefore, 0)
		if rejected == nil {
			done := drainDone(c, 0)
			if len(done) != 1 {
				t.Errorf("%s: the refused request waits", tt.name)
				continue
			}
			rejected = c.verdict(done[0], 0)
		}
		_, newcomer := arrive(c, ask("m", "s"), 4*time.Minute, second)
		for _, e := range []*Rejected{rejected, newcomer} {
			if e == nil || e.Reason != tt.reason || e.RetryAfter < tt.least || e.Said != "so it is" {
				t.Errorf("%s: %+v", tt.name, e)
			}
		}
	}
}

// TestDry_HeadersThatEndTheDayAreBelievedTwice: a provider may say that nothing is left
// of the day, and go on.
func TestDry_HeadersThatEndTheDayAreBelievedTwice(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	answered(c, "m", 0)
	over := llm.Signal{Levels: levels(llm.RequestsDay, llm.Level{Limit: 100, Reset: 10 * time.Hour, HasLimit: true, HasRemaining: true, HasReset: true})}
	served := 0
	for now := llm.Instant(0); now < llm.Instant(2*time.Hour); now += 60 * second {
		if le, _ := arrive(c, ask("m", "s"), time.Minute, now); le.state == granted {
			c.sent(le, now)
			c.observe(le, &over, now)
			c.started(le, now)
			c.settle(le, llm.Usage{Input: 1}, now)
			served++
		}
	}
	if served < 80 {
		t.Errorf("%d requests were served in two hours of a provider that passes everything", served)
	}
}
