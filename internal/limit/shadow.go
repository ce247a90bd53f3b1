package limit

import (
	"math"
	"time"
)

// judgeSpan lies between the headers that ways of charging are told apart by:
// over seconds, requests that overtake each other weigh little.
const judgeSpan = 5 * time.Second

// surpriseMax bounds what one header may say against a ledger: so many times
// what it was off by until now, and a second's refill. When the machine was
// suspended the provider refilled and our clock stood still, and the one header
// that tells of it makes the true ledger look worse than a wrong one. A ledger
// that is wrong from now on is found out after a few headers all the same.
const surpriseMax = 4

// The shadow ledgers: what each way of charging would have booked. Under auto,
// the one that explains the provider's headers best is believed.
const (
	shadowReserve = iota
	shadowPostpaid
	shadowOpenAI
	numShadows
)

var shadowProfiles = [numShadows]profile{reserve, postpaid, openai}

type shadows struct {
	spent [numShadows]float64
	err   [numShadows]float64 // tokens by which each was off between two headers, averaged
	n     int
	last  sample
	at    [numShadows]float64
}

func (s *shadows) book(d Demand, sign float64) {
	for i, p := range shadowProfiles {
		s.spent[i] += sign * float64(p.booked(d))
	}
}

func (s *shadows) settle(d Demand, u Usage) {
	for i, p := range shadowProfiles {
		s.spent[i] -= float64(p.booked(d) - p.settle(p.admit(d), u).tokens)
	}
}

// judge scores the ledgers by one more header, and names the profile to change
// to when one is clearly better than the present.
func (s *shadows) judge(gr *grant, remaining float64, b *bucket, present profile) (profile, bool) {
	next := sample{sent: gr.sentAt, remaining: remaining, ok: true}
	last, at := s.last, s.at
	if last.ok && next.sent.sub(last.sent) < judgeSpan {
		return 0, false
	}
	s.last, s.at = next, gr.shadow
	if !last.ok || last.remaining >= 0.95*b.limit || remaining >= 0.95*b.limit {
		return 0, false
	}
	refill := b.rate * next.sent.sub(last.sent).Seconds()
	best, now := 0, -1
	s.n++
	for i, p := range shadowProfiles {
		off := math.Abs(last.remaining + refill - (gr.shadow[i] - at[i]) - remaining)
		if s.n > 1 { // one surprise is no evidence, several are: see surpriseMax
			off = min(off, surpriseMax*s.err[i]+b.rate)
		}
		s.err[i] += max(0.1, 1/float64(s.n)) * (off - s.err[i])
		if s.err[i] < s.err[best] {
			best = i
		}
		if p == present {
			now = i
		}
	}
	if s.n < 4 || now < 0 || s.err[best] > 0.6*s.err[now] {
		return 0, false
	}
	return shadowProfiles[best], true
}
