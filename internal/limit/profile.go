package limit

// A charge is what one request costs in tokens of each kind. Requests and
// places are always one.
type charge struct{ tokens, input, output int64 }

func (c *charge) add(o charge, sign int64) {
	c.tokens += sign * o.tokens
	c.input += sign * o.input
	c.output += sign * o.output
}

// amount is the charge in dimension d, for n requests.
func (c charge) amount(d dimension, n int64) float64 {
	switch d {
	case dimTokens, dimTokensDay:
		return float64(c.tokens)
	case dimInput:
		return float64(c.input)
	case dimOutput:
		return float64(c.output)
	}
	return float64(n)
}

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
func (p profile) refill() refill {
	if p == azure {
		return sliding
	}
	return continuous
}

// admit is the charge that the provider books when it accepts d, or that we
// set aside for what it will book.
func (p profile) admit(d Demand) charge {
	expected := max(0, d.Output)
	if d.MaxOutput > 0 {
		expected = min(expected, d.MaxOutput)
	}
	limit := d.MaxOutput
	if limit <= 0 {
		limit = expected
	}
	input := max(0, d.Input)
	c := charge{tokens: input + expected, input: input, output: expected}
	switch p {
	case openai:
		guess := (d.Chars + 3) / 4
		if d.Chars <= 0 {
			guess = input
		}
		c.tokens = max(guess, d.MaxOutput)
	case azure:
		// It guesses the prompt when the request comes in, says its documentation,
		// and not how: the larger of both counts is safe.
		c.tokens, c.output = max(input, (d.Chars+3)/4)+limit, limit
	case anthropic, reserve:
		c.tokens, c.output = input+limit, limit
	}
	return c
}

// booked is what a provider of p books in tokens when it accepts d. By use, that
// is nothing: admit then is what we set aside.
func (p profile) booked(d Demand) int64 {
	if p == postpaid {
		return 0
	}
	return p.admit(d).tokens
}

// settle is the charge after the exact usage is known, of what admitted was
// booked for.
func (p profile) settle(admitted charge, u Usage) charge {
	switch p {
	case openai, azure:
		return admitted
	case anthropic:
		u.Input = max(0, u.Input-u.Cached)
	}
	return exact(u)
}

// exact is the usage as a charge: what the session is held to have had, however
// the provider books it.
func exact(u Usage) charge {
	in, out := max(0, u.Input), max(0, u.Output)
	return charge{tokens: in + out, input: in, output: out}
}
