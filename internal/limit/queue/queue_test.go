package queue

import (
	"flag"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// TestMain sets the number of random histories to 1,000 where -rapid.checks
// does not say another.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		_ = flag.Set("rapid.checks", "1000")
	}
	goleak.VerifyTestMain(m)
}

const second = llm.Instant(time.Second)

func one(*Waiter) float64 { return 1 }

func key(client, session string) Key {
	return Key{Band: 1, Client: client, Session: session, ClientWeight: 1, Weight: 1}
}

// add queues a request of k.
func add(q *Queue, k Key, seq uint64) *Waiter {
	w := &Waiter{Session: q.Session(k, 0), Seq: seq, Load: llm.Load{Requests: 1, Input: 10}}
	q.Insert(w, false)
	return w
}

// serve takes n requests out in the order of queues that one limit holds back together,
// and counts them by client.
func serve(n int, queues ...*Queue) map[string]int {
	got := map[string]int{}
	for range n {
		var next *Waiter
		for _, q := range queues {
			if w := q.Head(one); w != nil && (next == nil || Before(w, 1, next, 1)) {
				next = w
			}
		}
		if next == nil {
			break
		}
		got[next.Session.Parent.Name]++
		next.Session.queue.Serve(next, 1, 0)
	}
	return got
}

func TestContest_AClientGetsNoMoreByAskingInManyQueues(t *testing.T) {
	c := NewContest(new(Roster))
	var queues []*Queue
	for i := range 10 {
		q := New(c)
		queues = append(queues, q)
		for n := range 20 {
			add(q, key("greedy", "s"), uint64(100*i+n))
		}
	}
	for n := range 60 {
		add(queues[0], key("modest", "s"), uint64(10_000+n))
		heavy := key("heavy", "s")
		heavy.ClientWeight = 2
		add(queues[1], heavy, uint64(20_000+n))
	}
	got := serve(80, queues...)
	if got["greedy"] < 19 || got["greedy"] > 21 || got["modest"] < 19 || got["modest"] > 21 {
		t.Errorf("served %v, want 20, 20 and 40", got)
	}
}

func TestContest_BandsAreServedInOrderOverAllQueues(t *testing.T) {
	c := NewContest(new(Roster))
	a, b := New(c), New(c)
	for n := range 1000 {
		high, low := key("x", "s"), key("y", "s")
		high.Band, low.Band = 0, 2
		add(a, high, uint64(n))
		add(b, low, uint64(n))
	}
	for _, order := range [][]*Queue{{a, b}, {b, a}} {
		if got := serve(420, order...); got["y"] < 18 || got["y"] > 22 {
			t.Errorf("the low band of the other queue was served %d of 420, want a twentieth", got["y"])
		}
	}
}

// TestQueue_APauseTakesNoRefunds: alone in its contest a queue that was away goes on as it
// was. Among others, its clients have no claim to what those had meanwhile.
func TestQueue_APauseTakesNoRefunds(t *testing.T) {
	for others, want := range map[bool]int{false: 5, true: 3} {
		c := NewContest(new(Roster))
		q := New(c)
		if others {
			New(c)
		}
		for n := range 20 {
			add(q, key("refunded", "s"), uint64(n))
			add(q, key("other", "s"), uint64(n))
		}
		serve(20, q)
		s := q.Session(key("refunded", "s"), 0)
		q.Correct(s, 6)
		q.Away(true)
		q.Away(false)
		if got := serve(5, q)["refunded"]; got != want {
			t.Errorf("others: %v: served %d of 5 after the pause, want %d", others, got, want)
		}
	}
}

// TestRoster_WhoWasHeldBackHasItsTurnStill: what others had meanwhile is owed to it.
func TestRoster_WhoWasHeldBackHasItsTurnStill(t *testing.T) {
	for _, client := range []bool{false, true} {
		r := new(Roster)
		q := New(NewContest(r))
		for n := range 20 {
			add(q, key("held", "s"), uint64(n))
			add(q, key("other", "s"), uint64(n))
		}
		f := q.Session(key("held", "s"), 0)
		if client {
			f = f.Parent
		}
		r.Hold(f, second)
		if got := serve(5, q); got["other"] != 5 {
			t.Fatalf("served %v while one was held back", got)
		}
		if at := r.Release(second / 2); at != second {
			t.Errorf("the next may go at %v", at)
		}
		r.Release(second)
		if got := serve(5, q); got["held"] != 5 {
			t.Errorf("served %v after that, want the one that was held back to catch up", got)
		}
	}
}

