package limit

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// controlCall is a control call of a client.
func controlCall(client string) Request { return Request{Control: true, Client: client} }

// full is a core whose caps are used up and for whose next turns a hundred requests wait.
func full(t *testing.T, caps Limits) (*core, llm.Instant) {
	t.Helper()
	c := newCore(Config{Global: caps, MaxWait: time.Hour}.withDefaults(), 0)
	answered(c, "m", 0)
	now := 1000 * second
	for i := range 100 {
		enter(t, c, ofClient("m", "s", []string{"crowd", "other"}[i%2]), now)
	}
	if drainDone(c, now); c.waiting == 0 {
		t.Fatal("nobody waits")
	}
	return c, now
}

// TestControl_WaitsForNoQueue: with all caps used up it goes at once, and still is charged:
// over the minutes no more goes than the cap lets through.
func TestControl_WaitsForNoQueue(t *testing.T) {
	for _, caps := range []Limits{{RequestsPerMinute: 6}, {RequestsPerMinute: 60, TokensPerMinute: 600, Concurrent: 2}, {Concurrent: 1}} {
		c, now := full(t, caps)
		calls := 0
		for range 12 {
			le := enter(t, c, controlCall("poller"), now)
			if le.state != granted {
				t.Fatalf("%+v: call %d waits", caps, calls)
			}
			calls++
			c.sent(le, now)
			c.end(le, now)
		}
		if caps.Concurrent > 0 {
			continue // the others wait for slots
		}
		served, from := 0, now
		for now < from+600*second && c.waiting > 0 {
			now = max(now+1, c.next())
			for _, le := range drainDone(c, now) {
				if le.state != granted {
					t.Fatalf("%+v: %v", caps, le.reason)
				}
				served++
				c.end(le, now)
			}
		}
		most := float64(caps.RequestsPerMinute)/60*now.Sub(from).Seconds() + 1
		if math.Abs(float64(served+calls)-most) > 2 {
			t.Errorf("%+v: %d calls and %d others went in %v, the cap lets %.0f through", caps, calls, served, now.Sub(from), most)
		}
		if c.control.owed != 0 || len(c.control.clients) != 0 {
			t.Errorf("%+v: %d are still owed, by %v", caps, c.control.owed, c.control.clients)
		}
	}
}

// TestControl_TheSeventeenthWaitsForOneOfThem, and not for the queue; other clients' calls
// do not wait for it.
func TestControl_TheSeventeenthWaitsForOneOfThem(t *testing.T) {
	c, now := full(t, Limits{RequestsPerMinute: 2})
	var calls []*Lease
	for range maxControl {
		le := enter(t, c, controlCall("poller"), now)
		if le.state != granted {
			t.Fatal("one of the first waits")
		}
		c.sent(le, now)
		calls = append(calls, le)
	}
	late := enter(t, c, controlCall("poller"), now)
	if late.state != waiting {
		t.Fatalf("%d are in flight at once", maxControl+1)
	}
	if enter(t, c, controlCall("another"), now).state != granted {
		t.Error("another client's call waits for the first's")
	}
	c.end(calls[3], now)
	if drainDone(c, now); late.state != granted {
		t.Error("one has ended, and the next still waits")
	}
}

// TestControl_WhoOwesTooMuchWaitsUntilOneIsPaid, and only that: nothing else has to end.
func TestControl_WhoOwesTooMuchWaitsUntilOneIsPaid(t *testing.T) {
	c, now := full(t, Limits{RequestsPerMinute: 60})
	for range maxOwed {
		c.end(take(t, c, controlCall("poller"), now), now)
	}
	late := enter(t, c, controlCall("poller"), now)
	if late.state != waiting {
		t.Fatalf("more than %d are owed", maxOwed)
	}
	for range 5 {
		now = max(now+1, c.next())
		drainDone(c, now)
	}
	if late.state != granted {
		t.Error("its client has had turns to pay, and it still waits")
	}
}

// TestControl_AFloodHarmsItselfOnly: whoever calls without an end gets the turns of one
// client, and the others theirs, with no call beyond what is owed.
func TestControl_AFloodHarmsItselfOnly(t *testing.T) {
	c := newCore(Config{Global: Limits{RequestsPerMinute: 600}, MaxWait: time.Hour}.withDefaults(), 0)
	answered(c, "m", 0)
	calls, served, longest := 0, 0, time.Duration(0)
	flood := func(now llm.Instant) {
		for {
			le := enter(t, c, controlCall("flood"), now)
			if le.state != granted {
				return
			}
			calls++
			c.sent(le, now)
			c.end(le, now)
		}
	}
	start, now := 100*second, 100*second
	flood(now)
	for i := range 600 { // four a second, of the ten there are
		now = start + llm.Instant(i)*second/4
		le := enter(t, c, ofClient("m", "s", "modest"), now)
		for le.state == waiting {
			now = max(now+1, c.next())
			for _, done := range drainDone(c, now) {
				if done != le {
					calls++
					c.sent(done, now)
					c.end(done, now)
					flood(now)
				}
			}
		}
		longest = max(longest, le.waited, now.Sub(le.queued.QueuedAt))
		served++
		c.end(le, now)
		for _, done := range drainDone(c, now) {
			calls++
			c.end(done, now)
			flood(now)
		}
		if le := enter(t, c, controlCall("flood"), now); le.state == granted {
			calls++
			c.end(le, now)
			flood(now)
		}
	}
	if longest > 500*time.Millisecond {
		t.Errorf("who asks for less than its part waited %v", longest)
	}
	if most := 600 + 10*now.Sub(start).Seconds() + maxOwed; float64(calls+served) > most {
		t.Errorf("%d calls and %d others went, the cap and what may be owed are %.0f", calls, served, most)
	}
	if c.control.owed > maxOwed {
		t.Errorf("%d are owed", c.control.owed)
	}
}

