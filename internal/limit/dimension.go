package limit

import "math/bits"

// A dimension is one kind of limit. A request is charged in all of them at
// once, or in none.
type dimension int

const (
	dimRequests dimension = iota
	dimTokens
	dimInput
	dimOutput
	dimRequestsDay
	dimTokensDay
	dimConcurrent
	numDimensions
)

// dimensions is a set of them. Most limiters have two limits of the seven, and
// a request passes all of them six times.
type dimensions uint8

// A shape is what the buckets of one meters have in common.
type shape struct {
	on      dimensions // those that hold
	version uint64     // grows whenever a limit changes
	passed  dimensions // where the last tryTake used up a pass
}

// set notes that bucket d has got another limit, or has none any more.
func (s *shape) set(d dimension, on bool) {
	if s == nil { // a bucket that stands alone
		return
	}
	s.version++
	s.on &^= 1 << d
	if on {
		s.on |= 1 << d
	}
}

// next takes the least dimension out of a set that is not empty.
func (s *dimensions) next() dimension {
	d := dimension(bits.TrailingZeros8(uint8(*s)))
	*s &= *s - 1
	return d
}

var dimensionNames = [numDimensions]string{
	"requests_per_minute",
	"tokens_per_minute",
	"input_tokens_per_minute",
	"output_tokens_per_minute",
	"requests_per_day",
	"tokens_per_day",
	"concurrent",
}

func (d dimension) String() string {
	if d < 0 || d >= numDimensions {
		return ""
	}
	return dimensionNames[d]
}

// dimensionOf reads Signal.Dimension.
func dimensionOf(name string) (dimension, bool) {
	switch name {
	case "requests":
		return dimRequests, true
	case "tokens":
		return dimTokens, true
	case "input_tokens":
		return dimInput, true
	case "output_tokens":
		return dimOutput, true
	case "requests_day":
		return dimRequestsDay, true
	case "tokens_day":
		return dimTokensDay, true
	}
	return -1, false
}