// TestQueue_JoinsAnotherContestAsItIs: a queue that moves loses nobody, and its clients
// keep their distance from the clock.
func TestQueue_JoinsAnotherContestAsItIs(t *testing.T) {
	r := new(Roster)
	old, to := NewContest(r), NewContest(r)
	q, twin, rival := New(old), New(old), New(to)
	for n := range 30 {
		add(q, key("a", "s"), uint64(n))
		add(q, key("b", "s"), uint64(n))
		add(twin, key("a", "s"), uint64(n))
		add(rival, key("c", "s"), uint64(n))
	}
	serve(9, q)
	serve(25, rival) // its clock is far ahead
	q.Join(to)
	for _, c := range []*Contest{old, to} {
		check(t, c, q, twin, rival)
	}
	if got := serve(15, q, rival); got["a"] < 4 || got["b"] < 4 || got["c"] < 4 {
		t.Errorf("served %v after the move, want five each", got)
	}
	if got := serve(5, twin); got["a"] != 5 {
		t.Errorf("the queue that stayed served %v", got)
	}
}

// check holds the books of a contest against its queues.
func check(t interface {
	Fatalf(format string, args ...any)
}, c *Contest, queues ...*Queue,
) {
	owners := map[*turn]int{}
	for band := range numBands {
		var sum llm.Load
		busy, shares := 0, 0.0
		for _, q := range queues {
			if q.contest != c {
				continue
			}
			f := q.bands[band]
			sum.Add(f.Sum, 1)
			for i, s := range f.ready {
				if s.flow.turn.flows[0] == s.flow { // once for each turn
					busy++
					shares += s.flow.turn.weight
				}
				if s.flow.index != i || s.tag != s.flow.turn.tag || i > 0 && f.ready[(i-1)/4].tag > s.tag {
					t.Fatalf("slot %d of band %d: index %d, tag %v, the flow's %v", i, band, s.flow.index, s.tag, s.flow.turn.tag)
				}
			}
			if f.time != &c.bands[band] {
				t.Fatalf("band %d keeps another contest's time", band)
			}
		}
		if v := &c.bands[band]; v.sum != sum || v.busy != busy || math.Abs(v.shares-shares) > 1e-6 {
			t.Fatalf("band %d: sum %+v of %+v, busy %d of %d, shares %v of %v", band, v.sum, sum, v.busy, busy, v.shares, shares)
		}
	}
	for _, q := range queues {
		if q.contest != c {
			continue
		}
		for k, client := range q.clients {
			if owners[client.turn]++; c.turns[k] != client.turn || slices.Contains(client.turn.flows, client) != (client.index >= 0) {
				t.Fatalf("client %v has another turn than its contest knows", k)
			}
		}
	}
	for k, turn := range c.turns {
		if owners[turn] != turn.owners {
			t.Fatalf("the turn of %v is of %d queues, %d have it", k, turn.owners, owners[turn])
		}
	}
}

