package llm

import (
	"math"
	"math/big"
	"math/bits"
	"strings"
)

// Money is an exact sum of money in femto-units (1e-15) of a currency: an unsigned
// integer of 128 bits, Hi*2^64 + Lo. The zero value is nothing. Sums that would not
// fit stay at the largest Money, some 3.4e23 units.
type Money struct{ Hi, Lo uint64 }

var mostMoney = Money{math.MaxUint64, math.MaxUint64}

// MoneyDecimals is how many decimals Money has.
const MoneyDecimals = 15

// Add returns m + o.
func (m Money) Add(o Money) Money {
	lo, carry := bits.Add64(m.Lo, o.Lo, 0)
	hi, carry := bits.Add64(m.Hi, o.Hi, carry)
	if carry != 0 {
		return mostMoney
	}
	return Money{hi, lo}
}

// Sub returns m − o, or nothing if o is more than m.
func (m Money) Sub(o Money) Money {
	lo, borrow := bits.Sub64(m.Lo, o.Lo, 0)
	hi, borrow := bits.Sub64(m.Hi, o.Hi, borrow)
	if borrow != 0 {
		return Money{}
	}
	return Money{hi, lo}
}

// MoneyOf returns n times each femto-units.
func MoneyOf(n, each uint64) Money {
	hi, lo := bits.Mul64(n, each)
	return Money{hi, lo}
}

// DivMod returns m divided by femto-units, and the rest. A quotient beyond 64 bits is the largest.
func (m Money) DivMod(by uint64) (quotient, rest uint64) {
	if m.Hi >= by {
		return math.MaxUint64, 0
	}
	return bits.Div64(m.Hi, m.Lo, by)
}

// Cmp returns -1, 0 or 1 as m is less than, equal to or more than o.
func (m Money) Cmp(o Money) int {
	switch {
	case m == o:
		return 0
	case m.Hi < o.Hi || m.Hi == o.Hi && m.Lo < o.Lo:
		return -1
	}
	return 1
}

// String writes the exact amount with at least two decimals, such as "0.00" or "1.25000015".
func (m Money) String() string {
	n := new(big.Int).Lsh(new(big.Int).SetUint64(m.Hi), 64)
	digits := n.Or(n, new(big.Int).SetUint64(m.Lo)).String()
	if short := MoneyDecimals + 1 - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	point := len(digits) - MoneyDecimals
	part := strings.TrimRight(digits[point:], "0")
	return digits[:point] + "." + part + strings.Repeat("0", max(0, 2-len(part)))
}
