package lane

import (
	"math"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
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

// The shadow ledgers: what each way of charging would have booked. Under auto, the
// one that explains the provider's headers best is believed. The first three are
// guessed; azure and anthropic are believed only where a dialect shows them, and
// kept to be doubted: a hint may be wrong.
const (
	guessed    = 3
	numShadows = 5
)

var shadowProfiles = [numShadows]profile{reserve, postpaid, openai, azure, anthropic}

type shadows struct {
	spent [numShadows]float64
	err   [numShadows]float64 // tokens by which each was off between two headers, averaged
	n     int
	last  Sample
	at    [numShadows]float64
}

func (s *shadows) book(l llm.Load, sign float64) {
	for i, p := range shadowProfiles {
		s.spent[i] += sign * p.booked(l)
	}
}

func (s *shadows) settle(l llm.Load, u llm.Usage) {
	for i, p := range shadowProfiles {
		s.spent[i] -= p.booked(l) - p.settle(p.admit(l), u)[llm.Tokens]
	}
}

// judge scores the ledgers by one more header of a limit with the given rate a
// second, and names the profile to change to when one is clearly better than the
// present.
func (s *shadows) judge(t *Ticket, remaining, limit, rate float64, present profile) (profile, bool) {
	next := Sample{Sent: t.sentAt, Remaining: remaining, ok: true}
	last, at := s.last, s.at
	if last.ok && next.Sent.Sub(last.Sent) < judgeSpan {
		return 0, false
	}
	s.last, s.at = next, t.shadow
	if !last.ok || last.Remaining >= 0.95*limit || remaining >= 0.95*limit {
		return 0, false
	}
	refill := rate * next.Sent.Sub(last.Sent).Seconds()
	best, now := 0, -1
	s.n++
	for i, p := range shadowProfiles {
		off := math.Abs(last.Remaining + refill - (t.shadow[i] - at[i]) - remaining)
		if s.n > 1 { // one surprise is no evidence, several are: see surpriseMax
			off = min(off, surpriseMax*s.err[i]+rate)
		}
		s.err[i] += max(0.1, 1/float64(s.n)) * (off - s.err[i])
		if i < guessed && s.err[i] < s.err[best] {
			best = i
		}
		if p == present {
			now = i
		}
	}
	enough := 4
	if now >= guessed { // a dialect is evidence too
		enough = 8
	}
	if s.n < enough || now < 0 || s.err[now]-s.err[best] < max(1, 0.4*s.err[now]) {
		return 0, false
	}
	return shadowProfiles[best], true
}
