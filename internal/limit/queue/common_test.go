package queue

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// checkCommon holds the books of the common order against all queues of a roster.
func checkCommon(t *rapid.T, r *Roster, queues []*Queue) {
	flows := map[*member]int{}
	sums, shares := [numBands]llm.Load{}, [numBands]float64{}
	for _, q := range queues {
		for i, band := range q.bands {
			sums[i].Add(band.Sum, 1)
		}
		for k, client := range q.clients {
			if r.common.clients[k] != client.all.member {
				t.Fatalf("client %v has another member than the roster knows", k)
			}
			if flows[client.all.member]++; flows[client.all.member] == 1 {
				shares[k.band] += client.all.member.weight
			}
			checkRank(t, client)
			for name, s := range client.sessions {
				if client.all.member.sessions[name] != s.all.member {
					t.Fatalf("session %s of %v has another member than its client knows", name, k)
				}
				flows[s.all.member]++
				if s.index >= 0 && s.all.place == 0 {
					t.Fatalf("session %s of %v competes and is nowhere", name, k)
				}
			}
			if client.index >= 0 && client.all.place == 0 {
				t.Fatalf("client %v competes and is nowhere", k)
			}
		}
		for _, band := range q.bands {
			checkRank(t, band)
		}
	}
	for i, band := range r.common.bands {
		if band.sum != sums[i] || math.Abs(band.shares-shares[i]) > 1e-9 {
			t.Fatalf("band %d: sum %+v of %+v, shares %v of %v", i, band.sum, sums[i], band.shares, shares[i])
		}
	}
	for k, client := range r.common.clients {
		if flows[client] != client.owners {
			t.Fatalf("client %v is of %d queues, %d know it", k, client.owners, flows[client])
		}
		for name, s := range client.sessions {
			if flows[s] != s.owners {
				t.Fatalf("session %s of %v is of %d queues, %d know it", name, k, s.owners, flows[s])
			}
		}
	}
}

func checkRank(t *rapid.T, f *Flow) {
	for i, e := range f.all.rank {
		if e.flow.all.place != i+1 || e.flow.Parent != f || i > 0 && f.all.rank[(i-1)/2].tag > e.tag {
			t.Fatalf("rank %d of %s: %s, which has place %d", i, f.Name, e.flow.Name, e.flow.all.place)
		}
	}
}

// TestCommon_Histories: whatever comes, goes, moves, is held, paused and let go, the books
// of the common order are right, and its head is the least of all who compete.
func TestCommon_Histories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := new(Roster)
		contests := []*Contest{NewContest(r), NewContest(r)}
		queues := []*Queue{New(contests[0]), New(contests[0]), New(contests[1])}
		waiting := map[*Queue][]*Waiter{}
		served := []*Waiter{}
		seq, now := uint64(0), llm.Instant(0)
		takeOut := func(q *Queue, w *Waiter) {
			waiting[q] = slices.DeleteFunc(waiting[q], func(other *Waiter) bool { return other == w })
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			q := rapid.SampledFrom(queues).Draw(t, "queue")
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0, 1, 2:
				seq++
				k := Key{
					Band: rapid.IntRange(0, 2).Draw(t, "band"), Client: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "client"),
					Session: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "session"), ClientWeight: 1, Weight: 1,
				}
				w := &Waiter{Session: q.Session(k, now), Seq: seq, Load: llm.Load{Requests: 1, Input: int64(seq)}}
				q.Insert(w, rapid.Bool().Draw(t, "back"))
				r.Count(w)
				waiting[q] = append(waiting[q], w)
			case 3, 4:
				w := q.CommonHead(one)
				competing := 0
				for _, b := range q.bands {
					competing += len(b.ready)
				}
				if (w != nil) != (competing > 0) {
					t.Fatalf("head %v of %d clients that compete", w, competing)
				}
				if w == nil {
					break
				}
				for e := range slices.Values(w.Session.Parent.Parent.ready) {
					if e.flow.catchUp(); e.flow.all.member.tag < w.Session.Parent.all.member.tag {
						t.Fatalf("client %s goes before %s, which had less", w.Session.Parent.Name, e.flow.Name)
					}
				}
				for e := range slices.Values(w.Session.Parent.ready) {
					if e.flow.catchUp(); e.flow.all.member.tag < w.Session.all.member.tag-1e-9 {
						t.Fatalf("session %s goes before %s, which had less", w.Session.Name, e.flow.Name)
					}
				}
				r.Book(w.Session, rapid.Float64Range(0, 9).Draw(t, "cost"))
				q.Take(w, now)
				takeOut(q, w)
				served = append(served, w)
			case 5:
				if n := len(waiting[q]); n > 0 {
					w := waiting[q][rapid.IntRange(0, n-1).Draw(t, "leaves")]
					q.Remove(w, now)
					takeOut(q, w)
				}
			case 6:
				if n := len(waiting[q]); n > 0 {
					r.Hold(waiting[q][rapid.IntRange(0, n-1).Draw(t, "held")].Session, now+second)
				}
			case 7:
				now += second
				r.Release(now)
			case 8:
				q.Ready(rapid.Bool().Draw(t, "ready"))
				if rapid.Bool().Draw(t, "rest") {
					r.Rest()
				}
			case 9:
				if rapid.Bool().Draw(t, "moves") {
					q.Join(rapid.SampledFrom(contests).Draw(t, "to"))
				} else if len(served) > 0 {
					served[0].Session.queue.Ended(served[0].Session, now)
					served = served[1:]
				}
			}
			checkCommon(t, r, queues)
		}
	})
}

// TestCommon_ForgetsWhoIsGone: no member outlives the flows that it is of.
func TestCommon_ForgetsWhoIsGone(t *testing.T) {
	r := new(Roster)
	for i := range 100 {
		q := New(NewContest(r))
		for _, name := range []string{"a", "b"} {
			w := add(q, key(name, "s"), uint64(i))
			q.Serve(q.CommonHead(one), 1, 0)
			q.Ended(w.Session, 0)
		}
		q.Close()
	}
	if n := len(r.common.clients); n != 0 {
		t.Errorf("%d clients are left of queues that are closed", n)
	}
}
