package limit

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

var strange = llm.Signal{Said: "E_FLUX: the flux is saturated"}

// try sends a request again and again, as the proxy does, until an answer is to be
// handed on. refuse says whether the provider refuses it now.
func try(t *testing.T, l *Limiter, refuse func() bool) (sent []time.Duration, passed bool, err error) {
	began := time.Now()
	le, err := l.Acquire(t.Context(), request("a"))
	if err != nil {
		return nil, false, err
	}
	defer le.Release()
	for {
		le.Sent()
		sent = append(sent, time.Since(began))
		if !refuse() {
			le.Started()
			return sent, false, nil
		}
		le.Quote(strange.Said)
		if le.Puzzled() {
			le.Observe(llm.Signal{})
			return sent, true, nil
		}
		if err := le.Throttled(t.Context(), strange); err != nil {
			return sent, false, err
		}
	}
}

func always() bool { return true }

func TestPuzzle_StrangeWordsAreTriedForAMinuteAndMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Learn: true})
		defer l.Close()
		sent, passed, err := try(t, l, always)
		last := sent[len(sent)-1]
		if err != nil || !passed || len(sent) < 5 || len(sent) > 9 || last < 75*time.Second || last > 90*time.Second {
			t.Fatalf("sent at %v, passed on %v, %v", sent, passed, err)
		}
		// Who comes now is told at once, until an answer proves the contrary.
		if sent, passed, _ := try(t, l, always); !passed || len(sent) != 1 || sent[0] != 0 {
			t.Errorf("the next one was sent at %v, passed on %v", sent, passed)
		}
		if sent, _, _ := try(t, l, func() bool { return false }); len(sent) != 1 {
			t.Errorf("an answer after %v", sent)
		}
		if sent, passed, _ := try(t, l, always); !passed || len(sent) < 5 {
			t.Errorf("after an answer it was sent at %v", sent)
		}
		// What was true long ago need not be.
		time.Sleep(puzzleForgotten)
		if sent, _, _ := try(t, l, always); len(sent) < 5 {
			t.Errorf("after a quarter of an hour it was sent at %v", sent)
		}
	})
}

const puzzleForgotten = 15 * time.Minute

func TestPuzzle_AnAnswerBetweenBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Learn: true, MaxWait: 10 * time.Minute, MaxAttempts: 100})
		defer l.Close()
		slow := mustAcquire(t, l, request("b"))
		slow.Sent()
		began, n := time.Now(), 0
		sent, passed, err := try(t, l, func() bool {
			n++
			if n == 6 { // another request of the model is answered
				slow.Started()
				slow.Release()
			}
			return true
		})
		if err != nil || !passed || time.Since(began) < 31*time.Second+75*time.Second {
			t.Errorf("given up after %v, at %v, %v", time.Since(began), sent, err)
		}
	})
}

// TestPuzzle_AStormIsOneTry: what is refused together proves no more than one.
func TestPuzzle_AStormIsOneTry(t *testing.T) {
	c := newCore(Config{Learn: true}.withDefaults(), 0)
	answered(c, "m", 0)
	var flight []*Lease
	for range 20 {
		flight = append(flight, take(t, c, ask("m", "s"), 0))
	}
	for i, le := range flight {
		at := second + llm.Instant(i)*10*second // they come back over minutes
		if le.held.ticket.Puzzled(at) {
			t.Fatalf("given up after one try, at %v", time.Duration(at))
		}
	}
}

func TestPuzzle_OthersWaitNoLongerThanAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Learn: true})
		defer l.Close()
		done := make(chan []time.Duration)
		for range 5 {
			go func() {
				sent, _, err := try(t, l, always)
				if err != nil {
					t.Error(err)
				}
				done <- sent
			}()
		}
		for range 5 {
			if sent := <-done; sent[len(sent)-1] > 2*time.Minute {
				t.Errorf("told at %v", sent[len(sent)-1])
			}
		}
	})
}

func TestPuzzle_ARefusalOfOursQuotesTheProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Learn: true, MaxWait: 20 * time.Second})
		defer l.Close()
		_, passed, err := try(t, l, always)
		var rejected *Rejected
		if !errors.As(err, &rejected) || passed || rejected.Said != strange.Said || !strings.Contains(err.Error(), "the flux is saturated") {
			t.Errorf("passed on %v, %v", passed, err)
		}
		// Whose turn never came is told as well.
		r := request("b")
		r.MaxWait = time.Millisecond
		if _, err := l.Acquire(t.Context(), r); !errors.As(err, &rejected) || rejected.Said != strange.Said {
			t.Errorf("the next one: %v", err)
		}
		time.Sleep(puzzleForgotten)
		r.MaxWait = 0
		if le, err := l.Acquire(t.Context(), r); err != nil {
			t.Errorf("later: %v", err)
		} else {
			le.Release()
		}
	})
}
