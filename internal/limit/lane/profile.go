package lane

import (
	"fmt"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// A profile is how a provider charges and refills. Reserving and settling in
// the provider's own unit is what keeps a limit full and uncrossed; the wrong
// pair costs 429s or half of the limit.
type profile uint8

const (
	auto      profile = iota // begins as reserve and is moved by what the provider shows
	openai                   // at admission: max(cap, characters/4); never settled
	azure                    // at admission: prompt + cap, per fixed minute; requests judged by the second
	anthropic                // prompt + cap reserved, settled to the exact usage; cache reads are free
	postpaid                 // what was used; we reserve what we expect
	reserve                  // as anthropic, cache reads counted: right for both who reserve and who bill by use
	numProfiles
)

var profileNames = [numProfiles]string{"auto", "openai", "azure", "anthropic", "postpaid", "reserve"}

func (p profile) String() string { return profileNames[p] }

// CheckProfile returns an error unless name is auto, openai, azure, anthropic or
// postpaid, or empty, which is auto.
func CheckProfile(name string) error {
	if _, ok := profileNamed(name); !ok {
		return fmt.Errorf("%q is not one of auto, openai, azure, anthropic, postpaid", name)
	}
	return nil
}

// profileNamed reads a profile's name as users may write it; "" is auto.
func profileNamed(name string) (profile, bool) {
	if name == "" {
		return auto, true
	}
	for p, n := range profileNames[:reserve] {
		if n == name {
			return profile(p), true
		}
	}
	return auto, false
}

// refill is how p's limits per minute come back.
func (p profile) refill() Refill {
	if p == azure {
		return Sliding
	}
	return Continuous
}

// admit is the charge that the provider books when it accepts l, or that we set
// aside for what it will book. Of several requests it is the sum, or a little less
// where openai and azure take the larger of two figures for each.
func (p profile) admit(l llm.Load) llm.Vector {
	tokens, output := l.Input+l.Output, l.Output
	switch p {
	case openai:
		tokens = max(l.Guess, l.Capped)
	case azure:
		// It guesses the prompt when the request comes in, says its documentation,
		// and not how: the larger of both counts is safe.
		tokens, output = max(l.Input, l.Guess)+l.Reserve, l.Reserve
	case anthropic, reserve:
		tokens, output = l.Input+l.Reserve, l.Reserve
	}
	return vector(l.Requests, tokens, l.Input, output)
}

// booked is what a provider of p books in tokens when it accepts l. By use, that
// is nothing: admit then is what we set aside.
func (p profile) booked(l llm.Load) float64 {
	if p == postpaid {
		return 0
	}
	c := p.admit(l)
	return c[llm.Tokens]
}

// settle is the charge after the exact usage is known, of what admitted was
// booked for.
func (p profile) settle(admitted llm.Vector, u llm.Usage) llm.Vector {
	switch p {
	case openai, azure:
		return admitted
	case anthropic:
		u.Input = max(0, u.Input-u.Cached)
	}
	return Exact(u)
}

// Exact is a usage as a charge: what a session is held to have had, however the
// provider books it.
func Exact(u llm.Usage) llm.Vector {
	in, out := max(0, u.Input), max(0, u.Output)
	return vector(1, in+out, in, out)
}

func vector(requests, tokens, input, output int64) llm.Vector {
	n, t := float64(requests), float64(tokens)
	return llm.Vector{
		llm.Requests: n, llm.RequestsDay: n, llm.Concurrent: n,
		llm.Tokens: t, llm.TokensDay: t,
		llm.InputTokens: float64(input), llm.OutputTokens: float64(output),
	}
}