// TestQueue_Histories: whatever comes, goes, moves, is held and let go, the books are
// right, nobody is lost, and a session is first in, first out.
func TestQueue_Histories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := new(Roster)
		contests := []*Contest{NewContest(r), NewContest(r)}
		queues := []*Queue{New(contests[0]), New(contests[0]), New(contests[1])}
		waiting := map[*Queue][]*Waiter{}
		served := []*Waiter{}
		seq, now := uint64(0), llm.Instant(0)
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			q := rapid.SampledFrom(queues).Draw(t, "queue")
			switch rapid.IntRange(0, 7).Draw(t, "event") {
			case 0, 1, 2:
				seq++
				k := Key{
					Band: rapid.IntRange(0, 2).Draw(t, "band"), Client: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "client"),
					Session: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "session"), ClientWeight: 1, Weight: rapid.SampledFrom([]float64{1, 4}).Draw(t, "weight"),
				}
				waiting[q] = append(waiting[q], add(q, k, seq))
			case 3, 4:
				if w := q.Head(one); w != nil {
					q.Serve(w, rapid.Float64Range(0, 9).Draw(t, "cost"), now)
					for _, other := range waiting[q] {
						if other.Session == w.Session && other.Seq < w.Seq {
							t.Fatalf("request %d went before %d of the same session", w.Seq, other.Seq)
						}
					}
					waiting[q] = slices.DeleteFunc(waiting[q], func(other *Waiter) bool { return other == w })
					served = append(served, w)
				}
			case 5:
				if n := len(waiting[q]); n > 0 {
					i := rapid.IntRange(0, n-1).Draw(t, "who leaves")
					q.Remove(waiting[q][i], now)
					waiting[q] = slices.Delete(waiting[q], i, i+1)
				}
			case 6:
				if n := len(waiting[q]); n > 0 && rapid.Bool().Draw(t, "hold") {
					f := waiting[q][rapid.IntRange(0, n-1).Draw(t, "whom")].Session
					if rapid.Bool().Draw(t, "the client") {
						f = f.Parent
					}
					r.Hold(f, now+second)
				} else {
					q.Join(rapid.SampledFrom(contests).Draw(t, "into"))
				}
			case 7:
				if n := len(served); n > 0 {
					w := served[n-1]
					served = served[:n-1]
					w.Session.queue.Correct(w.Session, rapid.Float64Range(-3, 3).Draw(t, "refund"))
					w.Session.queue.Ended(w.Session, now)
				}
				now += second / 2
				r.Release(now)
			}
			for _, c := range contests {
				check(t, c, queues...)
			}
		}
		r.Release(now + 10*second) // nobody is held any more: all are served
		for _, q := range queues {
			for range waiting[q] {
				w := q.Head(one)
				if w == nil {
					t.Fatalf("%d wait and nobody is next", q.Waiting())
				}
				q.Serve(w, 1, now)
			}
			if q.Waiting() != 0 || r.Holds() {
				t.Fatalf("%d are left, held: %v", q.Waiting(), r.Holds())
			}
		}
	})
}

func TestRoster_ForgetsWhoIsIdle(t *testing.T) {
	r := new(Roster)
	c := NewContest(r)
	q := New(c)
	for i := range 100 {
		now := llm.Instant(i) * 2 * second
		w := &Waiter{Session: q.Session(key(fmt.Sprint(i), "s"), now), Load: llm.Load{Requests: 1}}
		q.Insert(w, false)
		q.Serve(w, 1, now)
		q.Ended(w.Session, now)
	}
	if r.Known() > 35 || len(q.clients) != r.Known() || len(c.turns) != r.Known() {
		t.Errorf("%d sessions, %d clients, %d turns are known, want those of the last minute", r.Known(), len(q.clients), len(c.turns))
	}
}

func TestGhosts_GiveATurnBackOnce(t *testing.T) {
	q := New(NewContest(new(Roster)))
	var g Ghosts
	add(q, key("c", "s"), 1)
	for n := range 50 {
		add(q, key("d", "s"), uint64(2+n))
	}
	serve(40, q)
	first := add(q, key("c", "s"), 60)
	other := key("c", "t")
	g.Leave(7, first, 0)
	q.Remove(first, 0)
	if g.Claim(7, &Waiter{Session: q.Session(other, 0)}, 0) {
		t.Error("another session has taken the turn")
	}
	again := &Waiter{Session: q.Session(key("c", "s"), 0), Seq: 99, Load: llm.Load{Requests: 1}}
	if !g.Claim(7, again, second) || again.Seq != 60 {
		t.Errorf("seq = %d, want the old one", again.Seq)
	}
	if g.Claim(7, again, second) {
		t.Error("claimed twice")
	}
	g.Leave(8, first, 0)
	if g.Claim(8, again, 60*second) {
		t.Error("claimed after a minute")
	}
	for i := range uint64(2 * maxGhosts) {
		g.Leave(100+i, first, 0)
	}
	if len(g.byKey) > maxGhosts {
		t.Errorf("%d turns are kept, at most %d", len(g.byKey), maxGhosts)
	}
}