// TestControl_PausesAreItsOwn: a 429 to a control call stops control calls, and no model;
// a model's stops no control call.
func TestControl_PausesAreItsOwn(t *testing.T) {
	for _, r := range refusals() {
		c := newCore(Config{Global: Limits{RequestsPerMinute: 600, TokensPerMinute: 1e6}, Learn: true, MaxWait: time.Hour}.withDefaults(), 0)
		answered(c, "m", 0)
		now := 1000 * second
		for range 20 {
			call := take(t, c, controlCall("a"), now)
			r.tell(c, call, now)
			c.end(call, now)
			le := take(t, c, ofClient("m", "s", "a"), now)
			c.end(le, now)
			now = now.Add(2 * time.Hour)
		}
		if meters := c.control.calls.lanes[0].Meters(now); len(meters) != 0 {
			t.Errorf("%s: control calls have got limits: %+v", r.name, meters)
		}
		call := take(t, c, controlCall("a"), now)
		r.tell(c, call, now)
		c.end(call, now)
		if late, rejected := arrive(c, controlCall("b"), time.Hour, now); rejected == nil && late.state != waiting && r.name != "503 with a hint" {
			t.Errorf("%s: a call goes during the pause of control calls", r.name)
		}

		c = newCore(Config{Global: Limits{RequestsPerMinute: 600}, Learn: true, MaxWait: time.Hour}.withDefaults(), 0)
		answered(c, "m", 0)
		le := take(t, c, ofClient("m", "s", "a"), 1000*second)
		r.tell(c, le, 1000*second)
		c.end(le, 1000*second)
		if enter(t, c, controlCall("a"), 1000*second).state != granted {
			t.Errorf("%s: a control call waits for a model's pause", r.name)
		}
	}
}

// TestControl_WhatIsReturnedIsNotOwed: paid or not, a call that was not made costs nothing.
func TestControl_WhatIsReturnedIsNotOwed(t *testing.T) {
	c, now := full(t, Limits{RequestsPerMinute: 60})
	caps := c.caps.Meters(now)
	le := take(t, c, controlCall("a"), now)
	if c.control.owed != 1 {
		t.Fatalf("%d are owed", c.control.owed)
	}
	if c.returned(le, now); c.control.owed != 0 || len(c.control.clients) != 0 {
		t.Errorf("%d are owed of what was returned", c.control.owed)
	}
	paid := take(t, c, controlCall("a"), now)
	drainDone(c, now.Add(5*time.Second)) // its turn, and another's
	if c.control.owed != 0 {
		t.Fatal("it was not paid at its turn")
	}
	level := c.caps.Meters(now.Add(5 * time.Second))[0].Level
	c.returned(paid, now.Add(5*time.Second))
	if got := c.caps.Meters(now.Add(5 * time.Second))[0].Level; math.Abs(got-level-1) > 1e-9 {
		t.Errorf("the cap's level was %v, and is %v after the return; at first %+v", level, got, caps)
	}
}

// TestControl_IsShown in a group of its own, with what waits and what is in flight.
func TestControl_IsShown(t *testing.T) {
	c, now := full(t, Limits{RequestsPerMinute: 60})
	for range maxControl + 2 {
		enter(t, c, controlCall("a"), now)
	}
	s := c.snapshot(now)
	i := slices.IndexFunc(s.Groups, func(g GroupState) bool { return g.Name == controlCalls })
	if i < 0 || s.Groups[i].InFlight != maxControl || s.Groups[i].Waiting != 2 || s.Groups[i].Owed != maxControl || s.Waiting != c.waiting {
		t.Errorf("shown as %+v of %d groups", s.Groups[max(i, 0)], len(s.Groups))
	}
}

// A provider may call anything too large, or tell its usage. What a control call owes, it keeps owing.
func TestControl_WhatOnlyModelsAreTold(t *testing.T) {
	for name, tell := range map[string]func(c *core, le *Lease, now llm.Instant){
		"too large": func(c *core, le *Lease, now llm.Instant) { c.tooLarge(le, &llm.Signal{}, now) },
		"a 429":     func(c *core, le *Lease, now llm.Instant) { c.throttled(le, &llm.Signal{}, now) },
		"headers":   func(c *core, le *Lease, now llm.Instant) { c.observe(le, &llm.Signal{}, now) },
		"usage":     func(c *core, le *Lease, now llm.Instant) { c.settle(le, llm.Usage{Input: 5}, now) },
	} {
		t.Run(name, func(t *testing.T) {
			c, now := full(t, Limits{RequestsPerMinute: 6})
			le := enter(t, c, controlCall("poller"), now)
			if le.state != granted || le.held.due == nil {
				t.Fatal("it owes nothing")
			}
			c.sent(le, now)
			tell(c, le, now)
			if owed := c.control.owed; owed != 1 {
				t.Errorf("%d are owed, want 1", owed)
			}
		})
	}
}
