package memory

import (
	"math/rand/v2"
	"sync"
	"testing"
)

func TestAccount_BoundsAllKindsTogether(t *testing.T) {
	a := NewAccount(100)
	request, answer, view := a.Hold(Requests), a.Hold(Answers), a.Hold(Views)
	for _, step := range []struct {
		of   *Hold
		n    int64
		want bool
	}{
		{&answer, 51, false}, // beyond its half
		{&answer, 50, true},
		{&answer, 1, false},
		{&view, 25, true},
		{&view, 1, false},
		{&request, 26, false}, // beyond what all hold
		{&request, 25, true},
		{&request, 1, false},
	} {
		if got := step.of.TryGrow(step.n); got != step.want {
			t.Errorf("%d more bytes of %s: %v", step.n, step.of.kind, got)
		}
	}
	answer.Release()
	if !request.TryGrow(50) || request.TryGrow(1) {
		t.Error("requests cannot fill what the others leave")
	}
	h := a.Held()
	if h.All != 100 || h.Peak != 100 || h.Of[Requests] != 75 || h.Of[Views] != 25 || h.Refused[Answers] != 2 || h.Refused[Requests] != 3 {
		t.Errorf("%+v", h)
	}
}

func TestHold_IsGivenBackOnce(t *testing.T) {
	a := NewAccount(100)
	one, other := a.Hold(Requests), a.Hold(Requests)
	if !one.TryGrow(60) || !other.TryGrow(40) {
		t.Fatal("no room")
	}
	one.Release()
	one.Release()
	if got := a.Held().All; got != 40 {
		t.Errorf("%d bytes are held", got)
	}
}

func TestHold_WhatMustBeHeldIsCounted(t *testing.T) {
	a := NewAccount(100)
	h := a.Hold(Answers)
	h.Resize(120)
	if got := a.Held().All; got != 120 {
		t.Errorf("%d bytes are held", got)
	}
	if h.TryGrow(1) || !h.TryResize(110) || h.Bytes() != 110 {
		t.Error("a hold beyond the bound grew, or could not shrink")
	}
}

func TestHold_OfNoAccount(t *testing.T) {
	var none *Hold
	var zero Hold
	if !none.TryGrow(1<<40) || !zero.TryGrow(1<<40) || none.Bytes() != 0 {
		t.Error("refused")
	}
	none.Release()
	zero.Release()
}

// TestAccount_NeverExceedsItsBound: whatever many holders do at once.
func TestAccount_NeverExceedsItsBound(t *testing.T) {
	a := NewAccount(1000)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			h := a.Hold(Kind(i % int(kinds)))
			defer h.Release()
			for range 5000 {
				h.TryResize(random.Int64N(600))
			}
		})
	}
	all.Wait()
	if h := a.Held(); h.Peak > 1000 || h.All != 0 || h.Of[Requests]+h.Of[Answers]+h.Of[Views] != 0 {
		t.Errorf("%+v", h)
	}
}

func BenchmarkHold(b *testing.B) {
	a := NewAccount(1 << 30)
	b.ReportAllocs()
	for b.Loop() {
		h := a.Hold(Answers)
		h.TryGrow(32 << 10)
		h.Release()
	}
}
