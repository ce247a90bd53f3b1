package main

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestSolve(t *testing.T) {
	truth := []float64{1, 0, 0.25, 0.8}
	r := rand.New(rand.NewPCG(1, 2))
	var docs []doc
	for range 400 {
		var d doc
		for i, w := range truth {
			v := float64(r.IntN(200))
			d.features = append(d.features, entry{i, v})
			d.count += w * v
		}
		docs = append(docs, d)
	}
	prior := []float64{0.5, 0.5, 0.5, 0.5, 0.7}

	t.Run("finds the weights that made the counts", func(t *testing.T) {
		for i, got := range solve(docs, prior)[:4] {
			if math.Abs(got-truth[i]) > .01 {
				t.Errorf("weight %d is %.3f, want %.2f", i, got, truth[i])
			}
		}
	})
	t.Run("keeps the prior where the corpus is silent", func(t *testing.T) {
		if got := solve(docs, prior)[4]; got != 0.7 {
			t.Errorf("unused weight is %.3f, want its prior 0.7", got)
		}
	})
	t.Run("is not bent by a few odd texts", func(t *testing.T) {
		odd := append([]doc(nil), docs...)
		for i := range 20 {
			odd[i].count *= 3
		}
		for i, got := range solve(odd, prior)[:4] {
			if math.Abs(got-truth[i]) > .15 {
				t.Errorf("weight %d is %.3f, want about %.2f", i, got, truth[i])
			}
		}
	})
	t.Run("never turns negative", func(t *testing.T) {
		bent := append([]doc(nil), docs...)
		for i := range bent {
			bent[i].count = max(0, bent[i].count-0.5*bent[i].features[1].value)
		}
		for i, got := range solve(bent, prior) {
			if got < 0 {
				t.Errorf("weight %d is %.3f", i, got)
			}
		}
	})
}
