package price

import (
	"errors"
	"math"
	"math/big"
	"math/bits"
	"strings"
)

// An Amount is a sum of money in femto-units (1e-15) of a currency: an unsigned integer
// of 128 bits, Hi*2^64 + Lo. The zero value is nothing. Sums that would not fit stay at the largest
// Amount, some 3.4e23 units.
type Amount struct{ Hi, Lo uint64 }

var most = Amount{math.MaxUint64, math.MaxUint64}

// decimals is how many decimals an Amount has.
const decimals = 15

// What ParseRate and ParseAmount accept.
var (
	errDecimal = errors.New(`want a decimal with up to nine digits on each side, such as "2.50"`)
	errAmount  = errors.New(`want a decimal such as "5.00"`)
)

// ParseAmount reads a decimal such as "5.00": up to twenty digits before the point and up to fifteen
// behind it. It reads what [Amount.String] writes.
func ParseAmount(text string) (Amount, error) {
	whole, part, pointed := strings.Cut(text, ".")
	if whole == "" || len(whole) > 20 || len(part) > decimals || pointed && part == "" ||
		strings.ContainsFunc(whole+part, func(r rune) bool { return r < '0' || r > '9' }) {
		return Amount{}, errAmount
	}
	n, _ := new(big.Int).SetString(whole+part+strings.Repeat("0", decimals-len(part)), 10)
	return Amount{new(big.Int).Rsh(n, 64).Uint64(), new(big.Int).And(n, new(big.Int).SetUint64(math.MaxUint64)).Uint64()}, nil
}

// parseNano reads a decimal as a count of 1e-9. The largest, 999999999.999999999, fits.
func parseNano(text string) (uint64, error) {
	whole, part, pointed := strings.Cut(text, ".")
	if whole == "" || len(whole) > 9 || len(part) > 9 || pointed && part == "" {
		return 0, errDecimal
	}
	n := uint64(0)
	for _, c := range []byte(whole + part + strings.Repeat("0", 9-len(part))) {
		if c < '0' || c > '9' {
			return 0, errDecimal
		}
		n = n*10 + uint64(c-'0')
	}
	return n, nil
}

// Add returns a + b.
func (a Amount) Add(b Amount) Amount {
	lo, carry := bits.Add64(a.Lo, b.Lo, 0)
	hi, carry := bits.Add64(a.Hi, b.Hi, carry)
	if carry != 0 {
		return most
	}
	return Amount{hi, lo}
}

// Cmp returns -1, 0 or 1 as a is less than, equal to or more than b.
func (a Amount) Cmp(b Amount) int {
	switch {
	case a == b:
		return 0
	case a.Hi < b.Hi || a.Hi == b.Hi && a.Lo < b.Lo:
		return -1
	}
	return 1
}

// String writes the exact amount with at least two decimals, such as "0.00" or "1.25000015".
func (a Amount) String() string {
	n := new(big.Int).Lsh(new(big.Int).SetUint64(a.Hi), 64)
	digits := n.Or(n, new(big.Int).SetUint64(a.Lo)).String()
	if short := decimals + 1 - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	point := len(digits) - decimals
	part := strings.TrimRight(digits[point:], "0")
	return digits[:point] + "." + part + strings.Repeat("0", max(0, 2-len(part)))
}
